"""Launches of the kernels of the gated sum on tiles. N nodes, R types, C chunks of features."""

import torch
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._triton import accumulator, dense_rows, power_of_two
from relgrounding.ops._triton._jit import TYPES
from relgrounding.ops._triton._tiles import BLOCK_R, TiledCall
from relgrounding.ops.gated_sum._triton_launch import table_products
from relgrounding.ops.gated_sum.triton_dense import _kernels as kernels


def gather(structure: GraphStructure, inputs: tuple[Tensor, ...], keep_table: bool) -> tuple[Tensor, Tensor]:
    """Output, and the (N, R) sums of gates by destination and type, an empty tensor unless `keep_table`."""
    feat, gate, gate_bias, type_bias = inputs
    (nodes, dim), types = feat.shape, len(gate_bias)
    out = feat.new_empty(feat.shape)
    table = feat.new_empty((nodes, types) if keep_table else (0,), dtype=accumulator(feat.dtype))
    if out.numel() == 0:
        return out, table.zero_()
    feat = dense_rows(feat)
    call = TiledCall(structure, feat.dtype, dim, TYPES=types, BLOCK_R=BLOCK_R)
    tensors = feat, gate.contiguous(), gate_bias.contiguous(), type_bias.contiguous(), *call.graph
    call(kernels.gather, (*tensors, out, table), feat.stride(0), KEEP_TABLE=keep_table)
    return out, table


def gather_backward(
    structure: GraphStructure,
    needs: tuple[bool, ...],
    grad: Tensor,
    feat: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    type_bias: Tensor,
    table: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the four inputs; an empty tensor where `needs` says that one is not needed."""
    inputs = (feat, gate, gate_bias, type_bias)
    grads = [x.new_empty(x.shape if need else (0,)) for x, need in zip(inputs, needs, strict=True)]
    if feat.numel() == 0:
        return tuple(x.zero_() for x in grads)
    grad = dense_rows(grad)
    need_feat, need_gate, need_gate_bias, need_type_bias = needs
    if need_feat:
        _scatter(structure, grad, gate, gate_bias, grads[0])
    if need_gate or need_gate_bias:
        by_type_NR = _scatter_logits(structure, grad, *inputs)
        if need_gate:
            grads[1].copy_(by_type_NR.sum(1))
        if need_gate_bias:
            grads[2].copy_(by_type_NR.sum(0))
    if need_type_bias:
        with torch.cuda.device_of(feat):
            grads[3].copy_(table_products(table, grad))
    return tuple(grads)


def _scatter(structure: GraphStructure, grad: Tensor, gate: Tensor, gate_bias: Tensor, grad_feat: Tensor) -> None:
    """Write the gradient of the features."""
    call = TiledCall(structure, grad.dtype, grad.shape[1])
    tensors = gate.contiguous(), gate_bias.contiguous(), *call.graph, grad, grad_feat
    call(kernels.scatter, tensors, grad.stride(0), by_source=True)


def _scatter_logits(
    structure: GraphStructure, grad: Tensor, feat: Tensor, gate: Tensor, gate_bias: Tensor, type_bias: Tensor
) -> Tensor:
    """(N, R) gradients of the logits of each source and type."""
    types = len(gate_bias)
    call = TiledCall(structure, feat.dtype, feat.shape[1], TYPES=types, BLOCK_R=BLOCK_R).whole_rows()
    product_NR = bias_products(grad, type_bias)
    by_type_NR, feat = torch.empty_like(product_NR), dense_rows(feat)
    inputs = feat, gate.contiguous(), gate_bias.contiguous(), *call.graph, grad, product_NR
    call(kernels.scatter_logits, (*inputs, by_type_NR), feat.stride(0), grad.stride(0), by_source=True)
    return by_type_NR


def bias_products(grad_ND: Tensor, type_bias_RD: Tensor) -> Tensor:
    """(N, R) the products of gradients and biases, in the type of the sums."""
    (nodes, dim), types = grad_ND.shape, len(type_bias_RD)
    sums = accumulator(grad_ND.dtype)
    product_NR = grad_ND.new_empty((nodes, types), dtype=sums)
    block_d = min(max(power_of_two(dim), 16), 32)
    with torch.cuda.device_of(grad_ND):
        kernels.bias_products[(-(-nodes // 32),)](
            grad_ND,
            type_bias_RD.contiguous(),
            product_NR,
            grad_ND.stride(0),
            nodes,
            dim,
            TYPES=types,
            SUM=TYPES[sums],
            BLOCK_I=32,
            BLOCK_D=block_d,
            BLOCK_R=BLOCK_R,
            num_warps=4,
        )
    return product_NR
