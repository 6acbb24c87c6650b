"""Fused kernels for a GPU: no tensor of (edges x features), no atomics, the same bits in every run.

Forward: one program per destination and head reads its sources' rows once, E H D numbers in all, most of them from
cache, as the rows of one item are few; it writes the output and two numbers per destination and head. Backward: one
program per source and head reads its destinations' gradients once, E H D numbers, for the features' and the scores'
gradient alike. The gradient of the destinations' scores passes through an (edges, heads) tensor of 4-byte numbers:
written by source, summed by destination, 2 E H numbers instead of another E H D.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import register_backend
from relgrounding.ops._triton import FLOATS, Gradients, accumulator, register, triton_reason


@register_backend(
    "graph_attention",
    "triton",
    dtypes=FLOATS,
    reason=triton_reason,
    auto={"cuda": 40},
)
def graph_attention_triton(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    score_src_NH: Float[Tensor, "nodes heads"],
    score_dst_NH: Float[Tensor, "nodes heads"],
    negative_slope: float,
) -> Float[Tensor, "nodes heads dim"]:
    """See `relgrounding.ops.graph_attention`; the largest temporary tensor is (edges, heads), in the backward."""
    return _GraphAttention.apply(
        feat_NHD,
        score_src_NH,
        score_dst_NH,
        float(negative_slope),
        structure.indptr,
        structure.indices,
        structure.out_indptr,
        structure.out_indices,
        structure.out_edges,
    )


class _GraphAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feat, score_src, score_dst, slope, indptr, indices, *by_source):
        # The scores' gradients subtract the product of gradient and output, whose rounding would not cancel.
        exact = any(ctx.needs_input_grad[1:3])
        out, largest, scale = _attend(feat, score_src, score_dst, indptr, indices, slope, exact)
        ctx.save_for_backward(feat, score_src, score_dst, out, largest, scale, indptr, *by_source)
        ctx.slope = slope
        return out.to(feat.dtype)

    @staticmethod
    def backward(ctx, grad):
        feat, source, destination = ctx.needs_input_grad[:3]
        grads = Gradients.apply(
            "graph_attention", _attend_backward, grad, *ctx.saved_tensors, ctx.slope, feat, source or destination
        )
        needed = zip((feat, source, destination), grads, strict=True)
        return (*(g if need else None for need, g in needed), *[None] * 6)


def _run(*arguments) -> tuple[Tensor, ...]:
    from relgrounding.ops.graph_attention import _triton_launch

    return _triton_launch.attend(*arguments)


def _run_backward(*arguments) -> tuple[Tensor, ...]:
    from relgrounding.ops.graph_attention import _triton_launch

    return _triton_launch.attend_backward(*arguments)


def _fake(feat, score_src, *rest) -> tuple[Tensor, ...]:
    sums = accumulator(feat.dtype)
    return feat.new_empty(feat.shape, dtype=sums if rest[-1] else feat.dtype), *(
        score_src.new_empty(score_src.shape, dtype=sums) for _ in range(2)
    )


def _fake_backward(grad, feat, score_src, *rest) -> tuple[Tensor, ...]:
    need_feat, need_scores = rest[-2:]
    grad_feat = feat.new_empty(feat.shape if need_feat else (0,))
    return grad_feat, *(score_src.new_empty(score_src.shape if need_scores else (0,)) for _ in range(2))


_attend = register(
    "graph_attention_triton(Tensor feat, Tensor score_src, Tensor score_dst, Tensor indptr, Tensor indices,"
    " float slope, bool exact) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
_attend_backward = register(
    "graph_attention_triton_backward(Tensor grad, Tensor feat, Tensor score_src, Tensor score_dst, Tensor out,"
    " Tensor largest, Tensor scale, Tensor indptr, Tensor out_indptr, Tensor out_indices, Tensor out_edges,"
    " float slope, bool need_feat, bool need_scores) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)
