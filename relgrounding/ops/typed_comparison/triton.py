"""Fused kernels for a GPU: no tensor of (edges x features), no atomics, the same bits in every run.

Forward: one program per destination reads its sources' rows once, E D numbers in all, and writes the (nodes, types)
table of gate sums beside the output. Backward: a pass over the destinations' gradients, N D numbers, gives what all
gates of a type have in common; one program per source then reads its destinations' gradients once, E D numbers, for the
features' and the gates' gradient alike.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import register_backend
from relgrounding.ops._triton import FLOATS, Gradients, accumulator, register, triton_reason


@register_backend(
    "typed_comparison",
    "triton",
    dtypes=FLOATS,
    reason=triton_reason,
    auto={"cuda": 40},
)
def typed_comparison_triton(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    type_gate_NR: Float[Tensor, "nodes types"],
    type_bias_RD: Float[Tensor, "types dim"],
    edge_bias_E: Float[Tensor, " edges"] | None = None,
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.typed_comparison`; the largest temporary tensors are (edges,) and (nodes, types)."""
    return _TypedComparison.apply(
        feat_ND,
        gate_N,
        type_gate_NR,
        type_bias_RD,
        edge_bias_E,
        structure.indptr,
        structure.indices,
        structure.etype,
        structure.out_indptr,
        structure.out_indices,
        structure.out_edges,
    )


class _TypedComparison(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feat, gate, type_gate, type_bias, edge_bias, indptr, indices, etype, *by_source):
        inputs = (feat, gate, type_gate, type_bias, edge_bias)
        out, count = _gather(*inputs, indptr, indices, etype)
        ctx.save_for_backward(*inputs, out, count, indptr, etype, *by_source)
        return out

    @staticmethod
    def backward(ctx, grad):
        needs = ctx.needs_input_grad[:5]
        grads = Gradients.apply("typed_comparison", _gather_backward, grad, *ctx.saved_tensors, *needs)
        return (*(g if need else None for need, g in zip(needs, grads, strict=True)), *[None] * 6)


def _run(*arguments) -> tuple[Tensor, ...]:
    from relgrounding.ops.typed_comparison import _triton_launch

    return _triton_launch.gather(*arguments)


def _run_backward(*arguments) -> tuple[Tensor, ...]:
    from relgrounding.ops.typed_comparison import _triton_launch

    return _triton_launch.gather_backward(*arguments)


def _fake(feat, gate, type_gate, *rest) -> tuple[Tensor, ...]:
    return feat.new_empty(feat.shape), feat.new_empty(type_gate.shape, dtype=accumulator(feat.dtype))


def _fake_backward(grad, feat, gate, type_gate, type_bias, edge_bias, *rest) -> tuple[Tensor, ...]:
    inputs = zip((feat, gate, type_gate, type_bias, edge_bias), rest[-5:], strict=True)
    return tuple(feat.new_empty(x.shape if need and x is not None else (0,)) for x, need in inputs)


_gather = register(
    "typed_comparison_triton(Tensor feat, Tensor gate, Tensor type_gate, Tensor type_bias, Tensor? edge_bias,"
    " Tensor indptr, Tensor indices, Tensor etype) -> (Tensor, Tensor)",
    _run,
    _fake,
)
_gather_backward = register(
    "typed_comparison_triton_backward(Tensor grad, Tensor feat, Tensor gate, Tensor type_gate, Tensor type_bias,"
    " Tensor? edge_bias, Tensor out, Tensor count, Tensor indptr, Tensor etype, Tensor out_indptr, Tensor out_indices,"
    " Tensor out_edges, bool need_feat, bool need_gate, bool need_type_gate, bool need_type_bias, bool need_edge_bias)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)
