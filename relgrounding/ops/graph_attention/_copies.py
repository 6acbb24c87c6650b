"""A copy of a graph for each head, one after another, so that one call works on the edges of all heads.

Within a copy a head's features are contiguous, which keeps more of them in the cache than interleaved heads would.
Nothing of a copy outlives a call: node numbers are cheaper to compute than to keep.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from relgrounding.graphs import GraphStructure


@dataclass(frozen=True)
class Copies:
    """Some heads of consecutive items.

    Args:
        structure: of the whole batch.
        nodes: the items' nodes.
        edges: the items' edges.
        heads: which heads.
        span: of these heads' edges in an array of all pieces, one piece after another.
        memory: buffers for node numbers, shared by all pieces: allocating them costs more than filling them.
    """

    structure: GraphStructure
    nodes: slice
    edges: slice
    heads: slice
    span: slice
    memory: dict[str, Tensor]

    @property
    def count(self) -> int:
        """Number of copies."""
        return self.heads.stop - self.heads.start

    @property
    def num_nodes(self) -> int:
        """Number of nodes of each copy."""
        return self.nodes.stop - self.nodes.start

    @property
    def num_edges(self) -> int:
        """Number of edges of each copy."""
        return self.edges.stop - self.edges.start

    @cached_property
    def indptr(self) -> Tensor:
        """As in `GraphStructure`, of all copies."""
        return self._pointers(self.structure.indptr)

    @cached_property
    def out_indptr(self) -> Tensor:
        """As in `GraphStructure`, of all copies."""
        return self._pointers(self.structure.out_indptr)

    @cached_property
    def sources(self) -> Tensor:
        """Source of each edge. Valid until the next piece."""
        return self._numbers(self.structure.indices, "sources")

    @cached_property
    def destinations(self) -> Tensor:
        """Destination of each edge. Valid until the next piece or `out_destinations`."""
        return self._numbers(self.structure.destinations, "destinations")

    @property
    def out_destinations(self) -> Tensor:
        """Destination of each edge, sorted by source. Overwrites `destinations`."""
        return self._numbers(self.structure.out_indices, "destinations")

    def by_source(self, values: Tensor) -> Tensor:
        """One number per edge, sorted by source."""
        order = self.structure.out_edges[self.edges]
        if self.edges.start:
            order = order - self.edges.start
        return values.view(self.count, self.num_edges).index_select(1, order).view(-1)

    def part(self, values: Tensor) -> Tensor:
        """(copies, nodes, ...): a view of values (N, H, ...) of the whole batch."""
        return values[self.nodes, self.heads].transpose(0, 1)

    def of_nodes(self, values: Tensor) -> Tensor:
        """(copies * nodes, ...) from values (N, H, ...) of the whole batch."""
        return self.part(values).contiguous().flatten(0, 1)

    def write(self, out: Tensor, values: Tensor) -> None:
        """The inverse of `of_nodes`: write values (copies * nodes, ...) to `out` (N, H, ...)."""
        self.part(out).copy_(values.unflatten(0, (self.count, self.num_nodes)))

    def _pointers(self, indptr: Tensor) -> Tensor:
        first = self._firsts(self.num_edges) - self.edges.start
        own = torch.add(first[:, None], indptr[self.nodes]).view(-1)
        return torch.cat([own, indptr.new_full((1,), self.count * self.num_edges)])

    def _numbers(self, numbers: Tensor, name: str) -> Tensor:
        """Node numbers of the batch as node numbers of the copies."""
        if self.count == 1 and not self.nodes.start:
            return numbers[self.edges]
        first = self._firsts(self.num_nodes) - self.nodes.start
        size = self.count * self.num_edges
        if name not in self.memory or len(self.memory[name]) < size:
            self.memory[name] = numbers.new_empty(size)
        out = self.memory[name][:size]
        torch.add(first[:, None], numbers[self.edges], out=out.view(self.count, self.num_edges))
        return out

    def _firsts(self, step: int) -> Tensor:
        return torch.arange(self.count, device=self.structure.device).mul_(step)


def copies(structure: GraphStructure, heads: int, edges: int) -> Iterator[Copies]:
    """Pieces of consecutive items with at most `edges` edges, counted once per head.

    An item with more edges is split by heads.
    """
    memory: dict[str, Tensor] = {}
    for nodes, own in structure.ranges(max(1, edges // max(1, heads))):
        count = own.stop - own.start
        step = max(1, min(heads, edges // max(1, count)))
        for first in range(0, heads, step):
            last = min(first + step, heads)
            start = own.start * heads + first * count
            span = slice(start, start + (last - first) * count)
            yield Copies(structure, nodes, own, slice(first, last), span, memory)
