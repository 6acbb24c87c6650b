"""A batch of graphs as padded matrices of edge types, a few items at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from relgrounding.graphs._ragged import offsets

if TYPE_CHECKING:
    from relgrounding.graphs._structure import GraphStructure

# Cells of a matrix that is worked on at a time: 1 MiB of float32, so that a few of them stay in the processor's cache.
CELLS = 2**18


@dataclass(frozen=True)
class ItemGroup:
    """Consecutive items that are worked on together.

    Args:
        nodes: the nodes of these items.
        size: (items, nodes of the longest).
        place: (items * longest,) position in `nodes` of each place; padding repeats a node of its own item. None where
            all items are equally long.
        slot: (nodes,) place of each node; None like `place`.
        planes: (items, longest, longest) type of the edge source (last) -> destination, or the number of types where
            there is none. A second and further planes hold parallel edges.
    """

    nodes: slice
    size: tuple[int, int]
    place: Int64[Tensor, " places"] | None
    slot: Int64[Tensor, " nodes"] | None
    planes: tuple[Shaped[Tensor, "items longest longest"], ...]

    def pad(self, values: Tensor) -> Tensor:
        """(items, longest, ...) of the values (N, ...) of all nodes of the batch."""
        own = values[self.nodes]
        return (own if self.place is None else own.index_select(0, self.place)).unflatten(0, self.size)

    def target(self, out: Tensor) -> Tensor:
        """(items, longest, ...) to be filled in and then handed to `write`: a view of `out` where nothing is padded."""
        if self.slot is None:
            return out[self.nodes].unflatten(0, self.size)
        return torch.empty(*self.size, *out.shape[1:], dtype=out.dtype, device=out.device)

    def write(self, out: Tensor, target: Tensor) -> None:
        """Put a filled `target` into the rows of `out` (N, ...) that belong to this group."""
        if self.slot is not None:
            torch.index_select(target.flatten(0, 1), 0, self.slot, out=out[self.nodes])

    def blocks(self) -> Iterator[slice]:
        """Ranges of destinations within an item, so that one item alone does not exceed CELLS either."""
        items, longest = self.size
        rows = max(1, CELLS // max(1, items * longest))
        return (slice(first, min(first + rows, longest)) for first in range(0, longest, rows))


def item_groups(structure: "GraphStructure") -> tuple[ItemGroup, ...]:
    """The groups of a structure, see `GraphStructure.groups`."""
    sizes = [size for size in structure.batch_num_nodes.tolist() if size]
    bounds = _bounds(sizes)
    device = structure.device
    shapes = [(last - first, max(sizes[first:last])) for first, last in bounds]
    cells = [items * longest * longest for items, longest in shapes]
    planes = _planes(structure, _first_cells(sizes, bounds, shapes, device), sum(cells))
    split = [plane.split(cells) for plane in planes]
    groups, first_node = [], 0
    for number, (first, last) in enumerate(bounds):
        counts, shape = sizes[first:last], shapes[number]
        place, slot = _places(torch.tensor(counts, device=device), shape[1]) if len({*counts}) > 1 else (None, None)
        nodes = slice(first_node, first_node + sum(counts))
        matrices = tuple(parts[number].view(*shape, shape[1]) for parts in split)
        groups.append(ItemGroup(nodes, shape, place, slot, matrices))
        first_node = nodes.stop
    return tuple(groups)


def _bounds(sizes: list[int]) -> list[tuple[int, int]]:
    """First and last + 1 item of each group: at most CELLS cells, and not twice as many as without padding."""
    if sizes and min(sizes) == max(sizes):
        step = max(1, CELLS // sizes[0] ** 2)
        return [(first, min(first + step, len(sizes))) for first in range(0, len(sizes), step)]
    bounds, first, longest, real = [], 0, 0, 0
    for item, size in enumerate(sizes):
        grown = (item - first + 1) * max(longest, size) ** 2
        if item > first and (grown > CELLS or grown > 2 * (real + size * size)):
            bounds.append((first, item))
            first, longest, real = item, 0, 0
        longest, real = max(longest, size), real + size * size
    return [*bounds, (first, len(sizes))] if sizes else []


def _first_cells(
    sizes: list[int], bounds: list[tuple[int, int]], shapes: list[tuple[int, int]], device: torch.device
) -> Tensor:
    """(N,) the cell of an edge j -> i is j plus the number of i."""
    firsts, rows, cell = [], [], 0
    for (first, last), (_, longest) in zip(bounds, shapes, strict=True):
        firsts += range(cell, cell + (last - first) * longest * longest, longest * longest)
        rows += [longest] * (last - first)
        cell += (last - first) * longest * longest
    counts = torch.tensor(sizes, dtype=torch.int64, device=device)
    columns = torch.tensor([firsts, rows], dtype=torch.int64, device=device)
    node_first, node_row = torch.repeat_interleave(columns, counts, dim=1).unbind(0)
    first_node = torch.repeat_interleave(offsets(counts)[:-1], counts)
    local = torch.arange(len(first_node), device=device) - first_node
    # A source counts from the first node of its item, which its destination shares.
    return node_first + local * node_row - first_node


def _planes(structure: "GraphStructure", base_N: Tensor, cells: int) -> list[Tensor]:
    types = structure.num_types
    dtype = torch.uint8 if types < 256 else torch.int64
    cell_E = structure.indices + base_N.index_select(0, structure.destinations)
    type_E = structure.etype.to(dtype)
    planes: list[Tensor] = []
    while True:
        plane = torch.full((cells,), types, dtype=dtype, device=structure.device)
        again = torch.zeros_like(cell_E, dtype=torch.bool)
        torch.eq(cell_E[1:], cell_E[:-1], out=again[1:])
        if not again.any():
            return [*planes, plane.index_put_((cell_E,), type_E)]
        planes.append(plane.index_put_((cell_E[~again],), type_E[~again]))
        cell_E, type_E = cell_E[again], type_E[again]


def _places(counts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    within = torch.arange(longest, device=counts.device)
    first = offsets(counts)[:-1, None]
    place = first + torch.minimum(within, counts[:, None] - 1)
    slot = (within < counts[:, None]).flatten().nonzero().flatten()
    return place.flatten(), slot
