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
from relgrounding.ops.gated_sum.cpp import gated_backward, gated_forward, relu_backward
from relgrounding.ops.gated_sum.naive import gated_layer_naive

# Bytes of x per part of a batch: some ten tables of this size stay in the last-level cache.
PART = 2 << 20


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
        (structure, x_NC, weight_PC, bias_O, gate_bias_KR, type_bias_KRO), (result_NO, kept_NF, gates_KNR) = kept(ctx)
        d_x, d_bias = torch.empty_like(x_NC), None if bias_O is None else torch.zeros_like(bias_O)
        d_weight = torch.empty_like(weight_PC) if len(x_NC) else torch.zeros_like(weight_PC)
        d_gate_bias, d_type_bias = torch.zeros_like(gate_bias_KR), torch.zeros_like(type_bias_KRO)
        given, grads = (structure, weight_PC, gates_KNR, type_bias_KRO), (d_weight, d_gate_bias, d_type_bias)
        grad_NO, (ways, _, dim) = grad_NO.contiguous(), type_bias_KRO.shape
        most, columns = max(1, *(part.stop - part.start for part in ctx.parts)), len(weight_PC)
        # Rows that begin where a line of the cache may.
        room = None if kept_NF is None else x_NC.new_empty(most, -(-columns // 16) * 16)[:, :columns]
        for part in ctx.parts:
            x_MC, grad_MO, d_x_MC = (_take(table, part) for table in (x_NC, grad_NO, d_x))
            rows_MP = None if room is None else room[: len(x_MC)]
            if result_NO is not None:
                masked_MO = torch.empty_like(grad_MO) if rows_MP is None else rows_MP[:, ways * dim : -ways]
                relu_backward(grad_MO, _take(result_NO, part), masked_MO, d_bias)
                grad_MO = masked_MO
            if rows_MP is None:
                _backward_by_way(*given, part, x_MC, grad_MO, d_x_MC, *grads, result_NO is not None)
            else:
                _backward_at_once(*given, part, x_MC, _take(kept_NF, part), grad_MO, rows_MP, d_x_MC, *grads)
        return None, d_x, d_weight, d_bias, d_gate_bias, d_type_bias


def _backward_at_once(
    structure: GraphStructure,
    weight_PC: Tensor,
    gates_KNR: Tensor,
    type_bias_KRO: Tensor,
    part: slice,
    x_MC: Tensor,
    feat_MF: Tensor,
    grad_MO: Tensor,
    rows_MP: Tensor,
    d_x_MC: Tensor,
    d_weight: Tensor,
    d_gate_bias: Tensor,
    d_type_bias: Tensor,
) -> None:
    """The gradients of a part whose features were kept; those of the node itself are in `rows_MP` already."""
    d_logits = rows_MP[:, -len(gates_KNR) :]
    inputs = feat_MF, gates_KNR, type_bias_KRO, grad_MO, part.start
    gated_backward(structure, part, *inputs, rows_MP, d_logits, d_gate_bias, d_type_bias)
    torch.mm(rows_MP, weight_PC, out=d_x_MC)
    d_weight.addmm_(rows_MP.t(), x_MC, beta=int(part.start > 0))


def _backward_by_way(
    structure: GraphStructure,
    weight_PC: Tensor,
    gates_KNR: Tensor,
    type_bias_KRO: Tensor,
    part: slice,
    x_MC: Tensor,
    grad_MO: Tensor,
    d_x_MC: Tensor,
    d_weight: Tensor,
    d_gate_bias: Tensor,
    d_type_bias: Tensor,
    itself: bool,
) -> None:
    """The gradients of a part, with the features made again: one way, and half of the nodes, after the other.

    Features and their gradients then take another two halves of a table.
    """
    ways, _, dim = type_bias_KRO.shape
    more, own, d_logits = int(part.start > 0), slice(ways * dim, -ways), x_MC.new_empty(len(x_MC), ways)
    if itself:
        torch.mm(grad_MO, weight_PC[own], out=d_x_MC)
        d_weight[own].addmm_(grad_MO.t(), x_MC, beta=more)
    step = max(1, -(-len(x_MC) // 2))
    room = x_MC.new_empty(2, step, dim)
    for way in range(ways):
        maps, of_way = slice(way * dim, (way + 1) * dim), slice(way, way + 1)
        for first in range(0, len(x_MC), step):
            rows = slice(first, min(first + step, len(x_MC)))
            block = slice(part.start + rows.start, part.start + rows.stop)
            feat, d_feat = room[:, : rows.stop - rows.start]
            torch.mm(x_MC[rows], weight_PC[maps].t(), out=feat)
            inputs = feat, gates_KNR, type_bias_KRO[of_way], grad_MO, part.start, d_feat, d_logits[rows, of_way]
            gated_backward(structure, block, *inputs, d_gate_bias[of_way], d_type_bias[of_way], way)
            d_x_MC[rows].addmm_(d_feat, weight_PC[maps], beta=int(itself or way > 0))
            d_weight[maps].addmm_(d_feat.t(), x_MC[rows], beta=int(block.start > 0))
    d_x_MC.addmm_(d_logits, weight_PC[-ways:])
    d_weight[-ways:].addmm_(d_logits.t(), x_MC, beta=more)


def _parts(structure: GraphStructure, x_NC: Tensor, weight_PC: Tensor, ways: int, dim: int) -> tuple[list[slice], bool]:
    """The nodes of the parts of a batch that are computed one after another, and whether features are kept."""
    (nodes, width), edges, number = x_NC.shape, structure.num_edges, x_NC.element_size()
    rows = PART // max(width * number, 1)
    # The layer allows itself four tables like x, and 16 bytes per edge; gradients of the weights are not counted.
    room = 16 * edges + (4 * width - width - (1 + ways) * dim - ways * structure.num_types) * nodes * number
    spare = room // (-(-len(weight_PC) // 16) * 16 * number)
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
