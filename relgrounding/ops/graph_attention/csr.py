"""Segment by segment of the sorted edges: time and memory grow with edges plus nodes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass
from relgrounding.ops._segments import edge_dots, segment_max, segment_sum, weighted_rows
from relgrounding.ops.graph_attention._shift import common_shift

# Edges times heads of the items that are worked on together: what is made of them in between then fits into the cache.
PIECE = 2**21
# Edges at a time where one item of many edges would need one more number an edge and head.
_BLOCK = 2**18

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
        feat_NHD, src_NH, dst_NH = feat_NHD.contiguous(), src_NH.contiguous(), dst_NH.contiguous()
        shift_NH = common_shift(src_NH, dst_NH, slope)
        out_NHD, signed_EH = torch.empty_like(feat_NHD), src_NH.new_empty(structure.num_edges, src_NH.shape[1])
        for nodes, edges, part in structure.pieces(_piece(src_NH)):
            shift = None if shift_NH is None else shift_NH[nodes]
            signed_EH[edges] = _signed_weights(part, src_NH[nodes], dst_NH[nodes], shift, slope)
            _sums_of_heads(feat_NHD[nodes], part.indices, part.indptr, signed_EH[edges].abs(), out_NHD[nodes])
        ctx.structure, ctx.slope = structure, slope
        ctx.save_for_backward(feat_NHD, signed_EH)
        return out_NHD

    @staticmethod
    @backward_pass
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:
        feat_NHD, signed_EH = ctx.saved_tensors
        grad_NHD = grad_NHD.contiguous()
        d_feat = torch.empty_like(feat_NHD) if ctx.needs_input_grad[1] else None
        d_src = d_dst = None
        if any(ctx.needs_input_grad[2:4]):
            d_src, d_dst = (feat_NHD.new_empty(feat_NHD.shape[:2]) for _ in range(2))
        for nodes, edges, part in ctx.structure.pieces(_piece(signed_EH)):
            feat, grad, signed = feat_NHD[nodes], grad_NHD[nodes], signed_EH[edges]
            if d_src is not None and d_dst is not None:
                logit = _dots_of_heads(grad, feat, part.indices, part.indptr)
                _through_softmax(logit, signed, part)
                leaky_relu_backward(logit, signed, ctx.slope, False, grad_input=logit)
                d_dst[nodes] = segment_sum(logit, part.indptr)
                d_src[nodes] = segment_sum(logit.index_select(0, part.out_edges), part.out_indptr)
                del logit
            if d_feat is not None:
                turned = signed.index_select(0, part.out_edges).abs_()
                _sums_of_heads(grad, part.out_indices, part.out_indptr, turned, d_feat[nodes])
        return None, d_feat, d_src, d_dst, None


def _piece(heads_last: Tensor) -> int:
    return PIECE // max(1, heads_last.shape[1])


def _through_softmax(x_EH: Tensor, signed_EH: Tensor, structure: GraphStructure) -> None:
    """In place: the gradient of the logits, ``alpha_e (x_e - sum of alpha x over the segment)``."""
    alpha_EH = signed_EH.abs()
    mean_NH = segment_sum(x_EH.mul_(alpha_EH), structure.indptr)
    for part in zip(*(t.split(_BLOCK) for t in (x_EH, alpha_EH, structure.destinations)), strict=True):
        x, alpha, destinations = part
        x.addcmul_(alpha, mean_NH.index_select(0, destinations), value=-1)


def _signed_weights(
    structure: GraphStructure, src_NH: Tensor, dst_NH: Tensor, shift_NH: Tensor | None, slope: float
) -> Tensor:
    """(E, H) attention weights; those of a negative logit carry a minus sign, which the backward pass needs."""
    destinations = structure.destinations
    logit_EH = src_NH.index_select(0, structure.indices)
    logit_EH += dst_NH.index_select(0, destinations)
    weight_EH = torch.nn.functional.leaky_relu(logit_EH, slope)
    if shift_NH is None:
        shift_NH = segment_max(weight_EH, structure.indptr)
    weight_EH -= shift_NH.index_select(0, destinations)
    scale_NH = segment_sum(weight_EH.exp_(), structure.indptr).reciprocal_()
    weight_EH *= scale_NH.index_select(0, destinations)
    # At 0 the leaky ReLU has the slope of its negative side, which a sum that cancels, +0, would not show.
    return weight_EH.copysign_(logit_EH.sub_(torch.finfo(logit_EH.dtype).tiny))


def _sums_of_heads(feat_NHD: Tensor, index_E: Tensor, indptr: Tensor, weight_EH: Tensor, out_NHD: Tensor) -> None:
    """Write weighted sums; row n of head h is row n * heads + h of the flat features, which nobody copies."""
    heads, index_E = feat_NHD.shape[1], index_E * feat_NHD.shape[1]
    for head in range(heads):
        weight_E = weight_EH[:, head].contiguous()
        out_NHD[:, head] = weighted_rows(feat_NHD.flatten(0, 1), index_E, indptr, weight_E)
        index_E += 1


def _dots_of_heads(rows_NHD: Tensor, feat_NHD: Tensor, index_E: Tensor, indptr: Tensor) -> Tensor:
    """(E, H) products of the edges' ends."""
    dots_EH = feat_NHD.new_empty(len(index_E), feat_NHD.shape[1])
    for head in range(feat_NHD.shape[1]):
        # Copies: the kernel makes some of what it is given, and of all heads they would be several times as large.
        rows_ND, feat_ND = rows_NHD[:, head].contiguous(), feat_NHD[:, head].contiguous()
        dots_EH[:, head] = edge_dots(rows_ND, feat_ND, index_E, indptr)
    return dots_EH
