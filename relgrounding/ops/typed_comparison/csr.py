"""Segment by segment of the sorted edges: time and memory grow with edges plus nodes.

With s_i = n_i / (1 + n_i), T_i = 1 + sum_j g_ij and G the incoming gradient, the gradient of a gate is

    type_bias[t] . G_i / (1 + n_i[t])^2  +  feat_j . G_i / T_i  -  sum_k g_ik feat_k . G_i / T_i^2

whose first and last terms are a table of nodes x types.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops._segments import cell_sums, edge_dots, segment_sum, weighted_rows
from relgrounding.ops.typed_comparison.naive import comparison_gates, type_cells, typed_comparison_naive

# Edges of the items that are worked on together: what is made of them in between then fits into the cache.
PIECE = 2**19


@register_backend(
    "typed_comparison",
    "csr",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    auto={"cpu": 10, "cuda": 10},
    widen_half=True,
    opaque=True,
)
def typed_comparison_csr(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    type_gate_NR: Float[Tensor, "nodes types"],
    type_bias_RD: Float[Tensor, "types dim"],
    edge_bias_E: Float[Tensor, " edges"] | None = None,
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.typed_comparison`."""
    return _TypedComparison.apply(
        structure, feat_ND.contiguous(), gate_N.contiguous(), type_gate_NR.contiguous(), type_bias_RD, edge_bias_E
    )


class _TypedComparison(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        structure: GraphStructure,
        feat_ND: Tensor,
        gate_N: Tensor,
        type_gate_NR: Tensor,
        type_bias_RD: Tensor,
        edge_bias_E: Tensor | None,
    ) -> Tensor:
        out_ND, count_NR = torch.empty_like(feat_ND), torch.empty_like(type_gate_NR)
        gate_E = feat_ND.new_empty(structure.num_edges)
        for nodes, edges, part in structure.pieces(PIECE):
            bias_E = None if edge_bias_E is None else edge_bias_E[edges]
            own_E = comparison_gates(part, gate_N[nodes], type_gate_NR[nodes], bias_E, naive=True)
            count_NR[nodes] = cell_sums(own_E, type_cells(part), count_NR[nodes].shape)
            out_ND[nodes] = weighted_rows(feat_ND[nodes], part.indices, part.indptr, own_E)
            gate_E[edges] = own_E
        keep(ctx, (structure, feat_ND, gate_N, type_gate_NR, type_bias_RD, edge_bias_E), gate_E, count_NR)
        return out_ND.div_(1 + count_NR.sum(1, keepdim=True)).addmm_(count_NR / (1 + count_NR), type_bias_RD)

    @staticmethod
    @backward_pass(typed_comparison_naive)
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_ND, gate_N, _, type_bias_RD, edge_bias_E), (gate_E, count_NR) = kept(ctx)
        total_N, share_ND = 1 + count_NR.sum(1), grad_ND / (1 + count_NR.sum(1, keepdim=True))
        d_feat = torch.empty_like(feat_ND) if ctx.needs_input_grad[1] else None
        d_gate, d_type_gate, d_edge = torch.empty_like(gate_N), torch.empty_like(count_NR), torch.empty_like(gate_E)
        of_types_NR = (grad_ND @ type_bias_RD.t()).div_((1 + count_NR).square_())
        for nodes, edges, part in structure.pieces(PIECE):
            own_E = gate_E[edges]
            x_E = edge_dots(share_ND[nodes], feat_ND[nodes], part.indices, part.indptr)
            mean_N = segment_sum(own_E * x_E, part.indptr).div_(total_N[nodes])
            table_NR, cell_E = of_types_NR[nodes] - mean_N[:, None], type_cells(part)
            x_E += table_NR.view(-1).index_select(0, cell_E)
            d_edge[edges] = x_E = torch.ops.aten.sigmoid_backward(x_E, own_E)
            d_type_gate[nodes] = cell_sums(x_E, cell_E, table_NR.shape)
            d_gate[nodes] = segment_sum(x_E.index_select(0, part.out_edges), part.out_indptr)
            if d_feat is not None:
                turned_E = own_E.index_select(0, part.out_edges)
                d_feat[nodes] = weighted_rows(share_ND[nodes], part.out_indices, part.out_indptr, turned_E)
        d_type_bias = (count_NR / (1 + count_NR)).t() @ grad_ND if ctx.needs_input_grad[4] else None
        return None, d_feat, d_gate, d_type_gate, d_type_bias, None if edge_bias_E is None else d_edge
