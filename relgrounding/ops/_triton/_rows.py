"""Kernels over the edges of one node at a time: their loads, and how they are launched.

A program's tile is (BLOCK_E edges, BLOCK_D features). Each lane of a tile keeps its own sum over the steps of the loop.
Lanes meet once, after it, in a fixed order: there are no atomics. Offsets are 64-bit. `SUM` is the type of the sums.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from relgrounding.ops._triton import accumulator, tile
from relgrounding.ops._triton._jit import TYPES, Kernel, add


class RowsCall:
    """What the launches of a program per node, head and chunk of features have in common.

    Args:
        feat: (N, D) or (N, H, D).
    """

    def __init__(self, feat: Tensor) -> None:
        *self.rows, self.dim = feat.shape
        block_e, block_d, warps = tile(self.dim)
        self.chunks = -(-self.dim // block_d)
        sums = TYPES[accumulator(feat.dtype)]
        self.constants = {"SUM": sums, "BLOCK_E": block_e, "BLOCK_D": block_d, "num_warps": warps}

    def __call__(self, kernel: Kernel, tensors: Sequence[Tensor], *numbers: int, **constants: Any) -> None:
        """Launch a kernel; the numbers before that of features follow the tensors."""
        with torch.cuda.device_of(tensors[0]):
            kernel[(*self.rows, self.chunks)](*tensors, *numbers, self.dim, **self.constants, **constants)


@Kernel
def edges_of(node, indptr_ptr):
    """The first edge of a node, and the end of its edges."""
    return tl.load(indptr_ptr + node), tl.load(indptr_ptr + node + 1)


@Kernel
def load_edge_rows(rows_ptr, live, d, dim, SUM: tl.constexpr):
    """(edge, d) numbers of the rows that some edges lead to; 0 beyond the last edge."""
    return tl.load(rows_ptr[:, None] + d[None, :], mask=live[:, None] & (d < dim)[None, :], other=0.0).to(SUM)


@Kernel
def store_sums(row_ptr, sums, d, dim):
    """Store the sum of all lanes in a row."""
    out = tl.reduce(sums, 0, add)
    tl.store(row_ptr + d, out.to(row_ptr.dtype.element_ty), mask=d < dim)
