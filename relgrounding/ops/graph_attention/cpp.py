"""Compiled loops over the sorted edges; the layer around them, from its linear map to its bias, in one go.

Shapes: N nodes, C width of x, H heads, D width of a head, O = H * D, E edges.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.graphs._ragged import offsets
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._cpp import call, cpp_reason
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.graph_attention.naive import attention_layer_naive, graph_attention_naive

# Numbers, one per edge and head, that stay in a core's second cache beside the features that they are made of.
LARGEST_ITEM = 1 << 16


@register_backend(
    "graph_attention",
    "cpp",
    devices=["cpu"],
    dtypes=FLOAT,
    reason=cpp_reason,
    auto={"cpu": 30},
    widen_half=True,
    opaque=True,
)
def graph_attention_cpp(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    score_src_NH: Float[Tensor, "nodes heads"],
    score_dst_NH: Float[Tensor, "nodes heads"],
    negative_slope: float,
) -> Float[Tensor, "nodes heads dim"]:
    """See `relgrounding.ops.graph_attention`; between forward and backward it keeps one number per edge and head."""
    feat_NHD, score_src_NH, score_dst_NH = (x.contiguous() for x in (feat_NHD, score_src_NH, score_dst_NH))
    return _Attention.apply(structure, feat_NHD, score_src_NH, score_dst_NH, negative_slope)


@register_backend("attention_layer", "cpp", devices=["cpu"], dtypes=FLOAT)
def attention_layer_cpp(
    structure: GraphStructure,
    x_NC: Float[Tensor, "nodes in_dim"],
    weight_OC: Float[Tensor, "out_dim in_dim"],
    attention_2HD: Float[Tensor, "2 heads dim"],
    bias_O: Float[Tensor, " out_dim"],
    negative_slope: float,
) -> Float[Tensor, "nodes out_dim"]:
    """`graph_attention` of the features ``weight x`` with the scores ``features . attention``, and a bias on top."""
    attention_2HD, bias_O = attention_2HD.contiguous(), bias_O.contiguous()
    return _AttentionLayer.apply(structure, x_NC, weight_OC, attention_2HD, bias_O, negative_slope)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_NHD: Tensor, src_NH: Tensor, dst_NH: Tensor, slope: float
    ) -> Tensor:
        out_NHD, alpha_HE = _attend(structure, feat_NHD, src_NH, dst_NH, None, slope)
        keep(ctx, (structure, feat_NHD, src_NH, dst_NH, slope), alpha_HE)
        return out_NHD

    @staticmethod
    @backward_pass(graph_attention_naive)
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_NHD, _, _, slope), (alpha_HE,) = kept(ctx)
        grads = _attend_backward(structure, feat_NHD, alpha_HE, None, slope, grad_NHD)
        return None, *grads, None


class _AttentionLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        structure: GraphStructure,
        x_NC: Tensor,
        weight_OC: Tensor,
        attention_2HD: Tensor,
        bias_O: Tensor,
        slope: float,
    ) -> Tensor:
        _, heads, dim = attention_2HD.shape
        feat_NHD = torch.mm(x_NC, weight_OC.t()).view(-1, heads, dim)
        src_NH, dst_NH = x_NC.new_empty(2, len(x_NC), heads).unbind(0)
        call("attention_scores", *feat_NHD.shape, feat_NHD, attention_2HD, src_NH, dst_NH)
        out_NHD, alpha_HE = _attend(structure, feat_NHD, src_NH, dst_NH, bias_O, slope)
        keep(ctx, (structure, x_NC, weight_OC, attention_2HD, bias_O, slope), feat_NHD, alpha_HE)
        return out_NHD.flatten(1)

    @staticmethod
    @backward_pass(attention_layer_naive)
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        (structure, x_NC, weight_OC, attention_2HD, _, slope), (feat_NHD, alpha_HE) = kept(ctx)
        d_feat_NHD, *d_scores_NH = _attend_backward(
            structure, feat_NHD, alpha_HE, attention_2HD, slope, grad_NO.reshape(feat_NHD.shape)
        )
        d_scores_H2N = torch.stack(d_scores_NH).permute(2, 0, 1)
        d_attention_2HD = torch.bmm(d_scores_H2N, feat_NHD.transpose(0, 1)).transpose(0, 1)
        d_feat_NO = d_feat_NHD.flatten(1)
        d_x = torch.mm(d_feat_NO, weight_OC) if ctx.needs_input_grad[1] else None
        return None, d_x, torch.mm(d_feat_NO.t(), x_NC), d_attention_2HD, grad_NO.sum(0), None


def _attend(
    structure: GraphStructure, feat_NHD: Tensor, src_NH: Tensor, dst_NH: Tensor, bias_O: Tensor | None, slope: float
) -> tuple[Tensor, Tensor]:
    """The sums, and the weights (H, E) with a minus sign where the leaky ReLU leaks."""
    nodes, heads, dim = feat_NHD.shape
    out_NHD, alpha_HE = torch.empty_like(feat_NHD), feat_NHD.new_empty(heads, structure.num_edges)
    edges = structure.indptr.contiguous(), structure.indices.contiguous()
    inputs = feat_NHD, src_NH, dst_NH, bias_O, float(slope)
    call("attention_forward", nodes, structure.num_edges, heads, dim, *edges, *inputs, alpha_HE, out_NHD)
    return out_NHD, alpha_HE


def _attend_backward(
    structure: GraphStructure,
    feat_NHD: Tensor,
    alpha_HE: Tensor,
    attention_2HD: Tensor | None,
    slope: float,
    grad_NHD: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of features and scores; with `attention_2HD` the first takes in what comes through the scores."""
    nodes, heads, dim = feat_NHD.shape
    items = _items(structure, heads)
    work_HE = torch.empty_like(alpha_HE) if items is None else None
    d_feat_NHD = torch.empty_like(feat_NHD)
    d_src_NH, d_dst_NH = (feat_NHD.new_empty(nodes, heads) for _ in range(2))
    edges = structure.indptr, structure.out_indptr, structure.out_indices, structure.out_edges
    call(
        "attention_backward",
        *(nodes, structure.num_edges, heads, dim, len(structure.batch_num_nodes), items),
        *(x.contiguous() for x in edges),
        *(feat_NHD, attention_2HD, float(slope), alpha_HE, grad_NHD.contiguous()),
        *(work_HE, d_feat_NHD, d_src_NH, d_dst_NH),
    )
    return d_feat_NHD, d_src_NH, d_dst_NH


def _items(structure: GraphStructure, heads: int) -> Tensor | None:
    """(B + 1,) where the items begin, if all threads have some to do and each one is small enough for a cache."""
    bounds = structure.item_edges
    largest = max((after - before for before, after in pairwise(bounds)), default=0)
    if largest * heads > LARGEST_ITEM or largest * 2 * torch.get_num_threads() > structure.num_edges:
        return None
    return offsets(structure.batch_num_nodes)
