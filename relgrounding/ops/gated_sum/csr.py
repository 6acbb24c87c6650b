"""Segment by segment of the sorted edges: time and memory grow with edges plus nodes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops._segments import cell_sums, edge_dots, weighted_rows
from relgrounding.ops.gated_sum.naive import gated_sum_naive

# Edges of the items that are worked on together: what is made of them in between then fits into the cache.
PIECE = 2**19


@register_backend(
    "gated_sum",
    "csr",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    auto={"cpu": 10, "cuda": 10},
    widen_half=True,
    opaque=True,
)
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
    return _GatedSum.apply(structure, feat_ND.contiguous(), gate_N.contiguous(), gate_bias_R, type_bias_RD)


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_ND: Tensor, gate_N: Tensor, gate_bias_R: Tensor, type_bias_RD: Tensor
    ) -> Tensor:
        gates_NR = torch.add(gate_N[:, None], gate_bias_R).sigmoid_()
        out_ND, sums_NR = torch.empty_like(feat_ND), torch.empty_like(gates_NR)
        for nodes, _, part in structure.pieces(PIECE):
            gate_E = _gates(gates_NR[nodes], part)
            sums_NR[nodes] = cell_sums(gate_E, _cells(part.destinations, part), gates_NR[nodes].shape)
            out_ND[nodes] = weighted_rows(feat_ND[nodes], part.indices, part.indptr, gate_E)
        keep(ctx, (structure, feat_ND, gate_N, gate_bias_R, type_bias_RD), gates_NR, sums_NR)
        return out_ND.addmm_(sums_NR, type_bias_RD)

    @staticmethod
    @backward_pass(gated_sum_naive)
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_ND, _, _, type_bias_RD), (gates_NR, sums_NR) = kept(ctx)
        grad_ND = grad_ND.contiguous()
        d_feat = torch.empty_like(feat_ND) if ctx.needs_input_grad[1] else None
        d_gates = torch.empty_like(gates_NR) if any(ctx.needs_input_grad[2:4]) else None
        of_types_NR = grad_ND @ type_bias_RD.t()
        for nodes, _, part in structure.pieces(PIECE):
            if d_gates is not None:
                x_E = edge_dots(grad_ND[nodes], feat_ND[nodes], part.indices, part.indptr)
                x_E += of_types_NR[nodes].view(-1).index_select(0, _cells(part.destinations, part))
                d_gates[nodes] = cell_sums(x_E, _cells(part.indices, part), gates_NR[nodes].shape)
            if d_feat is not None:
                turned_E = _gates(gates_NR[nodes], part).index_select(0, part.out_edges)
                d_feat[nodes] = weighted_rows(grad_ND[nodes], part.out_indices, part.out_indptr, turned_E)
        d_type_bias = sums_NR.t() @ grad_ND if ctx.needs_input_grad[4] else None
        if d_gates is None:
            return None, d_feat, None, None, d_type_bias
        torch.ops.aten.sigmoid_backward.grad_input(d_gates, gates_NR, grad_input=d_gates)
        return None, d_feat, d_gates.sum(1), d_gates.sum(0), d_type_bias


def _gates(gates_NR: Tensor, structure: GraphStructure) -> Tensor:
    """(E,) gates of the edges."""
    return gates_NR.view(-1).index_select(0, _cells(structure.indices, structure))


def _cells(nodes_E: Tensor, structure: GraphStructure) -> Tensor:
    """(E,) indices into a flat table of nodes x types."""
    return torch.add(structure.etype, nodes_E, alpha=structure.num_types)
