"""Compiled loops over the sorted edges.

Shapes: N nodes, D width, R edge types, K directions: 1, or 2 in `layer_cpp`.
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
    """See `relgrounding.ops.gated_sum`; keeps a table of nodes x types for the backward pass."""
    return _GatedSum.apply(structure, *(x.contiguous() for x in (feat_ND, gate_N, gate_bias_R, type_bias_RD)))


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_ND: Tensor, gate_N: Tensor, gate_bias_R: Tensor, type_bias_RD: Tensor
    ) -> Tensor:
        out_ND, gates_1NR = torch.empty_like(feat_ND), feat_ND.new_empty(1, len(feat_ND), len(gate_bias_R))
        nodes = slice(0, len(feat_ND))
        gated_forward(
            structure, nodes, feat_ND, gates_1NR, gate_bias_R[None], type_bias_RD[None], out_ND, gate_N=gate_N
        )
        keep(ctx, (structure, feat_ND, gate_N, gate_bias_R, type_bias_RD), gates_1NR)
        return out_ND

    @staticmethod
    @backward_pass(gated_sum_naive)
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_ND, gate_N, gate_bias_R, type_bias_RD), (gates_1NR,) = kept(ctx)
        d_feat, d_gate = torch.empty_like(feat_ND), torch.empty_like(gate_N)
        d_gate_bias, d_type_bias = torch.zeros_like(gate_bias_R), torch.zeros_like(type_bias_RD)
        nodes, d_sources = slice(0, len(feat_ND)), (d_feat, d_gate[:, None])
        d_types = d_gate_bias[None], d_type_bias[None]
        gated_backward(
            structure, nodes, feat_ND, gates_1NR, type_bias_RD[None], grad_ND.contiguous(), 0, *d_sources, *d_types
        )
        return None, d_feat, d_gate, d_gate_bias, d_type_bias


def gated_forward(
    structure: GraphStructure,
    nodes: slice,
    feat: Tensor,
    gates_KNR: Tensor,
    gate_bias_KR: Tensor,
    type_bias_KRD: Tensor,
    out_ND: Tensor,
    *,
    gate_N: Tensor | None = None,
    x_NC: Tensor | None = None,
    w_KC: Tensor | None = None,
    bias_D: Tensor | None = None,
) -> None:
    """Compute the gates of some items, and ``out_i = sum of gates[k, j, type] (feat[j, k] + type_bias[k, type])``.

    The sum is over the in-edges, and over the out-edges with gates, features and biases of their own where there are
    two directions. Tensors are contiguous, and those of all nodes are left alone at the others, unless said otherwise.

    Args:
        structure: of N nodes and R types.
        nodes: of the items.
        feat: (nodes, K D), of these nodes alone; rows may lie apart.
        gates_KNR: result.
        gate_bias_KR: see `gate_N`.
        type_bias_KRD: see above.
        out_ND: result.
        gate_N: logits, to which the gate biases are added; None: those of the next two.
        x_NC: inputs.
        w_KC: maps from them to logits.
        bias_D: with it, ``out = ReLU(what was there + bias + sum)``.
    """
    width = 0 if x_NC is None else x_NC.shape[1]
    call(
        "gated_forward",
        *_sizes(structure, nodes, type_bias_KRD),
        *_edges(structure),
        *(gates_KNR, feat, feat.stride(0), type_bias_KRD),
        *(width, x_NC, w_KC, gate_N, gate_bias_KR, bias_D, out_ND),
    )


def gated_backward(
    structure: GraphStructure,
    nodes: slice,
    feat: Tensor,
    gates_KNR: Tensor,
    type_bias_KRD: Tensor,
    grad: Tensor,
    first: int,
    d_feat: Tensor,
    d_logit: Tensor,
    d_gate_bias_KR: Tensor,
    d_type_bias_KRD: Tensor,
    way: int = 0,
) -> None:
    """Compute the gradients of the sums of `gated_forward` at some nodes, in their role as sources.

    Args:
        structure: as there, and the next four, whose nodes may be some of an item.
        nodes: see above.
        feat: of these nodes alone.
        gates_KNR: as computed there.
        type_bias_KRD: as there.
        grad: (nodes, D) gradient of the sums at all nodes of the items, from node `first` on; rows may lie apart.
        first: see above.
        d_feat: (nodes, K D) result for these nodes; rows may lie apart.
        d_logit: (nodes, K) result for these nodes: gradients of the logits; rows may lie apart.
        d_gate_bias_KR: to this the gradients are added.
        d_type_bias_KRD: to this, too.
        way: the first of the K directions that the work is on; `gates_KNR` has all of them in any case.
    """
    call(
        "gated_backward",
        *_sizes(structure, nodes, type_bias_KRD),
        *_edges(structure),
        *(way, gates_KNR, feat, feat.stride(0), type_bias_KRD, grad, grad.stride(0), first),
        *(d_feat, d_feat.stride(0), d_logit, d_logit.stride(0), d_type_bias_KRD, d_gate_bias_KR),
    )


def _sizes(structure: GraphStructure, nodes: slice, type_bias_KRD: Tensor) -> tuple[int | Tensor, ...]:
    """The nodes, the items, and the sizes of all that belongs to a type."""
    items = structure.batch_size, structure.item_indptr
    return nodes.start, nodes.stop, *items, structure.num_nodes, *type_bias_KRD.shape


def _edges(structure: GraphStructure) -> tuple[Tensor, ...]:
    forward = structure.indptr, structure.indices, structure.etype
    return tuple(x.contiguous() for x in (*forward, structure.out_indptr, structure.out_indices, structure.out_edges))


def relu_backward(grad_ND: Tensor, result_ND: Tensor, d_rows_ND: Tensor, d_bias_D: Tensor) -> None:
    """Write the gradient of the input of a ReLU into rows that may lie apart, and add its sum to that of a bias."""
    call("gated_relu_backward", *result_ND.shape, grad_ND, result_ND, d_rows_ND, d_rows_ND.stride(0), d_bias_D)
