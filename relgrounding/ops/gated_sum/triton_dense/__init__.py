"""Kernels for a GPU that work on whole items: types as bytes, sums as matrix products on tensor cores.

Forward: one program per block of an item's destinations and chunk of features goes through the item's sources, a tile
of (destinations, sources) after another: the gates are computed in registers from the sources' logits and a byte per
pair, multiplied with the sources' features, and added up by type. Backward: the same by source, for the gradients of
the features and of the logits, which it leaves as a (nodes, types) table. Nothing per edge is stored, and the cost
grows with the pairs of nodes of an item, joined or not.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import register_backend
from relgrounding.ops._triton import FLOATS, Gradients, fits_typed_tiles, suits_typed_tiles, triton_reason
from relgrounding.ops.gated_sum.triton import gated_sum_triton


@register_backend(
    "gated_sum", "triton_dense", dtypes=FLOATS, reason=triton_reason, auto={"cuda": 50}, suits=suits_typed_tiles
)
def gated_sum_triton_dense(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.gated_sum`; graphs that do not fit tiles run on the kernels of "triton"."""
    inputs = feat_ND, gate_N, gate_bias_R, type_bias_RD
    if not fits_typed_tiles(structure):
        return gated_sum_triton(structure, *inputs)
    return _GatedSum.apply(structure, *inputs)


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, structure: GraphStructure, *inputs: Tensor) -> Tensor:
        from relgrounding.ops.gated_sum.triton_dense import _launch

        out, table = _launch.gather(structure, inputs, ctx.needs_input_grad[4])
        ctx.save_for_backward(*inputs, table)
        ctx.structure = structure
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from relgrounding.ops.gated_sum.triton_dense import _launch

        needs = ctx.needs_input_grad[1:]
        run = functools.partial(_launch.gather_backward, ctx.structure, needs)
        grads = Gradients.apply("gated_sum", run, grad, *ctx.saved_tensors)
        return None, *(g if need else None for need, g in zip(needs, grads, strict=True))
