"""Launches of the kernels of the gated sum. N nodes, E edges, R types, C chunks of features."""

import torch
from torch import Tensor

from relgrounding.ops._triton import accumulator, dense_rows, power_of_two
from relgrounding.ops._triton._jit import TYPES
from relgrounding.ops._triton._rows import RowsCall
from relgrounding.ops.gated_sum import _triton_kernels as kernels


def gather(
    feat: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    type_bias: Tensor,
    indptr: Tensor,
    indices: Tensor,
    etype: Tensor,
    keep_table: bool,
) -> tuple[Tensor, Tensor]:
    """Output, and the (N, R) sums of gates by destination and type, an empty tensor unless `keep_table`."""
    nodes, types = len(feat), len(gate_bias)
    sums = accumulator(feat.dtype)
    out = feat.new_empty(feat.shape)
    table = feat.new_empty((nodes, types) if keep_table else (0,), dtype=sums)
    if out.numel() == 0:
        return out, table.zero_()
    feat = dense_rows(feat)
    inputs = feat, gate.contiguous(), gate_bias.contiguous(), type_bias.contiguous(), indptr, indices, etype
    call = RowsCall(feat)
    block_r = min(power_of_two(types), max(4096 // call.constants["BLOCK_D"], 1), 16)
    constants = {"KEEP_TABLE": keep_table, "BLOCK_R": block_r}
    call(kernels.gather, (*inputs, out, table), feat.stride(0), types, **constants)
    return out, table


def gather_backward(
    grad: Tensor,
    feat: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    type_bias: Tensor,
    table: Tensor,
    out_indptr: Tensor,
    out_indices: Tensor,
    out_etype: Tensor,
    need_feat: bool,
    need_gate: bool,
    need_gate_bias: bool,
    need_type_bias: bool,
) -> tuple[Tensor, ...]:
    """Gradients of the four inputs; an empty tensor where not needed, except the gate's where its bias needs one."""
    inputs = (feat, gate, gate_bias, type_bias)
    needs = (need_feat, need_gate, need_gate_bias, need_type_bias)
    grads = [x.new_empty(x.shape if need else (0,)) for x, need in zip(inputs, needs, strict=True)]
    if feat.numel() == 0 or len(out_etype) == 0:
        return tuple(x.zero_() for x in grads)
    grad = dense_rows(grad)
    with torch.cuda.device_of(feat):
        if need_feat or need_gate:
            by_source = (out_indptr, out_indices, out_etype)
            logit_CN, logit_CE = _scatter(grad, *inputs, *by_source, grads[0], need_feat, need_gate)
        if need_gate:
            grads[1].copy_(logit_CN.sum(0))
        if need_gate_bias:
            grads[2].copy_(_sum_by_type(logit_CE, out_etype, len(gate_bias)))
        if need_type_bias:
            grads[3].copy_(table_products(table, grad))
    return tuple(grads)


def _scatter(
    grad: Tensor,
    feat: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    type_bias: Tensor,
    out_indptr: Tensor,
    out_indices: Tensor,
    out_etype: Tensor,
    grad_feat: Tensor,
    need_feat: bool,
    need_gate: bool,
) -> tuple[Tensor, Tensor]:
    """Write `grad_feat`; return (C, N) and, in the order by source, (C, E): gradients of the logits."""
    sums, call = accumulator(feat.dtype), RowsCall(feat)
    nodes, edges = len(feat), len(out_etype)
    logit_CN = feat.new_empty((call.chunks, nodes) if need_gate else (0,), dtype=sums)
    logit_CE = feat.new_empty((call.chunks, edges) if need_gate else (0,), dtype=sums)
    feat = dense_rows(feat)
    inputs = feat, gate.contiguous(), gate_bias.contiguous(), type_bias.contiguous(), grad
    tensors = *inputs, out_indptr, out_indices, out_etype, grad_feat, logit_CN, logit_CE
    needs = {"NEED_FEAT": need_feat, "NEED_GATE": need_gate}
    call(kernels.scatter, tensors, feat.stride(0), grad.stride(0), nodes, edges, **needs)
    return logit_CN, logit_CE


def _sum_by_type(edge_CE: Tensor, out_etype: Tensor, types: int) -> Tensor:
    """(R,) the sums by type."""
    chunks, edges = edge_CE.shape
    # Parts of at least 2,048 edges, and so few that together they are no larger than the edges.
    span, block_r = max(2048, power_of_two(types)), min(power_of_two(types), 16)
    part_PR = edge_CE.new_empty(-(-edges // span), types)
    kernels.sum_by_type[(len(part_PR), -(-types // block_r))](
        edge_CE,
        out_etype,
        part_PR,
        edges,
        chunks * edges,
        types,
        span,
        SUM=TYPES[edge_CE.dtype],
        BLOCK_E=128,
        BLOCK_R=block_r,
        num_warps=4,
    )
    return part_PR.sum(0)


def table_products(table_NR: Tensor, grad_ND: Tensor) -> Tensor:
    """(R, D) the transposed table times the gradient, summed in a fixed order, which a library does not promise."""
    (nodes, types), dim = table_NR.shape, grad_ND.shape[1]
    # Parts of at least 256 nodes, and so few that together they are a sixteenth of the gradient.
    span, block_d = max(256, 16 * power_of_two(types)), min(max(power_of_two(dim), 16), 64)
    part_PRD = table_NR.new_empty(-(-nodes // span), types, dim)
    kernels.table_products[(len(part_PRD), -(-dim // block_d), -(-types // 16))](
        table_NR,
        grad_ND,
        part_PRD,
        grad_ND.stride(0),
        nodes,
        types,
        dim,
        span,
        SUM=TYPES[table_NR.dtype],
        BLOCK_N=32,
        BLOCK_D=block_d,
        BLOCK_R=16,
        num_warps=4,
    )
    return part_PRD.sum(0)
