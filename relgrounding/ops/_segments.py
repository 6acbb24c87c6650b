"""Sums over the segments of a sorted edge list, without a tensor of (edges x features).

On a CPU these are vectorised kernels of PyTorch itself, several times faster than the sparse products of DGL 1.1 and of
MKL. Each row of a result is written by one thread, in the order of the edges.
"""

import functools
import warnings

import torch
from torch import Tensor

# Edges whose features are gathered at a time where `edge_dots` has no kernel.
_BLOCK = 65536


def segment_sum(values_E: Tensor, indptr: Tensor) -> Tensor:
    """(N,) sums of ``values[indptr[i] : indptr[i + 1]]``; 0 of nothing."""
    return torch.segment_reduce(values_E, "sum", offsets=indptr, axis=0, unsafe=True)


def segment_max(values_E: Tensor, indptr: Tensor) -> Tensor:
    """(N,) maxima; minus infinity of nothing."""
    return torch.segment_reduce(values_E, "max", offsets=indptr, axis=0, unsafe=True)


def weighted_rows(table_MD: Tensor, index_E: Tensor, indptr: Tensor, weight_E: Tensor) -> Tensor:
    """(N, D) sums over each segment of ``weight[e] table[index[e]]``."""
    return torch.embedding_bag(table_MD, index_E, indptr, False, 0, False, weight_E, True)[0]


def edge_dots(rows_ND: Tensor, table_MD: Tensor, index_E: Tensor, indptr: Tensor) -> Tensor:
    """(E,) products ``rows[i] . table[index[e]]`` for each e in the segment of i."""
    # More edges than pairs of nodes, as parallel ones can be, are refused by that kernel.
    if rows_ND.device.type == "cpu" and len(index_E) <= len(rows_ND) * len(table_MD):
        _say_nothing_about_beta()
        shape = (len(rows_ND), len(table_MD))
        pattern = torch.sparse_csr_tensor(indptr, index_E, rows_ND.new_zeros(len(index_E)), shape)
        # Into the pattern itself: without `out` the kernel copies the indices first.
        return torch.sparse.sampled_addmm(pattern, rows_ND, table_MD.t(), beta=0.0, out=pattern).values()
    row_E = torch.repeat_interleave(indptr.diff(), output_size=len(index_E))
    blocks = zip(row_E.split(_BLOCK), index_E.split(_BLOCK), strict=True)
    return torch.cat([torch.linalg.vecdot(rows_ND[i], table_MD[j]) for i, j in blocks])


@functools.cache
def _say_nothing_about_beta() -> None:
    """The first compressed tensor of a process warns that such tensors are in beta state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))


def cell_sums(values_E: Tensor, cell_E: Tensor, shape: torch.Size) -> Tensor:
    """A table of `shape`: each cell, counted through the flat table, the sum of its values."""
    table = values_E.new_zeros(shape)
    add_rows_(table.view(-1), cell_E, values_E)
    return table


def add_rows_(table: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add each row to the row ``index`` of a table, in an order that does not change from call to call."""
    if table.device.type == "cpu":
        table.index_add_(0, index, rows)
    else:  # sorts, where `index_add_` adds in any order
        table.index_put_((index,), rows, accumulate=True)
