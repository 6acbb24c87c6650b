"""The gated sums of a layer with their linear maps, on the CPU, in little memory.

The features, one map of x per direction, are kept for the backward pass where many edges leave room for them, and made
again otherwise. All gradients of a node side by side, in the order of the rows of the weight, are one factor of the
gradients of x and of the weight: one product each. A large batch is computed some items at a time.

Shapes: N nodes, M of them in a part of the batch, C width of x, O width of the result, R edge types, K directions:
in-edges, or in-edges and out-edges, P rows of the weight.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.gated_sum.cpp import gated_backward, gated_forward
from relgrounding.ops.gated_sum.naive import gated_layer_naive

# Bytes of x per part of a batch: some ten tables of this size stay in the last-level cache.
PART = 2 << 20
# Pieces of a part whose features are made again: those and the gradients of all maps then take no more than a table.
BLOCKS = 5


@register_backend("gated_layer", "cpp", devices=["cpu"], dtypes=FLOAT)
def gated_layer_cpp(
    structure: GraphStructure,
    x_NC: Float[Tensor, "nodes in_dim"],
    weight: Float[Tensor, "maps_and_gates in_dim"],
    bias_O: Float[Tensor, " out_dim"] | None,
    gate_bias_KR: Float[Tensor, "ways types"],
    type_bias_KRO: Float[Tensor, "ways types out_dim"],
) -> Float[Tensor, "nodes out_dim"]:
    """See `relgrounding.ops.gated_sum.gated_layer`."""
    x_NC, weight = x_NC.contiguous(), weight.contiguous()
    return _GatedLayer.apply(structure, x_NC, weight, bias_O, gate_bias_KR.contiguous(), type_bias_KRO.contiguous())


class _GatedLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        structure: GraphStructure,
        x_NC: Tensor,
        weight_PC: Tensor,
        bias_O: Tensor | None,
        gate_bias_KR: Tensor,
        type_bias_KRO: Tensor,
    ) -> Tensor:
        ways, types, dim = type_bias_KRO.shape
        nodes, maps, w_KC = len(x_NC), weight_PC[: ways * dim].t(), weight_PC[-ways:]
        parts, keeps = _parts(structure, x_NC, weight_PC, ways, dim)
        out_NO, gates_KNR = x_NC.new_empty(nodes, dim), x_NC.new_empty(ways, nodes, types)
        kept_NF = x_NC.new_empty(nodes, ways * dim) if keeps else None
        for part in parts:
            x_MC = _take(x_NC, part)
            feat_MF = torch.mm(x_MC, maps) if kept_NF is None else torch.mm(x_MC, maps, out=_take(kept_NF, part))
            if bias_O is not None:
                torch.mm(x_MC, weight_PC[ways * dim : -ways].t(), out=_take(out_NO, part))
            inputs = feat_MF, gates_KNR, gate_bias_KR, type_bias_KRO, out_NO
            gated_forward(structure, part, *inputs, x_NC=x_NC, w_KC=w_KC, bias_D=bias_O)
        ctx.parts = parts
        result_NO = None if bias_O is None else out_NO
        keep(ctx, (structure, x_NC, weight_PC, bias_O, gate_bias_KR, type_bias_KRO), result_NO, kept_NF, gates_KNR)
        return out_NO

    @staticmethod
    @backward_pass(gated_layer_naive)
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        (structure, x_NC, weight_PC, _, gate_bias_KR, type_bias_KRO), (result_NO, kept_NF, gates_KNR) = kept(ctx)
        (ways, _, dim), rows = type_bias_KRO.shape, len(weight_PC)
        d_x, d_bias = torch.empty_like(x_NC), None
        d_weight = torch.empty_like(weight_PC) if len(x_NC) else torch.zeros_like(weight_PC)
        d_gate_bias, d_type_bias = torch.zeros_like(gate_bias_KR), torch.zeros_like(type_bias_KRO)
        most = max(1, *(part.stop - part.start for part in ctx.parts))
        step = most if kept_NF is not None else -(-most // BLOCKS)
        # Rows that begin where a line of the cache may.
        room_BP = x_NC.new_empty(step, -(-rows // 16) * 16)[:, :rows]
        room_BF = None if kept_NF is not None else x_NC.new_empty(step, ways * dim)
        for part in ctx.parts:
            grad_MO = _take(grad_NO, part)
            if result_NO is not None:
                grad_MO = torch.ops.aten.threshold_backward(grad_MO, _take(result_NO, part), 0)
                d_bias = grad_MO.sum(0) if d_bias is None else d_bias.add_(grad_MO.sum(0))
            grad_MO = grad_MO.contiguous()
            for first in range(part.start, part.stop, step):
                block = slice(first, min(first + step, part.stop))
                x_BC, own = _take(x_NC, block), slice(0, block.stop - first)
                d_rows_BP = _take(room_BP, own)
                if result_NO is not None:
                    d_rows_BP[:, ways * dim : -ways] = grad_MO[first - part.start : block.stop - part.start]
                if room_BF is None:
                    feat_BF = _take(kept_NF, block)
                else:
                    feat_BF = torch.mm(x_BC, weight_PC[: ways * dim].t(), out=_take(room_BF, own))
                gated_backward(
                    *(structure, block, feat_BF, gates_KNR, type_bias_KRO, grad_MO, part.start),
                    *(d_rows_BP, d_rows_BP[:, -ways:], d_gate_bias, d_type_bias),
                )
                torch.mm(d_rows_BP, weight_PC, out=_take(d_x, block))
                d_weight.addmm_(d_rows_BP.t(), x_BC, beta=int(first > 0))
        return None, d_x, d_weight, d_bias, d_gate_bias, d_type_bias


def _parts(structure: GraphStructure, x_NC: Tensor, weight_PC: Tensor, ways: int, dim: int) -> tuple[list[slice], bool]:
    """The nodes of the parts of a batch that are computed one after another, and whether features are kept."""
    (nodes, width), edges, number = x_NC.shape, structure.num_edges, x_NC.element_size()
    rows = PART // max(width * number, 1)
    # The layer allows itself four tables like x, and 16 bytes per edge; gradients of the weights are not counted.
    room = 16 * edges + (4 * width - width - (1 + ways) * dim - ways * structure.num_types) * nodes * number
    spare = room // ((len(weight_PC) + 16 + (dim if len(weight_PC) > ways * (dim + 1) else 0)) * number)
    counts = structure.batch_num_nodes
    largest = int(counts.max()) if len(counts) else 0
    keeps = spare >= min(max(largest, 128), nodes)
    if keeps:
        rows = min(rows, spare)
    if nodes <= rows:
        return [slice(0, nodes)], keeps
    return [part for part, _ in structure.ranges(max(1, edges * rows // nodes))], keeps


def _take(table: Tensor, nodes: slice) -> Tensor:
    """The rows of some nodes."""
    return table if nodes.stop - nodes.start == len(table) else table[nodes]
