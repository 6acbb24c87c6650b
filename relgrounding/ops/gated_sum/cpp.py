"""Compiled loops over the sorted edges.

Shapes: N nodes, D width, R edge types.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._cpp import call, cpp_reason
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.gated_sum.naive import gated_sum_naive


@register_backend(
    "gated_sum",
    "cpp",
    devices=["cpu"],
    dtypes=FLOAT,
    reason=cpp_reason,
    auto={"cpu": 30},
    widen_half=True,
    opaque=True,
)
def gated_sum_cpp(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.gated_sum`, and `gated_sum_csr` for the two tables of nodes x types."""
    return _GatedSum.apply(structure, *(x.contiguous() for x in (feat_ND, gate_N, gate_bias_R, type_bias_RD)))


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_ND: Tensor, gate_N: Tensor, gate_bias_R: Tensor, type_bias_RD: Tensor
    ) -> Tensor:
        out_ND = torch.empty_like(feat_ND)
        gates_NR, sums_NR = feat_ND.new_empty(2, structure.num_nodes, structure.num_types)
        gated_rows(
            structure,
            feat_ND,
            gates_NR,
            out_ND,
            sums_NR,
            logits=(None, gate_N, gate_bias_R),
            terms=(type_bias_RD, None, True, out_ND),
        )
        keep(ctx, (structure, feat_ND, gate_N, gate_bias_R, type_bias_RD), gates_NR, sums_NR)
        return out_ND

    @staticmethod
    @backward_pass(gated_sum_naive)
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_ND, _, _, type_bias_RD), (gates_NR, sums_NR) = kept(ctx)
        grad_ND = grad_ND.contiguous()
        d_feat, d_gates = torch.empty_like(feat_ND), torch.empty_like(gates_NR)
        d_gate, d_gate_bias = feat_ND.new_empty(len(feat_ND)), feat_ND.new_empty(len(type_bias_RD))
        d_type_bias = torch.empty_like(type_bias_RD)
        gated_rows_backward(
            structure,
            feat_ND,
            gates_NR,
            grad_ND,
            d_feat,
            d_gates,
            terms=(sums_NR, type_bias_RD, grad_ND, torch.empty_like(gates_NR), d_type_bias),
            logits=(None, d_gate, None, d_gate_bias),
        )
        return None, d_feat, d_gate, d_gate_bias, d_type_bias


def gated_rows(
    structure: GraphStructure,
    x_NC: Tensor,
    gates_NR: Tensor,
    rows_MP: Tensor,
    sums_NR: Tensor | None = None,
    at: int = 0,
    part: tuple[slice, slice] | None = None,
    turned: bool = False,
    logits: tuple[Tensor | None, Tensor | None, Tensor] | None = None,
    terms: tuple[Tensor, Tensor | None, bool, Tensor] | None = None,
) -> None:
    """Write ``rows_i = sum of gates[j, type] x_j`` over the in-edges, or the out-edges where the graph is `turned`.

    All tensors are contiguous.

    Args:
        structure: of N nodes and R types.
        x_NC: of which as many columns as `rows_MP` has are summed, from `at` on.
        gates_NR: made first where `logits` is given.
        rows_MP: result.
        sums_NR: gets the sums of the gates.
        at: first column.
        part: nodes and edges of some items, see `GraphStructure.ranges`: nothing is done on the others. Tensors of M
            rows have those of these nodes alone.
        turned: see above.
        logits: w (C,) or None, a logit per node (N,) or None, and u (R,): the gates are sigmoid(x_j . w + u), or of the
            logit where there is one.
        terms: b (R, O), start (O,) or None, add, and out (M, O): out_i = start + sums_i b, or this is added to it.
    """
    w, gate, gate_bias = logits or (None, None, None)
    type_bias, start, add, out = terms or (None, None, False, None)
    call(
        "gated_forward",
        *(*_sizes(structure, part), x_NC.shape[1], at, rows_MP.shape[1]),
        *_edges(structure, turned),
        *(x_NC, w, gate, gate_bias, gates_NR, sums_NR, rows_MP),
        *(0 if out is None else out.shape[1], type_bias, start, int(add), out),
    )


def gated_rows_backward(
    structure: GraphStructure,
    x_NC: Tensor,
    gates_NR: Tensor,
    grad_MP: Tensor,
    d_x_NC: Tensor,
    d_gates_MR: Tensor,
    at: int = 0,
    part: tuple[slice, slice] | None = None,
    turned: bool = False,
    add: bool = False,
    more: bool = False,
    terms: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None = None,
    logits: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor] | None = None,
) -> None:
    """Write the gradients that belong to `gated_rows`, whose rows have the gradient `grad_MP`.

    Args:
        structure: of N nodes and R types.
        x_NC: as in `gated_rows`, like all that has no entry here.
        gates_NR: as it made them.
        grad_MP: gradient of its rows.
        d_x_NC: result.
        d_gates_MR: result: what all columns so far give.
        at: see there.
        part: see there.
        turned: see there.
        add: to what is in these two results.
        more: add to what is in the other ones.
        terms: with the first columns, sums (N, R), b (R, O), gradient of out (M, O), memory (M, R), and for the result,
            gradient of b.
        logits: with the last columns, w or None, and for the results, gradients of the logits (None where there is w),
            of w (None where there is none), and of u.
    """
    sums, type_bias, grad, of_types, d_type_bias = terms or (None,) * 5
    w, d_gate, d_w, d_gate_bias = logits or (None,) * 4
    call(
        "gated_backward",
        *(*_sizes(structure, part), x_NC.shape[1], at, grad_MP.shape[1]),
        *_edges(structure, not turned),
        *(x_NC, gates_NR, grad_MP, int(add), d_x_NC, d_gates_MR, int(more)),
        *(0 if grad is None else grad.shape[1], sums, type_bias, grad, of_types, d_type_bias),
        *(int(logits is not None), w, d_gate, d_w, d_gate_bias),
    )


def _sizes(structure: GraphStructure, part: tuple[slice, slice] | None) -> tuple[int, int, int, int]:
    """First and last node, number of edges and of types."""
    if part is None:
        return 0, structure.num_nodes, structure.num_edges, structure.num_types
    nodes, edges = part
    return nodes.start, nodes.stop, edges.stop - edges.start, structure.num_types


def _edges(structure: GraphStructure, by_source: bool) -> tuple[Tensor | None, ...]:
    """Pointers, ends, types, and the order of the edges in the types."""
    if not by_source:
        return structure.indptr.contiguous(), structure.indices.contiguous(), structure.etype.contiguous(), None
    tensors = structure.out_indptr, structure.out_indices, structure.etype, structure.out_edges
    return tuple(x.contiguous() for x in tensors)
