"""Items as matrices that are padded to the longest, a few items at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from relgrounding.graphs._items._flat import offsets

# Cells of a matrix that is worked on at a time: 1 MiB of float32, so that a few of them stay in the processor's cache.
CELLS = 2**18


def group_sizes(sizes: list[int], cells: int, small: int = 0) -> list[slice]:
    """Consecutive items that are padded together: at most `cells` cells, or one item; at most half of it padding.

    Groups of at most `small` cells may have more padding.
    """
    if sizes and 0 < min(sizes) == max(sizes):
        step = max(1, cells // sizes[0] ** 2)
        return [slice(first, min(first + step, len(sizes))) for first in range(0, len(sizes), step)]
    groups, first, longest, real = [], 0, 0, 0
    for item, size in enumerate(sizes):
        padded = (item - first + 1) * max(longest, size) ** 2
        if item > first and (padded > cells or padded > max(2 * (real + size * size), small)):
            groups.append(slice(first, item))
            first, longest, real = item, 0, 0
        longest, real = max(longest, size), real + size * size
    return [*groups, slice(first, len(sizes))] if sizes else []


def padded_rows(sizes: list[int], device: torch.device) -> tuple[Int64[Tensor, "items longest"], Tensor | None]:
    """Which node is in each row of items that are padded to the longest, and which rows are no padding.

    Padding repeats a node of its own item; an item without nodes has any node. The mask is None without padding.
    """
    longest, nodes = max(sizes), sum(sizes)
    if min(sizes) == longest:
        return torch.arange(nodes, device=device).view(len(sizes), longest), None
    counts = torch.tensor(sizes, device=device)[:, None]
    within = torch.arange(longest, device=device)
    first = counts.cumsum(0) - counts
    return (first + torch.minimum(within, counts - 1)).clamp_(0, nodes - 1), within < counts


@dataclass(frozen=True)
class ItemGroup:
    """Consecutive items that are worked on together, as matrices with a row per node, padded to the longest.

    Args:
        nodes: the nodes of these items.
        size: (items, nodes of the longest).
        node_of_row: (items * longest,) which of `nodes` is in each row; padding repeats a node of its own item. None
            where all items are equally long.
        row_of_node: (nodes,) the row of each node; None like `node_of_row`.
        planes: (items, longest, longest) type of the edge source (last) -> destination, or the number of types where
            there is none. A second and further planes hold parallel edges.
    """

    nodes: slice
    size: tuple[int, int]
    node_of_row: Int64[Tensor, " rows"] | None
    row_of_node: Int64[Tensor, " nodes"] | None
    planes: tuple[Shaped[Tensor, "items longest longest"], ...]

    def pad(self, values: Tensor) -> Tensor:
        """(items, longest, ...) of the values (N, ...) of all nodes of the batch."""
        own = values[self.nodes]
        return (own if self.node_of_row is None else own.index_select(0, self.node_of_row)).unflatten(0, self.size)

    def target(self, out: Tensor) -> Tensor:
        """(items, longest, ...) to be filled in and then handed to `write`: a view of `out` where nothing is padded."""
        if self.row_of_node is None:
            return out[self.nodes].unflatten(0, self.size)
        return torch.empty(*self.size, *out.shape[1:], dtype=out.dtype, device=out.device)

    def write(self, out: Tensor, target: Tensor) -> None:
        """Put a filled `target` into the rows of `out` (N, ...) that belong to this group."""
        if self.row_of_node is not None:
            torch.index_select(target.flatten(0, 1), 0, self.row_of_node, out=out[self.nodes])

    def blocks(self) -> Iterator[slice]:
        """Ranges of destinations within an item, so that one item alone does not exceed CELLS either."""
        return row_blocks(*self.size, CELLS)


def row_blocks(items: int, longest: int, cells: int) -> Iterator[slice]:
    """Ranges of rows, of which those of all items together have at most `cells` cells, or one row."""
    rows = max(1, cells // max(1, items * longest))
    return (slice(first, min(first + rows, longest)) for first in range(0, longest, rows))


def item_groups(
    sizes: list[int],
    sources: Int64[Tensor, " edges"],
    destinations: Int64[Tensor, " edges"],
    etype: Int64[Tensor, " edges"],
    num_types: int,
) -> tuple[ItemGroup, ...]:
    """The groups of a batch, see `GraphStructure.groups`.

    Args:
        sizes: nodes of each item.
        sources: (E,) in the forward order.
        destinations: (E,) the same.
        etype: (E,) the same.
        num_types: number of types.
    """
    device = sources.device
    sizes = [size for size in sizes if size]
    items = group_sizes(sizes, CELLS)
    shapes = [(own.stop - own.start, max(sizes[own])) for own in items]
    cells = [items * longest * longest for items, longest in shapes]
    cell_E = sources + _first_cells(sizes, items, device).index_select(0, destinations)
    planes = [plane.split(cells) for plane in _planes(cell_E, etype, num_types, sum(cells))]
    groups, first = [], 0
    for number, (own, shape) in enumerate(zip(items, shapes, strict=True)):
        rows, filled = padded_rows(sizes[own], device)
        node_of_row = None if filled is None else rows.flatten()
        row_of_node = None if filled is None else filled.flatten().nonzero().flatten()
        nodes = slice(first, first + sum(sizes[own]))
        matrices = tuple(parts[number].view(*shape, shape[1]) for parts in planes)
        groups.append(ItemGroup(nodes, shape, node_of_row, row_of_node, matrices))
        first = nodes.stop
    return tuple(groups)


def _first_cells(sizes: list[int], groups: list[slice], device: torch.device) -> Tensor:
    """(N,) the cell of an edge j -> i is j plus the number of i."""
    firsts: list[int] = []
    widths: list[int] = []
    cell = 0
    for own in groups:
        items, longest = own.stop - own.start, max(sizes[own])
        firsts += range(cell, cell + items * longest * longest, longest * longest)
        widths += [longest] * items
        cell += items * longest * longest
    counts = torch.tensor(sizes, dtype=torch.int64, device=device)
    columns = torch.tensor([firsts, widths], dtype=torch.int64, device=device)
    cell_N, width_N = torch.repeat_interleave(columns, counts, dim=1).unbind(0)
    first_N = torch.repeat_interleave(offsets(counts)[:-1], counts)
    local_N = torch.arange(len(first_N), device=device) - first_N
    # A source counts from the first node of its item, which its destination shares.
    return cell_N + local_N * width_N - first_N


def _planes(cell_E: Tensor, etype: Tensor, num_types: int, cells: int) -> list[Tensor]:
    dtype = torch.uint8 if num_types < 256 else torch.int64
    type_E = etype.to(dtype)
    planes: list[Tensor] = []
    while True:
        plane = torch.full((cells,), num_types, dtype=dtype, device=etype.device)
        parallel: Bool[Tensor, " edges"] = torch.zeros_like(cell_E, dtype=torch.bool)
        torch.eq(cell_E[1:], cell_E[:-1], out=parallel[1:])
        if not parallel.any():
            return [*planes, plane.index_put_((cell_E,), type_E)]
        planes.append(plane.index_put_((cell_E[~parallel],), type_E[~parallel]))
        cell_E, type_E = cell_E[parallel], type_E[parallel]
