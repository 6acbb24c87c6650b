"""Items in flat arrays, one after another, and cut into ranges."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Int64, Shaped
from scipy.sparse import csr_matrix
from torch import Tensor

from relgrounding._host import to_device

# Rows of a range, in the mean, from which on copying ranges takes less time than copying rows.
LONG = 256


def offsets(counts: Shaped[Tensor, " items"]) -> Int64[Tensor, " items_plus_one"]:
    """Cumulative sum with a leading zero: where each item begins and the last one ends; booleans count as 0 and 1."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def ragged_arange(starts: Int64[Tensor, " items"], counts: Int64[Tensor, " items"]) -> Int64[Tensor, " total"]:
    """``cat([arange(s, s + c) for s, c in zip(starts, counts)])`` without the loop."""
    shift = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
    return torch.arange(shift.numel(), device=counts.device) + shift


def shifted(parts: Sequence[Int64[Tensor, " _"]], shifts: Sequence[int]) -> Int64[Tensor, " total"]:
    """``cat([part + shift for part, shift in zip(parts, shifts)])``, each number written once."""
    sizes = [len(part) for part in parts]
    whole = parts[0].new_empty(sum(sizes))
    for own, part, shift in zip(whole.split(sizes), parts, shifts, strict=True):
        torch.add(part, shift, out=own)
    return whole


@dataclass(frozen=True)
class Ranges:
    """Ranges of the rows of a tensor, one after another.

    Args:
        starts: (R,) first row of each, on the host.
        sizes: (R,) number of rows, on the host.
        total: number of all rows.
    """

    starts: Int64[Tensor, " ranges"]
    sizes: Int64[Tensor, " ranges"]
    total: int

    def of(self, values: Int64[Tensor, " rows"], shifts: Int64[Tensor, " ranges"]) -> Int64[Tensor, " total"]:
        """The values in the ranges, each plus the shift of its range, given on the host."""
        long = self.total >= LONG * len(self.sizes) > 0
        if long and values.device.type == "cpu" and not torch.compiler.is_compiling():
            ends = (self.starts + self.sizes).tolist()
            parts = [values[begin:end] for begin, end in zip(self.starts.tolist(), ends, strict=True)]
            return shifted(parts, shifts.tolist())
        to_start = self.starts - (self.sizes.cumsum(0) - self.sizes)
        columns = to_device(torch.stack([to_start, shifts, self.sizes]), values.device)
        range_of_row = torch.repeat_interleave(columns[2], output_size=self.total)
        to_row, to_value = (column.index_select(0, range_of_row) for column in columns[:2])
        return values.index_select(0, to_row.add_(torch.arange(self.total, device=values.device))).add_(to_value)


def by_source(
    in_degree: Int[Tensor, " nodes"], sources: Int64[Tensor, " edges"]
) -> tuple[Int[Tensor, " nodes"], Int[Tensor, " edges"], Int64[Tensor, " edges"]]:
    """Edges sorted by destination, in the order by source: out-degrees, destinations and numbers of the edges."""
    return (
        counted_by_source(in_degree, sources) if sources.device.type == "cpu" else sorted_by_source(in_degree, sources)
    )


def counted_by_source(in_degree: Tensor, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`by_source` on the CPU: sorts by counting, and keeps the order of what has one source."""
    columns = (np.arange(len(sources)), sources.numpy(), offsets(in_degree).numpy())
    matrix = csr_matrix(columns, shape=(len(in_degree), len(in_degree))).tocsc()
    out_indptr, destinations, numbers = map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data))
    return out_indptr.diff(), destinations, numbers


def sorted_by_source(in_degree: Tensor, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`by_source` on any device."""
    nodes = torch.arange(len(in_degree), device=sources.device)
    numbers = sources.argsort(stable=True)
    destinations = nodes.repeat_interleave(in_degree, output_size=len(sources))
    return torch.bincount(sources, minlength=len(nodes)), destinations[numbers], numbers


def cut(sizes: list[int], ends: list[int], edges: int) -> Iterator[tuple[slice, slice, slice]]:
    """Items, nodes and edges of consecutive pieces with at most `edges` edges, or of one item.

    Args:
        sizes: nodes of each of the B items.
        ends: B + 1 numbers, the first edge of each item and the number of all edges.
        edges: the limit.
    """
    first = node = 0
    while first < len(sizes):
        last = max(first + 1, bisect_right(ends, ends[first] + edges) - 1)
        nodes = slice(node, node + sum(sizes[first:last]))
        yield slice(first, last), nodes, slice(ends[first], ends[last])
        first, node = last, nodes.stop
