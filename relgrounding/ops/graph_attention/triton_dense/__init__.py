"""Kernels for a GPU that work on whole items: edges as bytes, sums as matrix products on tensor cores.

Forward: one program per block of an item's destinations and head goes through the item's sources, a tile of
(destinations, sources) after another: the weights are computed in registers from the scores and a byte per pair, and
multiplied with the sources' features. It writes the output and two numbers per destination and head. Backward: the same
by destination for the gradient of its scores, then by source for the gradients of features and scores. Nothing per edge
is stored, and the cost grows with the pairs of nodes of an item, joined or not.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import register_backend
from relgrounding.ops._triton import FLOATS, Gradients, fits_tiles, suits_tiles, triton_reason
from relgrounding.ops.graph_attention.triton import graph_attention_triton


@register_backend(
    "graph_attention", "triton_dense", dtypes=FLOATS, reason=triton_reason, auto={"cuda": 50}, suits=suits_tiles
)
def graph_attention_triton_dense(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    score_src_NH: Float[Tensor, "nodes heads"],
    score_dst_NH: Float[Tensor, "nodes heads"],
    negative_slope: float,
) -> Float[Tensor, "nodes heads dim"]:
    """See `relgrounding.ops.graph_attention`; graphs that do not fit tiles run on the kernels of "triton"."""
    inputs = feat_NHD, score_src_NH, score_dst_NH, float(negative_slope)
    if not fits_tiles(structure):
        return graph_attention_triton(structure, *inputs)
    return _GraphAttention.apply(structure, *inputs)


class _GraphAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, structure: GraphStructure, feat: Tensor, src: Tensor, dst: Tensor, slope: float) -> Tensor:
        from relgrounding.ops.graph_attention.triton_dense import _launch

        out, largest, scale = _launch.attend(structure, feat, src, dst, slope)
        ctx.save_for_backward(feat, src, dst, largest, scale)
        ctx.structure, ctx.slope = structure, slope
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from relgrounding.ops.graph_attention.triton_dense import _launch

        _, feat, source, destination, _ = ctx.needs_input_grad
        needs = feat, source or destination
        run = functools.partial(_launch.attend_backward, ctx.structure, ctx.slope, *needs)
        grads = Gradients.apply("graph_attention", run, grad, *ctx.saved_tensors)
        needed = zip((feat, source, destination), grads, strict=True)
        return None, *(g if need else None for need, g in needed), None
