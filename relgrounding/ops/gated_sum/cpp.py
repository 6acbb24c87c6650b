"""Compiled loops over the sorted edges.

Shapes: N nodes, D width, R edge types.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass
from relgrounding.ops._cpp import call


def gated_sum_cpp(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.gated_sum`, and `gated_sum_csr` for the two tables of nodes x types."""
    return _GatedSum.apply(structure, feat_ND, gate_N, gate_bias_R, type_bias_RD)


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_ND: Tensor, gate_N: Tensor, gate_bias_R: Tensor, type_bias_RD: Tensor
    ) -> Tensor:
        feat_ND = feat_ND.contiguous()
        gates_NR = torch.add(gate_N[:, None], gate_bias_R).sigmoid_()
        out_ND, sums_NR = torch.empty_like(feat_ND), torch.empty_like(gates_NR)
        gated_rows(structure, gates_NR, feat_ND, out_ND, sums_NR)
        ctx.structure = structure
        ctx.save_for_backward(feat_ND, gates_NR, sums_NR, type_bias_RD)
        return out_ND.addmm_(sums_NR, type_bias_RD)

    @staticmethod
    @backward_pass
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        feat_ND, gates_NR, sums_NR, type_bias_RD = ctx.saved_tensors
        grad_ND = grad_ND.contiguous()
        d_feat, d_gates = torch.empty_like(feat_ND), torch.empty_like(gates_NR)
        of_types_NR, d_gate = torch.mm(grad_ND, type_bias_RD.t()), feat_ND.new_empty(len(feat_ND))
        gated_rows_backward(ctx.structure, gates_NR, feat_ND, grad_ND, of_types_NR, d_feat, d_gates, d_gate)
        return None, d_feat, d_gate, d_gates.sum(0), torch.mm(sums_NR.t(), grad_ND)


def gated_rows(
    structure: GraphStructure,
    gates_NR: Tensor,
    table_ND: Tensor,
    out_ND: Tensor,
    sums_NR: Tensor | None = None,
    turned: bool = False,
) -> None:
    """Write ``out_i = sum of gates[j, type] table_j`` over the in-edges, or the out-edges where the graph is `turned`.

    The rows of both tables may lie apart. `sums_NR` gets the sums of the gates.
    """
    call(
        "gated_forward",
        *(structure.num_nodes, structure.num_edges, structure.num_types, table_ND.shape[1]),
        *_edges(structure, turned),
        *(gates_NR, table_ND, table_ND.stride(0), sums_NR, out_ND, out_ND.stride(0)),
    )


def gated_rows_backward(
    structure: GraphStructure,
    gates_NR: Tensor,
    own_ND: Tensor,
    grad_ND: Tensor,
    of_types_NR: Tensor | None,
    d_own_ND: Tensor,
    d_gates_NR: Tensor,
    d_logits_N: Tensor | None = None,
    turned: bool = False,
    add: bool = False,
) -> None:
    """Write, or `add`, the gradients that belong to `gated_rows` of `own_ND` and to a term `of_types_NR` an edge.

    The rows of `own_ND` and `d_own_ND` lie equally far apart, those of `grad_ND` as they do. Without `d_logits_N`,
    `d_gates_NR` is the gradient of the gates. With it, it is that of what their sigmoid is taken of, and `d_logits_N`
    its sum over the types.
    """
    logits_stride = 0 if d_logits_N is None else d_logits_N.stride(0)
    call(
        "gated_backward",
        *(structure.num_nodes, structure.num_edges, structure.num_types, own_ND.shape[1]),
        *_edges(structure, not turned),
        *(gates_NR, own_ND, own_ND.stride(0), grad_ND, grad_ND.stride(0), of_types_NR, int(add)),
        *(d_own_ND, d_gates_NR, d_logits_N, logits_stride),
    )


def _edges(structure: GraphStructure, by_source: bool) -> tuple[Tensor | None, ...]:
    """Pointers, ends, types, and the order of the edges in the types."""
    if not by_source:
        return structure.indptr.contiguous(), structure.indices.contiguous(), structure.etype.contiguous(), None
    tensors = structure.out_indptr, structure.out_indices, structure.etype, structure.out_edges
    return tuple(x.contiguous() for x in tensors)
