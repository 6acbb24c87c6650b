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
from relgrounding.graphs._items._flat import by_source
from relgrounding.graphs._items._padded import group_sizes, padded_rows, row_blocks
from relgrounding.graphs._structure import GraphStructure

# Bytes of an intermediate result of a rule: so many pairs are evaluated together that a few stay in the cache.
CHUNK = 160_000
# Pairs that are made into edges together, which limits the memory for intermediate results.
CELLS = 2**20
# Pairs that are evaluated in the time that another group of items takes beside its pairs.
SMALL = 2**15


@dataclass(frozen=True)
class Pairs:
    """The pairs of consecutive items.

    Args:
        items: these items.
        nodes: (items, longest) number through the batch of each node; padding repeats some node.
        filled: (items, longest) False for padding; None without padding.
        number: (items, longest, longest) 0 where there is no edge source (last) -> destination, else its type + 1.
    """

    items: slice
    nodes: Int64[Tensor, "items longest"]
    filled: Bool[Tensor, "items longest"] | None
    number: UInt8[Tensor, "items longest longest"]

    def sources(self) -> Int64[Tensor, " cells"]:
        """Source at each cell, row by row; at a cell of the transposed matrices, the destination."""
        return self.nodes[:, None].expand(self.number.shape).flatten()

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
    for group in group_sizes(sizes, CELLS, SMALL):
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
    cells = CHUNK // columns.element_size()
    step = max(1, cells // max(1, longest**2))
    for first in range(0, len(items), step):
        own = slice(first, first + step)
        part = columns[:, own]
        for rows in row_blocks(part.shape[1], longest, cells):
            number[own, rows] = function(part[:, :, None], part[:, :, rows, None], items[own])
    return number


def _in_edges(group: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """In-degrees, and the edges' sources, counted from the first of these nodes, and types."""
    cells = group.number.flatten().nonzero().flatten()
    degree = group.number.clamp(max=1).sum(2, dtype=torch.int32)
    # A cell is the number of its row times the length of a row, plus the place of the source in its item.
    row_starts = torch.arange(degree.numel(), device=cells.device).mul_(degree.shape[1]).view_as(degree)
    shift = (row_starts - (group.nodes[:, :1] - group.nodes[0, 0])).flatten()
    etype = group.number.flatten().index_select(0, cells).sub_(1)
    sources = cells.sub_(shift.repeat_interleave(degree.flatten(), output_size=len(cells)))
    return group.unpadded(degree), sources, etype


def _joined(parts: list[Tensor]) -> Shaped[Tensor, " total"]:
    """All parts in one tensor; the list is emptied, so that they are not held beside the next column's."""
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    parts.clear()
    return whole


def structure_of_pairs(
    pairs: list[Pairs], counts: Int64[Tensor, " items"], edge_types: tuple[str, ...]
) -> GraphStructure:
    """The edges whose number is not 0; their type is ``number - 1``."""
    columns: list[list[Tensor]] = [[] if pairs else [counts[:0]] for _ in range(6)]
    edges = 0
    for group in pairs:
        degree, sources, etype = _in_edges(group)
        out_degree, destinations, out_edges = by_source(degree, sources)
        first = int(group.nodes[0, 0])
        shifted = (degree, sources.add_(first), etype, out_degree, destinations.add_(first), out_edges.add_(edges))
        for column, part in zip(columns, shifted, strict=True):
            column.append(part)
        edges += len(sources)
    return GraphStructure._from_columns([_joined(column) for column in columns], edge_types, counts)


Columns = tuple[Tensor, Tensor, Tensor]


def _concatenated(parts: list[Columns], none: Int64[Tensor, " zero"]) -> Columns:
    """The columns of all groups."""
    columns = zip(*(parts or [(none, none, none)]), strict=True)
    first, second, third = (column[0] if len(column) == 1 else torch.cat(column) for column in columns)
    return first, second, third


def graph_of_pairs(pairs: list[Pairs], counts: Int64[Tensor, " items"], edge_types: tuple[str, ...]) -> dgl.DGLGraph:
    """``structure_of_pairs(...).to_dgl()`` without the structure, which takes longer to make than the graph."""
    cells, parts = torch.zeros_like(counts), []
    for group in pairs:
        shape = group.number.shape
        cells[group.items] = shape[1] ** 2
        destinations = group.nodes[:, :, None].expand(shape).flatten()
        parts.append((group.number.flatten(), group.sources(), destinations))
    number, sources, destinations = _concatenated(parts, counts[:0])
    item_ends = cells.cumsum(0)
    if 2 * number.count_nonzero() < len(number):
        # Sorting all pairs by type would take longer than selecting the few that are joined.
        joined = number.nonzero().flatten()
        number, sources, destinations = number[joined], sources[joined], destinations[joined]
        item_ends = torch.searchsorted(joined, item_ends)
    return heterograph(number, sources, destinations, item_ends, edge_types, counts)


def matrix_of_pairs(pairs: list[Pairs], counts: Int64[Tensor, " items"]) -> Int64[Tensor, "items longest longest"]:
    """The number of each pair source -> destination (last), 0 for padding; as wide as the longest item."""
    longest = int(counts.max())
    matrix = counts.new_zeros(len(counts), longest, longest)
    for group in pairs:
        own = group.number.shape[1]
        matrix[group.items, :own, :own] = group.number.mT
    return matrix
