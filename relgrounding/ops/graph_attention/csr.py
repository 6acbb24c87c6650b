"""One head at a time, segment by segment of the sorted edges: time and memory grow with edges plus nodes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from relgrounding.graphs import GraphStructure
from relgrounding.ops._segments import edge_dots, segment_max, segment_sum, weighted_rows
from relgrounding.ops.graph_attention._shift import common_shift


def graph_attention_csr(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    score_src_NH: Float[Tensor, "nodes heads"],
    score_dst_NH: Float[Tensor, "nodes heads"],
    negative_slope: float,
) -> Float[Tensor, "nodes heads dim"]:
    """See `relgrounding.ops.graph_attention`; between forward and backward it keeps one number an edge and head."""
    return _Attention.apply(structure, feat_NHD, score_src_NH, score_dst_NH, negative_slope)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_NHD: Tensor, src_NH: Tensor, dst_NH: Tensor, slope: float
    ) -> Tensor:
        feat_NHD = feat_NHD.contiguous()
        alpha_HE = _signed_weights(structure, src_NH, dst_NH, slope)
        out_NHD = torch.empty_like(feat_NHD)
        table, index = feat_NHD.flatten(0, 1), structure.indices * feat_NHD.shape[1]
        for head, alpha_E in enumerate(alpha_HE):
            out_NHD[:, head] = weighted_rows(table, index, structure.indptr, alpha_E.abs())
            index += 1
        ctx.structure, ctx.slope = structure, slope
        ctx.save_for_backward(feat_NHD, alpha_HE)
        return out_NHD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:
        feat_NHD, alpha_HE = ctx.saved_tensors
        structure, grad_NHD = ctx.structure, grad_NHD.contiguous()
        heads = feat_NHD.shape[1]
        need_feat, need_score = ctx.needs_input_grad[1], any(ctx.needs_input_grad[2:4])
        d_feat = torch.empty_like(feat_NHD) if need_feat else None
        d_src, d_dst = (feat_NHD.new_empty(2, len(feat_NHD), heads) if need_score else (None, None))
        out_index, index = structure.out_indices * heads, structure.indices * heads
        rows = structure.indptr.repeat_interleave(heads)
        for head, signed_E in enumerate(alpha_HE):
            alpha_E = signed_E.abs()
            if d_feat is not None:
                turned_E = alpha_E.index_select(0, structure.out_edges)
                d_feat[:, head] = weighted_rows(grad_NHD.flatten(0, 1), out_index, structure.out_indptr, turned_E)
                out_index += 1
            if d_src is not None and d_dst is not None:
                # Row i of this head is row i * heads + head of the flat features; the rows of other heads are empty.
                indptr = rows[heads - 1 - head : (len(feat_NHD) + 1) * heads - head]
                x_E = edge_dots(grad_NHD.flatten(0, 1), feat_NHD.flatten(0, 1), index, indptr)
                index += 1
                logit_E = _softmax_gradient(structure, alpha_E, x_E)
                torch.ops.aten.leaky_relu_backward.grad_input(
                    logit_E, signed_E, ctx.slope, False, grad_input=logit_E
                )
                d_dst[:, head] = segment_sum(logit_E, structure.indptr)
                torch.index_select(logit_E, 0, structure.out_edges, out=alpha_E)
                d_src[:, head] = segment_sum(alpha_E, structure.out_indptr)
        return None, d_feat, d_src, d_dst, None


def _signed_weights(structure: GraphStructure, src_NH: Tensor, dst_NH: Tensor, slope: float) -> Tensor:
    """(H, E) attention weights; those of a negative logit carry a minus sign, which the backward pass needs."""
    source, destination = structure.indices, structure.destinations
    alpha_HE = src_NH.new_empty(src_NH.shape[1], len(source))
    shift_NH = common_shift(src_NH, dst_NH, slope)
    for head, alpha_E in enumerate(alpha_HE):
        logit_E = src_NH[:, head].index_select(0, source)
        logit_E += torch.index_select(dst_NH[:, head], 0, destination, out=alpha_E)
        weight_E = torch.nn.functional.leaky_relu(logit_E, slope)
        shift_N = segment_max(weight_E, structure.indptr) if shift_NH is None else shift_NH[:, head]
        weight_E -= torch.index_select(shift_N, 0, destination, out=alpha_E)
        total_N = segment_sum(weight_E.exp_(), structure.indptr)
        weight_E *= torch.index_select(total_N.reciprocal_(), 0, destination, out=alpha_E)
        torch.copysign(weight_E, logit_E, out=alpha_E)
    return alpha_HE


def _softmax_gradient(structure: GraphStructure, alpha_E: Tensor, x_E: Tensor) -> Tensor:
    """(E,) gradient of the logits, ``alpha_e (x_e - sum of alpha x over the segment)``, in the place of x."""
    mean_N = segment_sum(alpha_E * x_E, structure.indptr)
    x_E -= mean_N.index_select(0, structure.destinations)
    return x_E.mul_(alpha_E)
