"""A copy of a graph for each head, one after the other, so that one call works on the edges of all heads.

A head's features lie together in it, which is why the processor finds them in its cache more often than among those of
all heads. Nothing of it outlives a call: the numbers of edges' ends are cheaper to make than to keep.
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
        place: of these heads' edges in an array for all, piece after piece.
        memory: what the numbers of the edges' ends are written to, piece after piece the same: new memory costs more
            than the numbers.
    """

    structure: GraphStructure
    nodes: slice
    edges: slice
    heads: slice
    place: slice
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
        """Destination of each edge, sorted by source. Takes the place of `destinations`."""
        return self._numbers(self.structure.out_indices, "destinations")

    def by_source(self, values: Tensor) -> Tensor:
        """One number an edge, sorted by source."""
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
        """The reverse: values (copies * nodes, ...) into their rows of `out` (N, H, ...)."""
        self.part(out).copy_(values.unflatten(0, (self.count, self.num_nodes)))

    def _pointers(self, indptr: Tensor) -> Tensor:
        first = self._firsts(self.num_edges) - self.edges.start
        own = torch.add(first[:, None], indptr[self.nodes]).view(-1)
        return torch.cat([own, indptr.new_full((1,), self.count * self.num_edges)])

    def _numbers(self, numbers: Tensor, name: str) -> Tensor:
        """The numbers of nodes in the batch as numbers in the copies."""
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
    """All heads of all items, so many items that they have at most so many edges, in all heads, together.

    An item of more edges is worked on in fewer heads at a time.
    """
    memory: dict[str, Tensor] = {}
    for nodes, own in structure.ranges(max(1, edges // max(1, heads))):
        count = own.stop - own.start
        step = max(1, min(heads, edges // max(1, count)))
        for first in range(0, heads, step):
            last = min(first + step, heads)
            start = own.start * heads + first * count
            place = slice(start, start + (last - first) * count)
            yield Copies(structure, nodes, own, slice(first, last), place, memory)
