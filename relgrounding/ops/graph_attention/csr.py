"""Segment by segment of the sorted edges: time and memory grow with edges plus nodes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops._segments import edge_dots, segment_max, segment_sum, weighted_rows
from relgrounding.ops.graph_attention._copies import Copies, copies
from relgrounding.ops.graph_attention._shift import common_shift
from relgrounding.ops.graph_attention.naive import graph_attention_naive

# Edges times heads of the items that are computed together, so that intermediate results fit into the cache.
PIECE = 2**18
# Edges at a time where a large item would need one more number per edge and head.
_BLOCK = 2**18

leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


@register_backend(
    "graph_attention",
    "csr",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    auto={"cpu": 10, "cuda": 10},
    widen_half=True,
    opaque=True,
)
def graph_attention_csr(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    score_src_NH: Float[Tensor, "nodes heads"],
    score_dst_NH: Float[Tensor, "nodes heads"],
    negative_slope: float,
) -> Float[Tensor, "nodes heads dim"]:
    """See `relgrounding.ops.graph_attention`; between forward and backward it keeps one number per edge and head.

    All heads run in one call, each on its own copy of the graph: M = heads * N nodes, F = heads * E edges.
    """
    return _Attention.apply(structure, feat_NHD, score_src_NH, score_dst_NH, negative_slope)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_NHD: Tensor, src_NH: Tensor, dst_NH: Tensor, slope: float
    ) -> Tensor:
        shift_NH = common_shift(src_NH, dst_NH, slope)
        out_NHD = torch.empty_like(feat_NHD, memory_format=torch.contiguous_format)
        signed = src_NH.new_empty(structure.num_edges * src_NH.shape[1])
        for graph in copies(structure, src_NH.shape[1], PIECE):
            shift_M = None if shift_NH is None else graph.of_nodes(shift_NH)
            signed_F = signed_weights(graph, graph.of_nodes(src_NH), graph.of_nodes(dst_NH), shift_M, slope)
            signed[graph.span] = signed_F
            sums_MD = weighted_rows(graph.of_nodes(feat_NHD), graph.sources, graph.indptr, signed_F.abs_())
            graph.write(out_NHD, sums_MD)
        keep(ctx, (structure, feat_NHD, src_NH, dst_NH, slope), signed)
        return out_NHD

    @staticmethod
    @backward_pass(graph_attention_naive)
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_NHD, _, _, slope), (signed,) = kept(ctx)
        d_feat = torch.empty_like(grad_NHD, memory_format=torch.contiguous_format) if ctx.needs_input_grad[1] else None
        d_src = d_dst = None
        if any(ctx.needs_input_grad[2:4]):
            d_src, d_dst = (feat_NHD.new_empty(feat_NHD.shape[:2]) for _ in range(2))
        for graph in copies(structure, feat_NHD.shape[1], PIECE):
            grad_MD, signed_F = graph.of_nodes(grad_NHD), signed[graph.span]
            if d_src is not None and d_dst is not None:
                logit_F = edge_dots(grad_MD, graph.of_nodes(feat_NHD), graph.sources, graph.indptr)
                logit_gradient(logit_F, signed_F, graph, slope)
                graph.write(d_dst, segment_sum(logit_F, graph.indptr))
                graph.write(d_src, segment_sum(graph.by_source(logit_F), graph.out_indptr))
                del logit_F
            if d_feat is not None:
                alpha_F = graph.by_source(signed_F).abs_()
                graph.write(d_feat, weighted_rows(grad_MD, graph.out_destinations, graph.out_indptr, alpha_F))
        return None, d_feat, d_src, d_dst, None


def logit_gradient(x_F: Tensor, signed_F: Tensor, graph: Copies, slope: float) -> None:
    """In place: ``alpha_e (x_e - sum of alpha x over the segment)``, then the gradient of the leaky ReLU."""
    alpha_F = signed_F.abs()
    mean_M = segment_sum(x_F.mul_(alpha_F), graph.indptr)
    for x, alpha, destinations in zip(*(t.split(_BLOCK) for t in (x_F, alpha_F, graph.destinations)), strict=True):
        x.addcmul_(alpha, mean_M.index_select(0, destinations), value=-1)
    leaky_relu_backward(x_F, signed_F, slope, False, grad_input=x_F)


def signed_weights(graph: Copies, src_M: Tensor, dst_M: Tensor, shift_M: Tensor | None, slope: float) -> Tensor:
    """(F,) attention weights; negative where the logit is, which the backward pass needs."""
    logit_F = src_M.index_select(0, graph.sources)
    logit_F += dst_M.index_select(0, graph.destinations)
    weight_F = torch.nn.functional.leaky_relu(logit_F, slope)
    if shift_M is None:
        shift_M = segment_max(weight_F, graph.indptr).clamp_min_(torch.finfo(weight_F.dtype).min)
    weight_F -= shift_M.index_select(0, graph.destinations)
    # Where all logits of a node are minus infinity, the weights are zero, not 0 / 0.
    scale_M = segment_sum(weight_F.exp_(), graph.indptr).clamp_min_(torch.finfo(weight_F.dtype).tiny).reciprocal_()
    weight_F *= scale_M.index_select(0, graph.destinations)
    # At 0 the leaky ReLU has its negative slope, which the sign of a sum that cancels to +0 would not show.
    return weight_F.copysign_(logit_F.sub_(torch.finfo(logit_F.dtype).tiny))
