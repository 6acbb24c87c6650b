"""Compiled loops over the sorted edges.

Shapes: N nodes, E edges, D width, R edge types.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._cpp import call, cpp_reason
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.typed_comparison.naive import typed_comparison_naive


@register_backend(
    "typed_comparison",
    "cpp",
    devices=["cpu"],
    dtypes=FLOAT,
    reason=cpp_reason,
    auto={"cpu": 30},
    widen_half=True,
    opaque=True,
)
def typed_comparison_cpp(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    type_gate_NR: Float[Tensor, "nodes types"],
    type_bias_RD: Float[Tensor, "types dim"],
    edge_bias_E: Float[Tensor, " edges"] | None = None,
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.typed_comparison`."""
    inputs = feat_ND, gate_N, type_gate_NR, type_bias_RD, edge_bias_E
    return _TypedComparison.apply(structure, *(x if x is None else x.contiguous() for x in inputs))


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
        edges = (x.contiguous() for x in (structure.indptr, structure.indices, structure.etype))
        call(
            "comparison_forward",
            *(structure.num_nodes, structure.num_edges, structure.num_types, feat_ND.shape[1], *edges),
            *(feat_ND, gate_N, type_gate_NR, type_bias_RD),
            edge_bias_E,
            *(gate_E, count_NR, out_ND),
        )
        keep(ctx, (structure, feat_ND, gate_N, type_gate_NR, type_bias_RD, edge_bias_E), gate_E, count_NR, out_ND)
        return out_ND

    @staticmethod
    @backward_pass(typed_comparison_naive)
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_ND, gate_N, _, type_bias_RD, edge_bias_E), (gate_E, count_NR, out_ND) = kept(ctx)
        d_feat, d_type_bias, d_gate = (torch.empty_like(x) for x in (feat_ND, type_bias_RD, gate_N))
        d_edge, d_type_gate = torch.empty_like(gate_E), torch.empty_like(count_NR)
        edges = structure.indptr, structure.etype, structure.out_indptr, structure.out_indices, structure.out_edges
        call(
            "comparison_backward",
            *(structure.num_nodes, structure.num_edges, structure.num_types, feat_ND.shape[1]),
            *(x.contiguous() for x in edges),
            *(feat_ND, type_bias_RD, gate_E, count_NR, out_ND, grad_ND.contiguous()),
            *(torch.empty_like(count_NR), torch.empty_like(gate_N)),
            *(d_feat, d_gate, d_type_gate, d_type_bias, d_edge),
        )
        return None, d_feat, d_gate, d_type_gate, d_type_bias, None if edge_bias_E is None else d_edge
