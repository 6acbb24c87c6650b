"""The gated sums of a layer with their linear maps, on the CPU, in little memory.

A sum over neighbours and a linear map can change places: the sums of the inputs are mapped. The backward pass makes
those sums once more instead of keeping them, but for those of one way alone, for which there is room.

Shapes: N nodes, C width of x, O width of the result, R edge types, K directions: in-edges, or in-edges and out-edges.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass
from relgrounding.ops.gated_sum.cpp import gated_rows, gated_rows_backward

# Columns of x that are summed at a time where there are too few edges for all: an extra (N, C) then is more than the
# 16 bytes an edge that this layer allows itself beyond four of them.
COLUMNS = 128


def edge_gated_cpp(
    structure: GraphStructure,
    x_NC: Float[Tensor, "nodes in_dim"],
    weight: Float[Tensor, "maps_and_gates in_dim"],
    bias_O: Float[Tensor, " out_dim"] | None,
    gate_bias_KR: Float[Tensor, "ways types"],
    type_bias_KRO: Float[Tensor, "ways types out_dim"],
) -> Float[Tensor, "nodes out_dim"]:
    """See `relgrounding.ops.gated_sum.gated_layer`."""
    return _GatedLayer.apply(structure, x_NC, weight, bias_O, gate_bias_KR, type_bias_KRO)


class _GatedLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        structure: GraphStructure,
        x_NC: Tensor,
        weight: Tensor,
        bias_O: Tensor | None,
        gate_bias_KR: Tensor,
        type_bias_KRO: Tensor,
    ) -> Tensor:
        x_NC, (ways, types, dim) = x_NC.contiguous(), type_bias_KRO.shape
        logits_NK = torch.mm(x_NC, weight[-ways:].t())
        out_NO = x_NC.new_empty(len(x_NC), dim)
        if bias_O is not None:
            torch.addmm(bias_O, x_NC, weight[ways * dim : -ways].t(), out=out_NO)
        sums_KNR = x_NC.new_empty(ways, len(x_NC), types)
        pieces = _columns(structure, x_NC)
        part = _part(x_NC, pieces)
        for k in range(ways):
            gates_NR = _gates(logits_NK, gate_bias_KR, k)
            for columns in pieces:
                rows = part[:, : columns.stop - columns.start]
                gated_rows(structure, gates_NR, x_NC[:, columns], rows, sums_KNR[k], turned=k == 1)
                added = bias_O is not None or k > 0 or columns.start > 0
                out_NO.addmm_(rows, weight[k * dim : (k + 1) * dim, columns].t(), beta=int(added))
            out_NO.addmm_(sums_KNR[k], type_bias_KRO[k])
        ctx.structure = structure
        result_NO = out_NO.relu_() if bias_O is not None else None
        whole_NC = part if bias_O is None and ways == len(pieces) == 1 else None
        ctx.save_for_backward(x_NC, weight, gate_bias_KR, type_bias_KRO, logits_NK, sums_KNR, result_NO, whole_NC)
        return out_NO

    @staticmethod
    @backward_pass
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NC, weight, gate_bias_KR, type_bias_KRO, logits_NK, sums_KNR, result_NO, whole_NC = ctx.saved_tensors
        ways, _, dim = type_bias_KRO.shape
        again = whole_NC is None
        new = torch.zeros_like if again else torch.empty_like
        d_weight, d_logits_NK = torch.empty_like(weight), torch.empty_like(logits_NK)
        d_gate_bias, d_type_bias = torch.empty_like(gate_bias_KR), torch.empty_like(type_bias_KRO)
        if result_NO is not None:
            grad_NO = torch.ops.aten.threshold_backward(grad_NO, result_NO, 0)
            d_x, d_bias = torch.mm(grad_NO, weight[ways * dim : -ways]), grad_NO.sum(0)
            torch.mm(grad_NO.t(), x_NC, out=d_weight[ways * dim : -ways])
        else:
            grad_NO, d_x, d_bias = grad_NO.contiguous(), new(x_NC), None
        pieces = _columns(ctx.structure, x_NC)
        part = _part(x_NC, pieces)
        for k in range(ways):
            gates_NR, rows_of, turned = _gates(logits_NK, gate_bias_KR, k), slice(k * dim, (k + 1) * dim), k == 1
            of_types_NR, d_gates_NR = torch.mm(grad_NO, type_bias_KRO[k].t()), new(gates_NR)
            for columns in pieces:
                x, rows = x_NC[:, columns], part[:, : columns.stop - columns.start]
                if again:
                    gated_rows(ctx.structure, gates_NR, x, rows, turned=turned)
                torch.mm(grad_NO.t(), rows if again else whole_NC, out=d_weight[rows_of, columns])
                torch.mm(grad_NO, weight[rows_of, columns], out=rows)
                gated_rows_backward(
                    *(ctx.structure, gates_NR, x, rows, of_types_NR if columns == pieces[0] else None),
                    *(d_x[:, columns], d_gates_NR, d_logits_NK[:, k] if columns == pieces[-1] else None),
                    turned=turned,
                    add=again,
                )
            torch.sum(d_gates_NR, 0, out=d_gate_bias[k])
            torch.mm(sums_KNR[k].t(), grad_NO, out=d_type_bias[k])
        d_x.addmm_(d_logits_NK, weight[-ways:])
        torch.mm(d_logits_NK.t(), x_NC, out=d_weight[-ways:])
        return None, d_x, d_weight, d_bias, d_gate_bias, d_type_bias


def _part(x_NC: Tensor, pieces: list[slice]) -> Tensor:
    """Room for one piece of the columns of x."""
    return torch.empty_like(x_NC[:, pieces[0]], memory_format=torch.contiguous_format)


def _gates(logits_NK: Tensor, gate_bias_KR: Tensor, k: int) -> Tensor:
    """(N, R) gates of one direction."""
    return torch.add(logits_NK[:, k, None], gate_bias_KR[k]).sigmoid_()


def _columns(structure: GraphStructure, x_NC: Tensor) -> list[slice]:
    """The pieces in which the columns of x are worked on."""
    nodes, width = x_NC.shape
    # The tables of nodes x types come to about 24 bytes a cell.
    step = width if structure.num_edges >= 2 * nodes * structure.num_types else COLUMNS
    return [slice(first, min(first + step, width)) for first in range(0, max(width, 1), max(step, 1))]
