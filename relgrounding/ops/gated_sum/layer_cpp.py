"""The gated sums of a layer with their linear maps, on the CPU, in little memory.

A sum over neighbours and a linear map can change places: the sums of the inputs are mapped. The backward pass makes
those sums once more instead of keeping them, but for those of one way alone, for which there is room. A large batch is
taken through all steps some items at a time.

Shapes: N nodes, M of them in a part of the batch, C width of x, O width of the result, R edge types, K directions:
in-edges, or in-edges and out-edges.
"""

from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.gated_sum.cpp import gated_rows, gated_rows_backward
from relgrounding.ops.gated_sum.naive import gated_layer_naive

# Columns of x that are summed at a time where there are too few edges for all: an extra (N, C) then is more than the
# 16 bytes per edge that this layer allows itself beyond four of them.
COLUMNS = 128
# Bytes of x, of which a batch is worked through in parts: some ten tables of this size then stay in the last cache.
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
        weight: Tensor,
        bias_O: Tensor | None,
        gate_bias_KR: Tensor,
        type_bias_KRO: Tensor,
    ) -> Tensor:
        ways, types, dim = type_bias_KRO.shape
        out_NO, tables = x_NC.new_empty(len(x_NC), dim), [x_NC.new_empty(len(x_NC), types) for _ in range(2 * ways)]
        parts, pieces = _parts(structure, x_NC), _columns(structure, x_NC)
        kept_NC = torch.empty_like(x_NC) if bias_O is None and ways == len(pieces) == 1 else None
        for part in parts:
            out_MO = _take(out_NO, part)
            room_MP = _room(out_MO, pieces) if kept_NC is None else _take(kept_NC, part)
            for k, columns in product(range(ways), pieces):
                rows_MP, first = _rows(room_MP, columns), columns.start == 0
                gated_rows(
                    *(structure, x_NC, tables[2 * k], rows_MP, tables[2 * k + 1] if first else None),
                    *(columns.start, part, k == 1),
                    logits=(weight[k - ways], None, gate_bias_KR[k]) if first else None,
                    terms=(type_bias_KRO[k], bias_O, k > 0, out_MO) if first else None,
                )
                if bias_O is not None and k == 0 and first:
                    out_MO.addmm_(_take(x_NC, part), weight[ways * dim : -ways].t())
                out_MO.addmm_(rows_MP, weight[k * dim : (k + 1) * dim, columns].t())
        ctx.parts, ctx.pieces = parts, pieces
        result_NO = out_NO.relu_() if bias_O is not None else None
        keep(ctx, (structure, x_NC, weight, bias_O, gate_bias_KR, type_bias_KRO), result_NO, kept_NC, *tables)
        return out_NO

    @staticmethod
    @backward_pass(gated_layer_naive)
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        (structure, x_NC, weight, _, _, type_bias_KRO), (result_NO, kept_NC, *tables) = kept(ctx)
        ways, types, dim = type_bias_KRO.shape
        d_x, d_weight, d_type_bias = torch.empty_like(x_NC), torch.empty_like(weight), torch.empty_like(type_bias_KRO)
        d_gate_bias, d_bias, itself = x_NC.new_empty(ways, types), None, slice(ways * dim, -ways)
        again = kept_NC is None
        for part in ctx.parts:
            grad_MO, more = _take(grad_NO, part), part is not ctx.parts[0]
            if result_NO is not None:
                grad_MO, d_own = torch.ops.aten.threshold_backward(grad_MO, _take(result_NO, part), 0), _take(d_x, part)
                torch.mm(grad_MO, weight[itself], out=d_own)
                d_weight[itself].addmm_(grad_MO.t(), _take(x_NC, part), beta=int(more))
                d_bias = grad_MO.sum(0) if d_bias is None else d_bias.add_(grad_MO.sum(0))
            elif again:
                _take(d_x, part).zero_()
            grad_MO = grad_MO.contiguous()
            room_MP, of_types_MR = _room(grad_MO, ctx.pieces), x_NC.new_empty(len(grad_MO), types)
            for k in range(ways):
                (gates_NR, sums_NR), maps = tables[2 * k : 2 * k + 2], slice(k * dim, (k + 1) * dim)
                d_gates_MR = torch.zeros_like(of_types_MR)
                for columns in ctx.pieces:
                    at, rows_MP = columns.start, _rows(room_MP, columns)
                    if again:
                        gated_rows(structure, x_NC, gates_NR, rows_MP, None, at, part, k == 1)
                    mapped_MP = rows_MP if again else _take(kept_NC, part)
                    d_weight[maps, columns].addmm_(grad_MO.t(), mapped_MP, beta=int(more))
                    torch.mm(grad_MO, weight[maps, columns], out=rows_MP)
                    terms = sums_NR, type_bias_KRO[k], grad_MO, of_types_MR, d_type_bias[k]
                    logits = weight[k - ways], None, d_weight[k - ways], d_gate_bias[k]
                    gated_rows_backward(
                        *(structure, x_NC, gates_NR, rows_MP, d_x, d_gates_MR, at, part, k == 1, again, more),
                        terms=terms if columns == ctx.pieces[0] else None,
                        logits=logits if columns == ctx.pieces[-1] else None,
                    )
        return None, d_x, d_weight, d_bias, d_gate_bias, d_type_bias


def _parts(structure: GraphStructure, x_NC: Tensor) -> list[tuple[slice, slice]]:
    """Nodes and edges of the parts of a batch that are worked on one after another."""
    size, edges = x_NC.numel() * x_NC.element_size(), structure.num_edges
    if size <= PART:
        return [(slice(0, len(x_NC)), slice(0, edges))]
    return list(structure.ranges(max(1, edges * PART // size)))


def _take(table: Tensor, part: tuple[slice, slice]) -> Tensor:
    """The rows of a part of the nodes."""
    nodes, _ = part
    return table if nodes.stop - nodes.start == len(table) else table[nodes]


def _room(like_MO: Tensor, pieces: list[slice]) -> Tensor:
    """Memory for the widest of the pieces."""
    return like_MO.new_empty(len(like_MO), pieces[0].stop)


def _rows(room_MP: Tensor, columns: slice) -> Tensor:
    """The same memory as a table of other columns."""
    (nodes, width), count = room_MP.shape, columns.stop - columns.start
    return room_MP if count == width else room_MP.view(-1)[: nodes * count].view(nodes, count)


def _columns(structure: GraphStructure, x_NC: Tensor) -> list[slice]:
    """The pieces in which the columns of x are worked on."""
    nodes, width = x_NC.shape
    # The tables of nodes x types come to about 24 bytes per cell.
    step = width if structure.num_edges >= 2 * nodes * structure.num_types else COLUMNS
    return [slice(first, min(first + step, width)) for first in range(0, max(width, 1), max(step, 1))]
