"""Kernels on the tiles of an item: their shapes, launches and loads.

A tile is (BLOCK_I, BLOCK_J): (destinations, sources) or, in kernels by source, the converse. Grid: (items x blocks of
rows, heads, chunks of BLOCK_D features). A program's rows, and those it meets, belong to one item; sums over a row of
tiles are matrix products, made in a fixed order: there are no atomics. Offsets of rows of features are 64-bit. `SUM` is
the type of the sums, `OPERAND` that of the factors of matrix products; R types fill BLOCK_R columns.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._triton import MOST_TYPES, accumulator, power_of_two
from relgrounding.ops._triton._jit import TYPES, Kernel, add, operand, precision, sigmoid

BLOCK_R = MOST_TYPES


class TileShape(NamedTuple):
    """Rows and columns of a tile of pairs of nodes, and the features that it is multiplied with, for four warps."""

    rows: int
    columns: int
    features: int

    @staticmethod
    def of(dim: int, dtype: torch.dtype) -> "TileShape":
        """The largest that leaves sums, weights and factors in registers: compiled for sm_90 nothing is spilled
        where no edges are parallel, but for 20 bytes in `destinations` of typed comparisons in float32.

        Nothing but `dim` and how products are made decides, and so an item's result does not depend, to the last bit,
        on what else is in its batch.
        """
        features = max(power_of_two(dim), 16)
        if dtype == torch.float64:
            return TileShape(16, 16, min(features, 32))
        if dtype == torch.float32 and precision() == "ieee":  # not on tensor cores
            return TileShape(32, 32, min(features, 64))
        return TileShape(64 if features > 64 else 32, 32, min(features, 128))


class TiledCall:
    """What the launches on the tiles of a graph have in common.

    Args:
        structure: with tiles.
        dtype: of the features.
        dim: features of each head.
        heads: their number, for kernels that take it.
        constants: of all kernels.
    """

    def __init__(self, structure: GraphStructure, dtype: torch.dtype, dim: int, *heads: int, **constants: Any) -> None:
        tiles = structure.tiles
        assert tiles is not None
        planes, nodes, width = tiles.planes.shape
        self.shape = TileShape.of(dim, dtype)
        self.heads, self.last = math.prod(heads), (*heads, dim)
        self.chunks = -(-dim // self.shape.features)
        self.items, self.longest = structure.batch_size, tiles.longest
        self.graph = tiles.planes, structure.item_indptr
        self.sizes = nodes, planes, width, structure.num_types
        self.constants = constants | {
            "PARALLEL": planes > 1,
            "SUM": TYPES[accumulator(dtype)],
            "OPERAND": operand(dtype),
            "PRECISION": precision(),
            "BLOCK_D": self.shape.features,
            "num_warps": 4,
            "num_stages": 2,
        }

    def whole_rows(self) -> "TiledCall":
        """The same for kernels that go through all features, in small steps."""
        self.shape = TileShape(*(min(size, most) for size, most in zip(self.shape, (32, 32, 32), strict=True)))
        self.chunks, self.constants["BLOCK_D"] = 1, self.shape.features
        return self

    def __call__(
        self,
        kernel: Kernel,
        tensors: Sequence[Tensor | None],
        *strides: int,
        by_source: bool = False,
        **constants: Any,
    ) -> None:
        """Launch a kernel with a program per block of an item's rows, head and chunk of features."""
        rows, columns = self.shape.rows, self.shape.columns
        if by_source:
            rows, columns = columns, rows
        blocks = -(-self.longest // rows)
        constants = self.constants | {"BLOCK_I": rows, "BLOCK_J": columns} | constants
        with torch.cuda.device_of(self.graph[0]):
            kernel[self.items * blocks, self.heads, self.chunks](
                *tensors, *strides, *self.sizes, blocks, *self.last, **constants
            )


@Kernel
def load_rows(ptr, row, first, count, stride, d, dim, OPERAND: tl.constexpr):
    """(row, d) numbers of the rows of an item; 0 beyond the last one."""
    inside = (row < count)[:, None] & (d < dim)[None, :]
    return tl.load(ptr + (first + row)[:, None] * stride + d[None, :], mask=inside, other=0.0).to(OPERAND)


@Kernel
def load_kinds(planes_ptr, cell, inside, none):
    """The types of the edges at some cells of a plane; `none` where there is no edge, as beyond an item's last node."""
    return tl.load(planes_ptr + cell, mask=inside, other=none).to(tl.int32)


@Kernel
def own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK: tl.constexpr):
    """Where a program works: its rows, its item's first node and number of nodes, where the loop over these ends, and
    its item's planes, which lie `size` cells apart.
    """
    item = tl.program_id(0) // blocks
    start = tl.program_id(0) % blocks * BLOCK
    first = tl.load(bounds_ptr + item)
    count = (tl.load(bounds_ptr + item + 1) - first).to(tl.int32)
    # Blocks beyond the item's last row have nothing to do.
    last = tl.where(start < count, count, 0)
    return start + tl.arange(0, BLOCK), first, count, last, planes_ptr + first * width, nodes.to(tl.int64) * width


@Kernel
def cells_by_destination(i, j, count, width):
    """Where the pairs of a tile of (destinations i, sources j) are in a plane, and whether they are."""
    # Whole rows of a plane are read in pieces of 16 bytes.
    return i[:, None] * width + j[None, :], (i < count)[:, None] & (j < width)[None, :]


@Kernel
def cells_by_source(j, i, count, width):
    """The same of a tile of (sources j, destinations i)."""
    return i[None, :] * width + j[:, None], (j < count)[:, None] & (i < count)[None, :]


@Kernel
def store_rows(ptr, value, row, first, count, d, dim):
    """Store (row, d) numbers of the rows of an item, which follow each other without a gap."""
    inside = (row < count)[:, None] & (d < dim)[None, :]
    tl.store(ptr + (first + row)[:, None] * dim + d[None, :], value.to(ptr.dtype.element_ty), mask=inside)


@Kernel
def gate_logits(share, kind, table_ptr, edge_bias_ptr, cell, types, SUM: tl.constexpr):
    """Logits of the gates of a tile, minus infinity where there is no edge.

    They are sums of the nodes' share, of a number for each type, whose table may be another one for each destination,
    and of the edges' share in a plane of its own, unless that is None.
    """
    logit = share + tl.load(table_ptr + kind, mask=kind < types, other=float("-inf")).to(SUM)
    if edge_bias_ptr is not None:
        logit += tl.load(edge_bias_ptr + cell, mask=kind < types, other=0.0).to(SUM)
    return logit


@Kernel
def open_gates(
    share,
    tile_ptr,
    table_ptr,
    edge_bias_ptr,
    cell,
    inside,
    size,
    planes,
    types,
    PARALLEL: tl.constexpr,
    SUM: tl.constexpr,
):
    """The gates of a tile, those of parallel edges added up; 0 where there is no edge."""
    kind = load_kinds(tile_ptr, cell, inside, types)
    opened = sigmoid(gate_logits(share, kind, table_ptr, edge_bias_ptr, cell, types, SUM))
    if PARALLEL:
        for plane in range(1, planes):
            other = plane * size + cell
            kind = load_kinds(tile_ptr, other, inside, types)
            opened += sigmoid(gate_logits(share, kind, table_ptr, edge_bias_ptr, other, types, SUM))
    return opened


@Kernel
def sums_by_type(values, kind, r, TYPES: tl.constexpr):
    """(row, r) sums of the values of a tile by type."""
    table = tl.full((values.shape[0], r.shape[0]), 0.0, values.dtype)
    for type in tl.static_range(TYPES):
        of_type = tl.reduce(tl.where(kind == type, values, 0.0), 1, add)
        table += tl.where(r == type, 1.0, 0.0)[None, :] * of_type[:, None]
    return table


@Kernel
def row_products(
    one_ptr,
    other_ptr,
    row,
    column,
    first,
    count,
    one_stride,
    other_stride,
    dim,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(row, column) products of whole rows of two tables."""
    product = tl.full((row.shape[0], column.shape[0]), 0.0, SUM)
    for start in range(0, dim, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        one = load_rows(one_ptr, row, first, count, one_stride, d, dim, OPERAND)
        other = load_rows(other_ptr, column, first, count, other_stride, d, dim, OPERAND)
        product = tl.dot(one, tl.trans(other), product, input_precision=PRECISION, out_dtype=SUM)
    return product
