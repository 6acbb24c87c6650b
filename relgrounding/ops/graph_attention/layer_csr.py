"""The whole attention layer, from its linear map to its bias, one cache-sized piece of the batch at a time.

Of all intermediate results only the features and the attention weights are kept for the backward pass.
Shapes: N nodes, C width of x, H heads, D width of a head, O = H * D; of a piece: n nodes, M = H * n, F = H * edges.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops._segments import cell_sums, edge_dots, segment_sum, weighted_rows
from relgrounding.ops.graph_attention._copies import Copies, copies
from relgrounding.ops.graph_attention._shift import common_shift
from relgrounding.ops.graph_attention.csr import PIECE, logit_gradient, signed_weights
from relgrounding.ops.graph_attention.naive import attention_layer_naive


@register_backend("attention_layer", "csr", devices=["cpu"], dtypes=FLOAT)
def attention_layer_csr(
    structure: GraphStructure,
    x_NC: Float[Tensor, "nodes in_dim"],
    weight_OC: Float[Tensor, "out_dim in_dim"],
    attention_2HD: Float[Tensor, "2 heads dim"],
    bias_O: Float[Tensor, " out_dim"],
    negative_slope: float,
) -> Float[Tensor, "nodes out_dim"]:
    """`graph_attention` of the features ``weight x`` with the scores ``features . attention``, plus a bias."""
    return _AttentionLayer.apply(structure, x_NC, weight_OC, attention_2HD, bias_O, negative_slope)


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
        heads, dim = attention_2HD.shape[1:]
        out_NHD, bias_H1D = x_NC.new_empty(len(x_NC), heads, dim), bias_O.view(heads, 1, dim)
        signed, by_head = x_NC.new_empty(structure.num_edges * heads), []
        for graph in copies(structure, heads, PIECE):
            feat_nHD = torch.mm(x_NC[graph.nodes], weight_OC[_rows(graph, dim)].t()).unflatten(1, (graph.count, dim))
            feat_HnD = feat_nHD.transpose(0, 1).contiguous()
            src_Hn, dst_Hn = torch.bmm(attention_2HD[:, graph.heads].transpose(0, 1), feat_HnD.mT).unbind(1)
            shift_nH = common_shift(src_Hn.t(), dst_Hn.t(), slope)
            shift_M = None if shift_nH is None else shift_nH.t().reshape(-1)
            signed_F = signed_weights(graph, src_Hn.reshape(-1), dst_Hn.reshape(-1), shift_M, slope)
            signed[graph.span] = signed_F
            sums_MD = weighted_rows(feat_HnD.flatten(0, 1), graph.sources, graph.indptr, signed_F.abs_())
            torch.add(sums_MD.view_as(feat_HnD), bias_H1D[graph.heads], out=graph.part(out_NHD))
            by_head.append(feat_HnD)
        keep(ctx, (structure, x_NC, weight_OC, attention_2HD, bias_O, slope), signed, *by_head)
        return out_NHD.flatten(1)

    @staticmethod
    @backward_pass(attention_layer_naive)
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        (structure, x_NC, weight_OC, attention_2HD, _, slope), (signed, *by_head) = kept(ctx)
        heads, dim = attention_2HD.shape[1:]
        grad_NHD = grad_NO.unflatten(1, (heads, dim))
        d_x = torch.empty_like(x_NC, memory_format=torch.contiguous_format) if ctx.needs_input_grad[1] else None
        d_weight, d_attention = (torch.zeros_like(t) for t in (weight_OC, attention_2HD))
        for graph, feat_HnD in zip(copies(structure, heads, PIECE), by_head, strict=True):
            signed_F, grad_HnD = signed[graph.span], graph.part(grad_NHD).contiguous()
            grad_MD, attention_H2D = grad_HnD.flatten(0, 1), attention_2HD[:, graph.heads].transpose(0, 1)
            d_scores_H2n = _score_gradients(graph, grad_MD, feat_HnD.flatten(0, 1), signed_F, slope)
            alpha_F = graph.by_source(signed_F).abs_()
            sums_MD = weighted_rows(grad_MD, graph.out_destinations, graph.out_indptr, alpha_F)
            d_feat_HnD = sums_MD.view_as(grad_HnD).baddbmm_(d_scores_H2n.mT, attention_H2D)
            d_attention[:, graph.heads] += torch.bmm(d_scores_H2n, feat_HnD).transpose(0, 1)
            d_feat_nO, rows = d_feat_HnD.transpose(0, 1).flatten(1), _rows(graph, dim)
            d_weight[rows].addmm_(d_feat_nO.t(), x_NC[graph.nodes])
            if d_x is not None and graph.heads.start == 0:
                torch.mm(d_feat_nO, weight_OC[rows], out=d_x[graph.nodes])
            elif d_x is not None:
                d_x[graph.nodes].addmm_(d_feat_nO, weight_OC[rows])
        return None, d_x, d_weight, d_attention, grad_NO.sum(0), None


def _rows(graph: Copies, dim: int) -> slice:
    """The rows of the weight that map to the features of a piece's heads."""
    return slice(graph.heads.start * dim, graph.heads.stop * dim)


def _score_gradients(graph: Copies, grad_MD: Tensor, feat_MD: Tensor, signed_F: Tensor, slope: float) -> Tensor:
    """(H, 2, n) gradients of the scores of sources and of destinations."""
    logit_F = edge_dots(grad_MD, feat_MD, graph.sources, graph.indptr)
    logit_gradient(logit_F, signed_F, graph, slope)
    src_M = cell_sums(logit_F, graph.sources, torch.Size([len(feat_MD)]))
    dst_M = segment_sum(logit_F, graph.indptr)
    return torch.stack([src_M.view(graph.count, -1), dst_M.view(graph.count, -1)], 1)
