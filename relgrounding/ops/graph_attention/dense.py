"""Padded matrices of attention weights, one head of a few items at a time: the sums are matrix products."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._dense import mostly_joined
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.graph_attention._matrix import Weights, edge_counts
from relgrounding.ops.graph_attention.naive import graph_attention_naive

# Of all ordered pairs of nodes: joined pairs from which `auto` takes this backend.
SHARE = 0.3

leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


@register_backend(
    "graph_attention",
    "dense",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    auto={"cpu": 20},
    suits=mostly_joined(SHARE),
    widen_half=True,
    opaque=True,
)
def graph_attention_dense(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    score_src_NH: Float[Tensor, "nodes heads"],
    score_dst_NH: Float[Tensor, "nodes heads"],
    negative_slope: float,
) -> Float[Tensor, "nodes heads dim"]:
    """See `relgrounding.ops.graph_attention`; the backward pass recomputes the weights from shift and sum per row."""
    return _Attention.apply(structure, feat_NHD, score_src_NH, score_dst_NH, negative_slope)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_NHD: Tensor, src_NH: Tensor, dst_NH: Tensor, slope: float
    ) -> Tensor:
        weights = Weights(src_NH, dst_NH, slope)
        out_NHD = torch.empty_like(feat_NHD, memory_format=torch.contiguous_format)
        work = torch.empty(3, _most_cells(structure), dtype=feat_NHD.dtype, device=feat_NHD.device)
        for group in structure.groups:
            feat, target, rows_of = group.pad(feat_NHD), group.target(out_NHD), weights.of(group)
            for rows in group.blocks():
                shape = (group.size[0], rows.stop - rows.start, group.size[1])
                matrix, other, count = (x[: shape[0] * shape[1] * shape[2]].view(shape) for x in work)
                edge_counts(group, rows, structure.num_types, out=count)
                for head in range(feat.shape[2]):
                    scale = rows_of.raw(head, rows, count, matrix, other)
                    torch.mul(torch.bmm(matrix, feat[:, :, head]), scale, out=target[:, rows, head])
            group.write(out_NHD, target)
            rows_of.keep()
        keep(ctx, (structure, feat_NHD, src_NH, dst_NH, slope), *weights.kept())
        return out_NHD

    @staticmethod
    @backward_pass(graph_attention_naive)
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_NHD, src_NH, dst_NH, slope), factors = kept(ctx)
        grad_NHD, weights = grad_NHD.contiguous(), Weights(src_NH, dst_NH, slope, factors)
        d_feat, d_src, d_dst = (torch.empty_like(x) for x in (grad_NHD, src_NH, dst_NH))
        work = torch.empty(4, _most_cells(structure), dtype=feat_NHD.dtype, device=feat_NHD.device)
        for group in structure.groups:
            feat, grad, src, dst = (group.pad(x) for x in (feat_NHD, grad_NHD, src_NH, dst_NH))
            to_feat, to_dst = group.target(d_feat), group.target(d_dst)
            to_src, rows_of = group.target(d_src).zero_(), weights.of(group)
            for rows in group.blocks():
                shape = (group.size[0], rows.stop - rows.start, group.size[1])
                alpha, x, logit, count = (part[: shape[0] * shape[1] * shape[2]].view(shape) for part in work)
                edge_counts(group, rows, structure.num_types, out=count)
                for head in range(feat.shape[2]):
                    rows_of.normalised(head, rows, count, alpha, x)
                    part = torch.bmm(alpha.mT, grad[:, rows, head])
                    to_feat[:, :, head] = part if rows.start == 0 else part.add_(to_feat[:, :, head])
                    # The gradient of a softmax: alpha (x - sum of alpha x over the row).
                    torch.bmm(grad[:, rows, head], feat[:, :, head].mT, out=x)
                    mean = x.mul_(alpha).sum(2, keepdim=True)
                    x.addcmul_(alpha, mean, value=-1)
                    torch.add(src[:, None, :, head], dst[:, rows, None, head], out=logit)
                    leaky_relu_backward(x, logit, slope, False, grad_input=x)
                    to_dst[:, rows, head] = x.sum(2)
                    to_src[:, :, head] += x.sum(1)
            for out, target in ((d_feat, to_feat), (d_src, to_src), (d_dst, to_dst)):
                group.write(out, target)
        return None, d_feat, d_src, d_dst, None


def _most_cells(structure: GraphStructure) -> int:
    shapes = ((*group.size, group.size[1], rows) for group in structure.groups for rows in group.blocks())
    return max((items * (rows.stop - rows.start) * longest for items, _, longest, rows in shapes), default=0)
