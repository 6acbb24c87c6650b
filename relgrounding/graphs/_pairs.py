"""All ordered pairs of nodes within each item of a batch, and the graph of those that are joined.

Pairs are the cells of a few padded matrices (item, destination, source). Read row by row, that is the order of a
structure's edges, so nothing has to be sorted; transposed, it is the order by source.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64, Shaped, UInt8
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs._dgl_graphs import heterograph
from relgrounding.graphs._items import group_sizes, offsets, padded_rows, row_blocks
from relgrounding.graphs._structure import GraphStructure

# Pairs that a rule is evaluated at together, so that its intermediate results stay in the processor's cache.
CHUNK = 20000
# Pairs that are made into edges together, which limits the memory for intermediate results.
CELLS = 2**20


@dataclass(frozen=True)
class Pairs:
    """The pairs of consecutive items.

    Args:
        items: these items.
        nodes: (items, longest) number through the batch of each node; padding repeats some node.
        filled: (items, longest) False for padding; None without padding.
        number: (items, longest, longest) 0 where source (last) -> destination is no edge, else its type + 1.
    """

    items: slice
    nodes: Int64[Tensor, "items longest"]
    filled: Bool[Tensor, "items longest"] | None
    number: UInt8[Tensor, "items longest longest"]

    def unpadded(self, values: Shaped[Tensor, "items longest"]) -> Shaped[Tensor, " nodes"]:
        """The values of the nodes."""
        return values.flatten() if self.filled is None else values.masked_select(self.filled)


def evaluate(
    function: Callable[..., Tensor],
    counts: Int64[Tensor, " items"],
    nodes: Shaped[Tensor, "columns nodes"],
    items: Shaped[Tensor, " items"],
    diagonal: int = 0,
) -> list[Pairs]:
    """``function(source columns, destination columns, item value)`` at every pair.

    Args:
        function: elementwise, to bytes, for arguments that broadcast against each other.
        counts: (B,) nodes of each item.
        nodes: (columns, N) values of the nodes.
        items: (B,) values of the items.
        diagonal: the number of pairs of a node with itself.
    """
    sizes = counts.tolist()
    result, first = [], 0
    for group in group_sizes(sizes, CELLS):
        own = nodes[:, first : first + sum(sizes[group])]
        if not own.shape[1]:
            continue
        rows, filled = padded_rows(sizes[group], counts.device)
        columns = own.unflatten(1, rows.shape) if filled is None else own[:, rows]
        number = _fill(function, columns, items[group, None, None])
        number.diagonal(dim1=1, dim2=2).fill_(diagonal)
        if filled is not None:
            number *= filled[:, :, None] & filled[:, None, :]
        result.append(Pairs(group, rows + first, filled, number))
        first += own.shape[1]
    return result


def _fill(function: Callable[..., Tensor], columns: Tensor, items: Tensor) -> UInt8[Tensor, "items longest longest"]:
    longest = columns.shape[2]
    number = torch.empty(len(items), longest, longest, dtype=torch.uint8, device=columns.device)
    step = max(1, CHUNK // max(1, longest**2))
    for first in range(0, len(items), step):
        own = slice(first, first + step)
        part = columns[:, own]
        for rows in row_blocks(part.shape[1], longest, CHUNK):
            number[own, rows] = function(part[:, :, None], part[:, :, rows, None], items[own])
    return number


def _forward(group: Pairs, kept: Bool[Tensor, "items longest longest"]) -> tuple[Tensor, Tensor, Tensor]:
    """In-degree of each node; source and type of each edge."""
    sources = group.nodes[:, None].expand(kept.shape).masked_select(kept)
    return group.unpadded(kept.sum(2)), sources, group.number.masked_select(kept).long() - 1


def _backward(group: Pairs, kept: Bool[Tensor, "items longest longest"], first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Out-degree of each node; destination and number of each edge, counted from `first`, in the order by source."""
    turned = kept.mT
    edges = (kept.flatten().cumsum(0) + (first - 1)).view(kept.shape)
    # What is the source at a pair is the destination at the transposed one.
    destinations = group.nodes[:, None].expand(kept.shape).masked_select(turned)
    return group.unpadded(kept.sum(1)), destinations, edges.mT.masked_select(turned)


def _concatenated(
    parts: list[tuple[Tensor, Tensor, Tensor]], none: Int64[Tensor, " zero"]
) -> tuple[Tensor, Tensor, Tensor]:
    """The columns of all groups."""
    columns = zip(*(parts or [(none, none, none)]), strict=True)
    first, second, third = (column[0] if len(column) == 1 else torch.cat(column) for column in columns)
    return first, second, third


def structure_of_pairs(
    pairs: list[Pairs], counts: Int64[Tensor, " items"], edge_types: tuple[str, ...]
) -> GraphStructure:
    """The edges whose number is not 0; their type is ``number - 1``."""
    forward, backward, first = [], [], 0
    for group in pairs:
        kept = group.number != 0
        forward.append(_forward(group, kept))
        backward.append(_backward(group, kept, first))
        first += len(forward[-1][1])
    in_degree, sources, etype = _concatenated(forward, counts[:0])
    out_degree, destinations, out_edges = _concatenated(backward, counts[:0])
    return GraphStructure(
        indptr=offsets(in_degree),
        indices=sources,
        etype=etype,
        edge_types=edge_types,
        batch_num_nodes=counts,
        out_indptr=offsets(out_degree),
        out_indices=destinations,
        out_edges=out_edges,
    )


def graph_of_pairs(pairs: list[Pairs], counts: Int64[Tensor, " items"], edge_types: tuple[str, ...]) -> dgl.DGLGraph:
    """``structure_of_pairs(...).to_dgl()`` without the structure, which takes longer to make than the graph."""
    cells, parts = torch.zeros_like(counts), []
    for group in pairs:
        shape = group.number.shape
        cells[group.items] = shape[1] ** 2
        sources, destinations = group.nodes[:, None].expand(shape), group.nodes[:, :, None].expand(shape)
        parts.append((group.number.flatten(), sources.flatten(), destinations.flatten()))
    number, sources, destinations = _concatenated(parts, counts[:0])
    item_ends = cells.cumsum(0)
    joined = number.nonzero().flatten()
    if 2 * len(joined) < len(number):
        # Sorting all pairs by type would take longer than picking the few that are joined.
        number, sources, destinations = number[joined], sources[joined], destinations[joined]
        item_ends = torch.searchsorted(joined, item_ends)
    return heterograph(number, sources, destinations, item_ends, edge_types, counts)
