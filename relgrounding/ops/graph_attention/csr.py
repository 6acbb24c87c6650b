"""Segment by segment of the sorted edges: time and memory grow with edges plus nodes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from relgrounding.graphs import GraphStructure
from relgrounding.ops._segments import edge_dots, segment_max, segment_sum, weighted_rows
from relgrounding.ops.graph_attention._shift import common_shift

leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


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
        alpha_EH = _signed_weights(structure, src_NH, dst_NH, slope)
        ctx.structure, ctx.slope = structure, slope
        ctx.save_for_backward(feat_NHD, alpha_EH)
        return _sums_of_heads(feat_NHD, structure.indices, structure.indptr, alpha_EH.abs())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:
        feat_NHD, signed_EH = ctx.saved_tensors
        structure, grad_NHD = ctx.structure, grad_NHD.contiguous()
        alpha_EH, d_feat, d_src, d_dst = signed_EH.abs(), None, None, None
        if any(ctx.needs_input_grad[2:4]):
            logit_EH = _dots_of_heads(grad_NHD, feat_NHD, structure.indices, structure.indptr)
            # The gradient of a softmax: alpha_e (x_e - sum of alpha x over the segment).
            mean_NH = segment_sum(alpha_EH * logit_EH, structure.indptr)
            logit_EH -= mean_NH.index_select(0, structure.destinations)
            logit_EH *= alpha_EH
            leaky_relu_backward(logit_EH, signed_EH, ctx.slope, False, grad_input=logit_EH)
            d_dst = segment_sum(logit_EH, structure.indptr)
            d_src = segment_sum(logit_EH.index_select(0, structure.out_edges), structure.out_indptr)
            del logit_EH
        if ctx.needs_input_grad[1]:
            turned_EH = alpha_EH.index_select(0, structure.out_edges)
            d_feat = _sums_of_heads(grad_NHD, structure.out_indices, structure.out_indptr, turned_EH)
        return None, d_feat, d_src, d_dst, None


def _signed_weights(structure: GraphStructure, src_NH: Tensor, dst_NH: Tensor, slope: float) -> Tensor:
    """(E, H) attention weights; those of a negative logit carry a minus sign, which the backward pass needs."""
    destinations = structure.destinations
    logit_EH = src_NH.index_select(0, structure.indices)
    logit_EH += dst_NH.index_select(0, destinations)
    weight_EH = torch.nn.functional.leaky_relu(logit_EH, slope)
    shift_NH = common_shift(src_NH, dst_NH, slope)
    if shift_NH is None:
        shift_NH = segment_max(weight_EH, structure.indptr)
    weight_EH -= shift_NH.index_select(0, destinations)
    scale_NH = segment_sum(weight_EH.exp_(), structure.indptr).reciprocal_()
    weight_EH *= scale_NH.index_select(0, destinations)
    return weight_EH.copysign_(logit_EH)


def _sums_of_heads(feat_NHD: Tensor, index_E: Tensor, indptr: Tensor, weight_EH: Tensor) -> Tensor:
    """(N, H, D) weighted sums; row n of head h is row n * heads + h of the flat features, which nobody copies."""
    heads = feat_NHD.shape[1]
    if heads == 1:
        return weighted_rows(feat_NHD.flatten(0, 1), index_E, indptr, weight_EH.flatten()).unsqueeze(1)
    out_NHD, index_E = torch.empty_like(feat_NHD), index_E * heads
    for head in range(heads):
        weight_E = weight_EH[:, head].contiguous()
        out_NHD[:, head] = weighted_rows(feat_NHD.flatten(0, 1), index_E, indptr, weight_E)
        index_E += 1
    return out_NHD


def _dots_of_heads(rows_NHD: Tensor, feat_NHD: Tensor, index_E: Tensor, indptr: Tensor) -> Tensor:
    """(E, H) products of the edges' ends."""
    nodes, heads, _ = feat_NHD.shape
    dots_EH = feat_NHD.new_empty(len(index_E), heads)
    index_E, indptr = index_E * heads, indptr.repeat_interleave(heads)
    for head in range(heads):
        # Of the nodes * heads rows those of other heads are empty.
        own = indptr[heads - 1 - head : (nodes + 1) * heads - head]
        dots_EH[:, head] = edge_dots(rows_NHD.flatten(0, 1), feat_NHD.flatten(0, 1), index_E, own)
        index_E += 1
    return dots_EH
