"""Launches of the kernels of the typed comparison on tiles. N nodes, E edges, R types."""

import torch
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._triton import accumulator, dense_rows
from relgrounding.ops._triton._tiles import BLOCK_R, TiledCall
from relgrounding.ops.gated_sum._triton_launch import table_products
from relgrounding.ops.gated_sum.triton_dense._launch import bias_products
from relgrounding.ops.typed_comparison.triton_dense import _kernels as kernels


def gather(
    structure: GraphStructure,
    feat: Tensor,
    gate: Tensor,
    type_gate: Tensor,
    type_bias: Tensor,
    edge_bias: Tensor | None,
) -> tuple[Tensor, ...]:
    """Output, the (N, R) sums of gates by destination and type, and 1 / (1 + the sum of all of them), (N,)."""
    out, count = feat.new_empty(feat.shape), feat.new_empty(type_gate.shape, dtype=accumulator(feat.dtype))
    scale = count.new_empty(len(count))
    if out.numel() == 0:
        return out, count.zero_(), scale.fill_(1)
    call, feat = _call(structure, feat), dense_rows(feat)
    gate, type_gate, planes = _logits(structure, gate, type_gate, edge_bias)
    inputs = feat, gate, type_gate, type_bias.contiguous(), planes, *call.graph
    call(kernels.gather, (*inputs, out, count, scale), feat.stride(0))
    return out, count, scale


def gather_backward(
    structure: GraphStructure,
    needs: tuple[bool, ...],
    grad: Tensor,
    feat: Tensor,
    gate: Tensor,
    type_gate: Tensor,
    type_bias: Tensor,
    edge_bias: Tensor | None,
    count: Tensor,
    scale: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the five inputs; an empty tensor where `needs` says that one is not needed."""
    inputs = zip((feat, gate, type_gate, type_bias, edge_bias), needs, strict=True)
    grads = [feat.new_empty(x.shape if need and x is not None else (0,)) for x, need in inputs]
    if feat.numel() == 0:
        return tuple(x.zero_() for x in grads)
    grad, feat = dense_rows(grad), dense_rows(feat)
    logits = _logits(structure, gate, type_gate, edge_bias)
    need_feat, need_gate, need_type_gate, need_type_bias, need_edge_bias = needs
    if need_feat:
        call = _call(structure, feat)
        call(kernels.scatter, (*logits, *call.graph, grad, scale, grads[0]), grad.stride(0), by_source=True)
    if need_gate or need_type_gate or need_edge_bias:
        rows = feat, grad, scale
        shared = _destinations(structure, *rows, logits, type_bias, count, grads[2], need_type_gate)
        if need_gate or need_edge_bias:
            grads[1], planes = _scatter_logits(structure, *rows, logits, shared, need_edge_bias)
            if planes is not None:
                grads[4].copy_(planes.view(-1).index_select(0, structure.tile_cells))
    if need_type_bias:
        with torch.cuda.device_of(feat):
            grads[3].copy_(table_products(count / (1 + count), grad))
    return tuple(grads)


def _destinations(
    structure: GraphStructure,
    feat: Tensor,
    grad: Tensor,
    scale: Tensor,
    logits: tuple[Tensor | None, ...],
    type_bias: Tensor,
    count: Tensor,
    grad_type_gate: Tensor,
    need_type_gate: bool,
) -> Tensor:
    """(N, R) what the gradients of the gates have in common; writes `grad_type_gate` where it is needed."""
    call, shared, (gate, type_gate, planes) = _call(structure, feat).whole_rows(), torch.empty_like(count), logits
    product = bias_products(grad, type_bias)
    inputs = feat, gate, type_gate, planes, *call.graph, grad, product, count, scale
    strides = feat.stride(0), grad.stride(0)
    call(kernels.destinations, (*inputs, shared, grad_type_gate), *strides, NEED_TYPES=need_type_gate)
    return shared


def _scatter_logits(
    structure: GraphStructure,
    feat: Tensor,
    grad: Tensor,
    scale: Tensor,
    logits: tuple[Tensor | None, ...],
    shared: Tensor,
    need_edge_bias: bool,
) -> tuple[Tensor, Tensor | None]:
    """The gradients of the sources' logits, and those of the edges' in planes like the types where they are needed."""
    call = _call(structure, feat).whole_rows()
    grad_gate = feat.new_empty(len(feat))
    planes = scale.new_empty(call.graph[0].shape) if need_edge_bias else None
    tensors = feat, *logits, *call.graph, grad, shared, scale, grad_gate, planes
    call(kernels.scatter_logits, tensors, feat.stride(0), grad.stride(0), by_source=True)
    return grad_gate, planes


def _call(structure: GraphStructure, feat: Tensor) -> TiledCall:
    return TiledCall(structure, feat.dtype, feat.shape[1], TYPES=structure.num_types, BLOCK_R=BLOCK_R)


def _logits(
    structure: GraphStructure, gate: Tensor, type_gate: Tensor, edge_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The shares of sources, destinations and edges; the last in planes like the types, undefined elsewhere."""
    planes = None
    if edge_bias is not None:
        assert structure.tiles is not None
        planes = edge_bias.new_empty(structure.tiles.planes.shape)
        planes.view(-1).index_copy_(0, structure.tile_cells, edge_bias)
    return gate.contiguous(), type_gate.contiguous(), planes
