"""Fused kernels for a GPU: no tensor of (edges x features), no atomics, the same bits in every run.

Forward: one program per destination reads its sources' rows once, E D numbers in all, most of them from cache, as the
rows of one item are few, and the types' biases, R D numbers per destination, from the nearest cache. Where the biases
need a gradient it also writes the (nodes, types) table of gate sums. Backward: one program per source reads its
destinations' gradients once, E D numbers, for the features' and the gate's gradient alike, and an (edges,) tensor leads
to the gradient of the types' gates; the table leads to that of the types' biases in one pass over N D numbers.
Sums over the whole batch are made in two steps: parts of fixed size, then their sum.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import register_backend
from relgrounding.ops._triton import FLOATS, Gradients, accumulator, register, triton_reason


@register_backend(
    "gated_sum",
    "triton",
    dtypes=FLOATS,
    reason=triton_reason,
    auto={"cuda": 40},
)
def gated_sum_triton(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.gated_sum`; the largest temporary tensors are (edges,) and (nodes, types)."""
    return _GatedSum.apply(
        feat_ND,
        gate_N,
        gate_bias_R,
        type_bias_RD,
        structure.indptr,
        structure.indices,
        structure.etype,
        structure.out_indptr,
        structure.out_indices,
        structure.out_etype,
    )


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feat, gate, gate_bias, type_bias, indptr, indices, etype, *by_source):
        inputs = (feat, gate, gate_bias, type_bias)
        out, table = _gather(*inputs, indptr, indices, etype, ctx.needs_input_grad[3])
        ctx.save_for_backward(*inputs, table, *by_source)
        return out

    @staticmethod
    def backward(ctx, grad):
        feat, gate, gate_bias, type_bias = ctx.needs_input_grad[:4]
        needs = (feat, gate or gate_bias, gate_bias, type_bias)
        grads = Gradients.apply("gated_sum", _gather_backward, grad, *ctx.saved_tensors, *needs)
        needed = zip((feat, gate, gate_bias, type_bias), grads, strict=True)
        return (*(g if need else None for need, g in needed), *[None] * 6)


def _run(*arguments) -> tuple[Tensor, ...]:
    from relgrounding.ops.gated_sum import _triton_launch

    return _triton_launch.gather(*arguments)


def _run_backward(*arguments) -> tuple[Tensor, ...]:
    from relgrounding.ops.gated_sum import _triton_launch

    return _triton_launch.gather_backward(*arguments)


def _fake(feat, gate, gate_bias, type_bias, indptr, indices, etype, keep_table) -> tuple[Tensor, ...]:
    table_shape = (feat.shape[0], gate_bias.shape[0]) if keep_table else (0,)
    return feat.new_empty(feat.shape), feat.new_empty(table_shape, dtype=accumulator(feat.dtype))


def _fake_backward(grad, feat, gate, gate_bias, type_bias, *rest) -> tuple[Tensor, ...]:
    inputs = zip((feat, gate, gate_bias, type_bias), rest[-4:], strict=True)
    return tuple(tensor.new_empty(tensor.shape if need else (0,)) for tensor, need in inputs)


_gather = register(
    "gated_sum_triton(Tensor feat, Tensor gate, Tensor gate_bias, Tensor type_bias, Tensor indptr, Tensor indices,"
    " Tensor etype, bool keep_table) -> (Tensor, Tensor)",
    _run,
    _fake,
)
_gather_backward = register(
    "gated_sum_triton_backward(Tensor grad, Tensor feat, Tensor gate, Tensor gate_bias, Tensor type_bias, Tensor table,"
    " Tensor out_indptr, Tensor out_indices, Tensor out_etype, bool need_feat, bool need_gate,"
    " bool need_gate_bias, bool need_type_bias) -> (Tensor, Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)
