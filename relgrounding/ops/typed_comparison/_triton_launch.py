"""Launches of the kernels of the typed comparison. N nodes, E edges, R types, C chunks of features."""

import torch
from torch import Tensor

from relgrounding.ops._triton import accumulator, dense_rows, power_of_two
from relgrounding.ops._triton._jit import TYPES
from relgrounding.ops._triton._rows import RowsCall
from relgrounding.ops.gated_sum._triton_launch import table_products
from relgrounding.ops.typed_comparison import _triton_kernels as kernels


def gather(
    feat: Tensor,
    gate: Tensor,
    type_gate: Tensor,
    type_bias: Tensor,
    edge_bias: Tensor | None,
    indptr: Tensor,
    indices: Tensor,
    etype: Tensor,
) -> tuple[Tensor, Tensor]:
    """Output, and the (N, R) sums of gates by destination and type."""
    out, count = feat.new_empty(feat.shape), feat.new_empty(type_gate.shape, dtype=accumulator(feat.dtype))
    if out.numel() == 0:
        return out, count.zero_()
    feat = dense_rows(feat)
    inputs = feat, gate.contiguous(), type_gate.contiguous(), type_bias.contiguous()
    bias, types, call = gate if edge_bias is None else edge_bias.contiguous(), len(type_bias), RowsCall(feat)
    constants = {"EDGE_BIAS": edge_bias is not None, "BLOCK_R": _block_r(types, call.constants["BLOCK_D"])}
    call(kernels.gather, (*inputs, bias, indptr, indices, etype, out, count), feat.stride(0), types, **constants)
    return out, count


def gather_backward(
    grad: Tensor,
    feat: Tensor,
    gate: Tensor,
    type_gate: Tensor,
    type_bias: Tensor,
    edge_bias: Tensor | None,
    out: Tensor,
    count: Tensor,
    indptr: Tensor,
    etype: Tensor,
    out_indptr: Tensor,
    out_indices: Tensor,
    out_edges: Tensor,
    need_feat: bool,
    need_gate: bool,
    need_type_gate: bool,
    need_type_bias: bool,
    need_edge_bias: bool,
) -> tuple[Tensor, ...]:
    """Gradients of the five inputs; an empty tensor where not needed."""
    needs = (need_feat, need_gate, need_type_gate, need_type_bias, need_edge_bias)
    inputs = zip((feat, gate, type_gate, type_bias, edge_bias), needs, strict=True)
    grads = [feat.new_empty(x.shape if need and x is not None else (0,)) for x, need in inputs]
    if feat.numel() == 0 or len(etype) == 0:
        return tuple(x.zero_() for x in grads)
    grad, by_source = dense_rows(grad), (out_indptr, out_indices, out_edges, etype)
    logits = need_gate or need_type_gate or need_edge_bias
    with torch.cuda.device_of(feat):
        if need_feat or logits:
            shared = _destinations(grad, out, type_bias, count)
            gates = gate, type_gate, edge_bias
            logit_CN, logit_CE = _scatter(grad, feat, *gates, *shared, *by_source, grads[0], need_feat, logits)
        if need_gate:
            grads[1].copy_(logit_CN.sum(0))
        if need_type_gate:
            _sum_by_type(logit_CE.sum(0), indptr, etype, grads[2])
        if need_type_bias:
            grads[3].copy_(table_products(count / (1 + count), grad))
        if need_edge_bias:
            grads[4].copy_(logit_CE.sum(0))
    return tuple(grads)


def _destinations(grad: Tensor, out: Tensor, type_bias: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, R), (N,), (N,): see the kernel."""
    (nodes, types), dim = count.shape, grad.shape[1]
    of_types, (scale, through) = torch.empty_like(count), count.new_empty(2, nodes)
    block_d, block_r = min(power_of_two(dim), 512), _block_r(types, min(power_of_two(dim), 512))
    kernels.destinations[(nodes,)](
        grad,
        out,
        type_bias.contiguous(),
        count,
        of_types,
        scale,
        through,
        grad.stride(0),
        types,
        dim,
        SUM=TYPES[count.dtype],
        BLOCK_D=block_d,
        BLOCK_R=block_r,
        num_warps=4,
    )
    return of_types, scale, through


def _scatter(
    grad: Tensor,
    feat: Tensor,
    gate: Tensor,
    type_gate: Tensor,
    edge_bias: Tensor | None,
    of_types: Tensor,
    scale: Tensor,
    through: Tensor,
    out_indptr: Tensor,
    out_indices: Tensor,
    out_edges: Tensor,
    etype: Tensor,
    grad_feat: Tensor,
    need_feat: bool,
    need_gate: bool,
) -> tuple[Tensor, Tensor]:
    """Write `grad_feat`; return (C, N) and (C, E): gradients of the logits."""
    call, nodes, edges = RowsCall(feat), len(feat), len(etype)
    logit_CN = scale.new_empty((call.chunks, nodes) if need_gate else (0,))
    logit_CE = scale.new_empty((call.chunks, edges) if need_gate else (0,))
    feat, bias = dense_rows(feat), gate if edge_bias is None else edge_bias.contiguous()
    inputs = feat, gate.contiguous(), type_gate.contiguous(), bias, grad, of_types, scale, through
    tensors = *inputs, out_indptr, out_indices, out_edges, etype, grad_feat, logit_CN, logit_CE
    numbers = feat.stride(0), grad.stride(0), nodes, edges, of_types.shape[1]
    needs = {"NEED_FEAT": need_feat, "NEED_GATE": need_gate}
    call(kernels.scatter, tensors, *numbers, EDGE_BIAS=edge_bias is not None, **needs)
    return logit_CN, logit_CE


def _sum_by_type(edge_E: Tensor, indptr: Tensor, etype: Tensor, table_NR: Tensor) -> None:
    """Fill in the sums over the in-edges of each node, by type."""
    nodes, types = table_NR.shape
    block_r = _block_r(types, 1)
    kernels.sum_by_type[(nodes, -(-types // block_r))](
        edge_E,
        indptr,
        etype,
        table_NR,
        types,
        SUM=TYPES[edge_E.dtype],
        BLOCK_E=32,
        BLOCK_R=block_r,
        num_warps=1,
    )


def _block_r(types: int, block_d: int) -> int:
    """Types at a time: with the features at most 4,096 numbers."""
    return min(power_of_two(types), max(4096 // block_d, 1), 16)
