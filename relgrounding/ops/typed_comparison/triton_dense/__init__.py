"""Kernels for a GPU that work on whole items: types as bytes, sums as matrix products on tensor cores.

Forward: one program per block of an item's destinations and chunk of features goes through the item's sources, a tile
of (destinations, sources) after another: the gates are computed in registers from both nodes' logits and a byte per
pair, multiplied with the sources' features, and added up by type. Backward: by destination, what the gradients of all
gates of a type have in common and the gradients of the types' logits; then by source, the gradients of the features
and of the sources' logits. Nothing per edge is stored but the edges' own logits, where there are any: those lie in a
plane of a number per pair. The cost grows with the pairs of nodes of an item, joined or not.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import register_backend
from relgrounding.ops._triton import FLOATS, Gradients, fits_typed_tiles, suits_typed_tiles, triton_reason
from relgrounding.ops.typed_comparison.triton import typed_comparison_triton


@register_backend(
    "typed_comparison",
    "triton_dense",
    dtypes=FLOATS,
    reason=triton_reason,
    auto={"cuda": 50},
    suits=suits_typed_tiles,
)
def typed_comparison_triton_dense(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    type_gate_NR: Float[Tensor, "nodes types"],
    type_bias_RD: Float[Tensor, "types dim"],
    edge_bias_E: Float[Tensor, " edges"] | None = None,
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.typed_comparison`; graphs that do not fit tiles run on the kernels of "triton"."""
    inputs = feat_ND, gate_N, type_gate_NR, type_bias_RD, edge_bias_E
    if not fits_typed_tiles(structure):
        return typed_comparison_triton(structure, *inputs)
    return _TypedComparison.apply(structure, *inputs)


class _TypedComparison(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, structure: GraphStructure, *inputs: Any) -> Tensor:
        from relgrounding.ops.typed_comparison.triton_dense import _launch

        out, count, scale = _launch.gather(structure, *inputs)
        ctx.save_for_backward(*inputs, count, scale)
        ctx.structure = structure
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from relgrounding.ops.typed_comparison.triton_dense import _launch

        needs = ctx.needs_input_grad[1:]
        run = functools.partial(_launch.gather_backward, ctx.structure, needs)
        grads = Gradients.apply("typed_comparison", run, grad, *ctx.saved_tensors)
        return None, *(g if need else None for need, g in zip(needs, grads, strict=True))
