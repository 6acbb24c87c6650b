"""Triton kernels that are compiled, or interpreted where `TRITON_INTERPRET=1` is set at the time of the launch."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from relgrounding.graphs import GraphStructure
from relgrounding.ops._triton import accumulator, interpreting, power_of_two

# The interpreter knows these two by identity and is slow with any other. `tl.sum` and `tl.max` call the same, but
# cannot be interpreted when Triton was imported before TRITON_INTERPRET was set; these can.
add = tl.standard._sum_combine
larger = tl.standard._elementwise_max

SIZES = ("nodes", "edges", "rows", "blocks", "planes")
"""Arguments that differ between batches: a variant for 1 or for multiples of 16 would be compiled in mid-training."""
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def operand(dtype: torch.dtype) -> tl.dtype:
    """The type of the factors of matrix products; the interpreter has none of bfloat16."""
    return tl.float32 if dtype == torch.bfloat16 and interpreting() else TYPES[dtype]


def precision() -> str:
    """How products of float32 matrices are made: as PyTorch's own, see `torch.set_float32_matmul_precision`."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


class TileShape(NamedTuple):
    """Rows and columns of a tile of pairs of nodes, and the features that it is multiplied with, for four warps."""

    rows: int
    columns: int
    features: int

    @staticmethod
    def of(dim: int, dtype: torch.dtype) -> "TileShape":
        """The largest that leaves sums, weights and factors in registers: compiled for sm_90 nothing is spilled.

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
        self, kernel: "Kernel", tensors: Sequence[Tensor], *strides: int, by_source: bool = False, **constants: Any
    ) -> None:
        """Launch a kernel with a program per block of an item's rows, head and chunk of features."""
        rows, columns = self.shape.rows, self.shape.columns
        if by_source:
            rows, columns = columns, rows
        blocks = -(-self.longest // rows)
        constants = self.constants | {"BLOCK_I": rows, "BLOCK_J": columns} | constants
        with torch.cuda.device_of(tensors[0]):
            kernel[self.items * blocks, self.heads, self.chunks](
                *tensors, *strides, *self.sizes, blocks, *self.last, **constants
            )


class Kernel(triton.JITFunction):
    """A kernel, launched as ``kernel[grid](...)``; use as a decorator."""

    def __init__(self, function: Callable):
        function = inspect.unwrap(function)  # the tests' type checker wraps every function; Triton needs the source
        sizes = [name for name in inspect.signature(function).parameters if name in SIZES]
        super().__init__(function, do_not_specialize=sizes)
        self._interpreted = InterpretedFunction(function)

    def run(self, *arguments, **options):
        """Launch; `kernel[grid]` calls this."""
        run = self._interpreted.run if interpreting() else super().run
        return run(*arguments, **options)

    def __call__(self, *arguments, **options):
        """What a kernel that the interpreter runs calls as a part of it; the compiler calls nothing."""
        return self._interpreted.rewrite()(*arguments, **options)


@Kernel
def load_rows(ptr, row, first, count, stride, d, dim, OPERAND: tl.constexpr):
    """(row, d) numbers of the rows of an item; 0 beyond the last one."""
    inside = (row < count)[:, None] & (d < dim)[None, :]
    return tl.load(ptr + (first + row)[:, None] * stride + d[None, :], mask=inside, other=0.0).to(OPERAND)


@Kernel
def load_kinds(planes_ptr, cell, inside, none):
    """The types of the edges at some cells of a plane; `none` where there is no edge, as beyond an item's last node."""
    return tl.load(planes_ptr + cell, mask=inside, other=none).to(tl.int32)
