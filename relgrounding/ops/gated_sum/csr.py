"""Segment by segment of the sorted edges: time and memory grow with edges plus nodes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from relgrounding.graphs import GraphStructure
from relgrounding.ops._segments import cell_sums, edge_dots, weighted_rows


def gated_sum_csr(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.gated_sum`.

    A gate depends on the source and the type only: a table of nodes x types holds all of them, and the sums of the
    type biases are another such table times `type_bias`, see `gated_sum_dgl`.
    """
    return _GatedSum.apply(structure, feat_ND, gate_N, gate_bias_R, type_bias_RD)


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_ND: Tensor, gate_N: Tensor, gate_bias_R: Tensor, type_bias_RD: Tensor
    ) -> Tensor:
        feat_ND = feat_ND.contiguous()
        gates_NR = torch.add(gate_N[:, None], gate_bias_R).sigmoid_()
        gate_E = gates_NR.view(-1).index_select(0, _cells(structure.indices, structure))
        sums_NR = cell_sums(gate_E, _cells(structure.destinations, structure), gates_NR.shape)
        ctx.structure = structure
        ctx.save_for_backward(feat_ND, gates_NR, sums_NR, type_bias_RD, gate_E)
        return weighted_rows(feat_ND, structure.indices, structure.indptr, gate_E).addmm_(sums_NR, type_bias_RD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        feat_ND, gates_NR, sums_NR, type_bias_RD, gate_E = ctx.saved_tensors
        structure, grad_ND = ctx.structure, grad_ND.contiguous()
        d_feat = d_gate = d_gate_bias = d_type_bias = None
        if ctx.needs_input_grad[4]:
            d_type_bias = sums_NR.t() @ grad_ND
        if any(ctx.needs_input_grad[2:4]):
            d_logit_NR = _gate_gradient(structure, feat_ND, gates_NR, type_bias_RD, grad_ND)
            d_gate, d_gate_bias = d_logit_NR.sum(1), d_logit_NR.sum(0)
        if ctx.needs_input_grad[1]:
            turned_E = gate_E.index_select(0, structure.out_edges)
            d_feat = weighted_rows(grad_ND, structure.out_indices, structure.out_indptr, turned_E)
        return None, d_feat, d_gate, d_gate_bias, d_type_bias


def _cells(nodes_E: Tensor, structure: GraphStructure) -> Tensor:
    """(E,) places in a flat table of nodes x types."""
    return torch.add(structure.etype, nodes_E, alpha=structure.num_types)


def _gate_gradient(
    structure: GraphStructure, feat_ND: Tensor, gates_NR: Tensor, type_bias_RD: Tensor, grad_ND: Tensor
) -> Tensor:
    """(N, R) gradient of the gates' logits."""
    x_E = edge_dots(grad_ND, feat_ND, structure.indices, structure.indptr)
    of_types_NR = grad_ND @ type_bias_RD.t()
    x_E += of_types_NR.view(-1).index_select(0, _cells(structure.destinations, structure))
    d_gates_NR = cell_sums(x_E, _cells(structure.indices, structure), gates_NR.shape)
    return torch.ops.aten.sigmoid_backward.grad_input(d_gates_NR, gates_NR, grad_input=d_gates_NR)
