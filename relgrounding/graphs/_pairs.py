"""All ordered pairs of nodes within each item of a batch, and the graph of those that are kept.

Pairs are sorted by item, destination, source. That is the order of a structure's edges, so nothing has to be sorted;
with source and destination exchanged it is the order of the transpose.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs._dgl_graphs import assemble
from relgrounding.graphs._ragged import offsets, ragged_arange
from relgrounding.graphs._structure import GraphStructure

CHUNK = 20000


class Pairs:
    """The P = sum of ``counts ** 2`` ordered pairs, a node with itself included.

    Args:
        counts: (B,) nodes of each item.
    """

    def __init__(self, counts: Int64[Tensor, " items"]) -> None:
        self.counts = counts
        sizes = counts.tolist()
        self.nodes = sum(sizes)
        self.longest = max(sizes)
        self.total = sum(size * size for size in sizes)
        # Items of one size are plain arrays (B, T, T): most steps below are then views.
        self.uniform = min(sizes) == self.longest
        self._block = (len(sizes), self.longest, self.longest)

    @cached_property
    def sources(self) -> Int64[Tensor, " pairs"]:
        """(P,) node numbers through the batch."""
        if self.uniform:
            return self._all_nodes.view(len(self.counts), 1, self.longest).expand(self._block).reshape(-1)
        return ragged_arange(self._first_node, self._row_length)

    @cached_property
    def destinations(self) -> Int64[Tensor, " pairs"]:
        """(P,) node numbers through the batch, ascending."""
        if self.uniform:
            return self._all_nodes.view(len(self.counts), self.longest, 1).expand(self._block).reshape(-1)
        return torch.repeat_interleave(self._row_length, output_size=self.total)

    @cached_property
    def rows(self) -> Int64[Tensor, " nodes_plus_one"]:
        """(N + 1,) the pairs with destination i are ``rows[i] : rows[i + 1]``."""
        return offsets(self._row_length)

    @cached_property
    def _all_nodes(self) -> Tensor:
        return torch.arange(self.nodes, device=self.counts.device)

    @cached_property
    def _row_length(self) -> Tensor:
        return torch.repeat_interleave(self.counts, self.counts, output_size=self.nodes)

    @cached_property
    def _first_node(self) -> Tensor:
        return torch.repeat_interleave(self.counts.cumsum(0) - self.counts, self.counts, output_size=self.nodes)

    @cached_property
    def _turned(self) -> Tensor:
        """(P,) position of the pair with source and destination exchanged: pair (d, s) is rows[d] + s - first node."""
        shift = torch.repeat_interleave(self._all_nodes - self._first_node, self._row_length, output_size=self.total)
        return self.rows[self.sources] + shift

    def transpose(self, values: Shaped[Tensor, " pairs"]) -> Shaped[Tensor, " pairs"]:
        """The value of the exchanged pair at every pair."""
        if self.uniform:
            return values.view(self._block).transpose(1, 2).reshape(-1)
        return values.index_select(0, self._turned)

    def evaluate(
        self,
        function: Callable[..., Tensor],
        nodes: Shaped[Tensor, "columns nodes"],
        items: Shaped[Tensor, " items"],
        diagonal: int = 0,
    ) -> UInt8[Tensor, " pairs"]:
        """``function(source columns, destination columns, item value)`` at every pair.

        Args:
            function: elementwise, to bytes, for arguments that broadcast against each other.
            nodes: (columns, N) values of the nodes.
            items: (B,) values of the items.
            diagonal: the value at pairs of a node with itself.
        """
        if self.uniform:
            block = nodes.view(len(nodes), len(self.counts), self.longest)
            # A few items at a time, so that what is in between stays in the processor's cache.
            step = max(1, CHUNK // max(1, self.longest**2))
            parts = zip(block.split(step, 1), items[:, None, None].split(step), strict=True)
            done = [function(part[:, :, None, :], part[:, :, :, None], values) for part, values in parts]
            result = torch.cat(done).expand(self._block).reshape(-1)
        elif self.total * 2 >= self._block[0] * self.longest**2:
            result = self._evaluate_padded(function, nodes, items)
        else:
            # One long item among short ones: padding all of them to its length would cost more than these copies.
            item = torch.repeat_interleave(items, self.counts.square(), output_size=self.total)
            result = function(nodes[:, self.sources], nodes[:, self.destinations], item)
        result[self.rows[:-1] + self._all_nodes - self._first_node] = diagonal
        return result

    def _evaluate_padded(self, function: Callable[..., Tensor], nodes: Tensor, items: Tensor) -> Tensor:
        within = torch.arange(self.longest, device=self.counts.device)
        filled = within < self.counts[:, None]
        place = (offsets(self.counts)[:-1, None] + within).clamp_max(self.nodes - 1)
        block = nodes[:, place]
        result = function(block[:, :, None, :], block[:, :, :, None], items[:, None, None])
        return result.expand(self._block).masked_select(filled[:, :, None] & filled[:, None, :])


def structure_of_pairs(pairs: Pairs, number: UInt8[Tensor, " pairs"], edge_types: tuple[str, ...]) -> GraphStructure:
    """The edges whose number is not 0; their type is ``number - 1``."""
    kept = number != 0
    turned = pairs.transpose(kept)
    edges_before = offsets(kept)
    return GraphStructure(
        indptr=edges_before[pairs.rows],
        indices=pairs.sources.masked_select(kept),
        etype=number.masked_select(kept).long() - 1,
        edge_types=edge_types,
        batch_num_nodes=pairs.counts,
        out_indptr=offsets(turned)[pairs.rows],
        # What is the source in the forward order is the destination at an exchanged pair.
        out_indices=pairs.sources.masked_select(turned),
        out_edges=pairs.transpose(edges_before[:-1]).masked_select(turned),
    )


def graph_of_pairs(pairs: Pairs, number: UInt8[Tensor, " pairs"], edge_types: tuple[str, ...]) -> dgl.DGLGraph:
    """``structure_of_pairs(...).to_dgl()`` without the structure, which takes longer to make than the graph."""
    ends = pairs.counts.square().cumsum(0)
    return assemble(number, 1, pairs.sources, pairs.destinations, ends, edge_types, pairs.counts)
