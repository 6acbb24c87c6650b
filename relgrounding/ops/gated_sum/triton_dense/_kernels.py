"""Kernels of the gated sum on the tiles of an item, see `relgrounding.ops._triton._tiles`."""

import triton.language as tl

from relgrounding.ops._triton._jit import Kernel, sigmoid, sigmoid_slope
from relgrounding.ops._triton._tiles import (
    cells_by_destination,
    cells_by_source,
    gate_logits,
    load_kinds,
    load_rows,
    open_gates,
    own_block,
    row_products,
    store_rows,
    sums_by_type,
)


@Kernel
def logits_by_type(product, of_type, gate, kind, gate_bias_ptr, types, r, TYPES: tl.constexpr, SUM: tl.constexpr):
    """(row, r) sums by type of the gradients of the logits of a tile, whose gates have slope 0 where no edge is."""
    slope = sigmoid_slope(gate_logits(gate, kind, gate_bias_ptr, None, kind, types, SUM))
    of_bias = tl.load(of_type + kind, mask=kind < types, other=0.0)
    return sums_by_type(slope * (product + of_bias), kind, r, TYPES)


@Kernel
def gather(
    feat_ptr,
    gate_ptr,
    gate_bias_ptr,
    type_bias_ptr,
    planes_ptr,
    bounds_ptr,
    out_ptr,
    table_ptr,
    feat_stride,
    nodes,
    planes,
    width,
    types,
    blocks,
    dim,
    KEEP_TABLE: tl.constexpr,
    TYPES: tl.constexpr,
    PARALLEL: tl.constexpr,
    SUM: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Rows of destinations: gates times features, plus their sums of gates by type times the types' biases."""
    i, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    r = tl.arange(0, BLOCK_R)

    table = tl.full((BLOCK_I, BLOCK_R), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        cell, inside = cells_by_destination(i, j, count, width)
        gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[None, :]
        for plane in range(0, planes if PARALLEL else 1):
            kind = load_kinds(tile_ptr + plane * size, cell, inside, types)
            gates = sigmoid(gate_logits(gate, kind, gate_bias_ptr, None, cell, types, SUM))
            table += sums_by_type(gates, kind, r, TYPES)

    # In the type of the sums: the gates of many edges add up.
    bias = load_rows(type_bias_ptr, r, 0, TYPES, dim, d, dim, SUM)
    sums = tl.dot(table, bias, input_precision="ieee", out_dtype=SUM)
    for start in range(0, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        cell, inside = cells_by_destination(i, j, count, width)
        gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[None, :]
        opened = open_gates(gate, tile_ptr, gate_bias_ptr, None, cell, inside, size, planes, types, PARALLEL, SUM)
        feat = load_rows(feat_ptr, j, first, count, feat_stride, d, dim, OPERAND)
        factor = opened.to(feat_ptr.dtype.element_ty).to(OPERAND)
        sums = tl.dot(factor, feat, sums, input_precision=PRECISION, out_dtype=SUM)

    store_rows(out_ptr, sums, i, first, count, d, dim)
    if KEEP_TABLE:
        store_rows(table_ptr, table, i, first, tl.where(tl.program_id(2) == 0, count, 0), r, TYPES)


@Kernel
def bias_products(
    grad_ptr,
    type_bias_ptr,
    product_ptr,
    grad_stride,
    nodes,
    dim,
    TYPES: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Rows of destinations: (N, R) products of their gradients and the types' biases."""
    i = tl.program_id(0).to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)
    r = tl.arange(0, BLOCK_R)
    sums = tl.full((BLOCK_I, BLOCK_R), 0.0, SUM)
    for start in range(0, dim, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        grad = load_rows(grad_ptr, i, 0, nodes, grad_stride, d, dim, SUM)
        bias = load_rows(type_bias_ptr, r, 0, TYPES, dim, d, dim, SUM)
        sums = tl.dot(grad, tl.trans(bias), sums, input_precision="ieee", out_dtype=SUM)
    store_rows(product_ptr, sums, i, 0, nodes, r, TYPES)


@Kernel
def scatter(
    gate_ptr,
    gate_bias_ptr,
    planes_ptr,
    bounds_ptr,
    grad_ptr,
    grad_feat_ptr,
    grad_stride,
    nodes,
    planes,
    width,
    types,
    blocks,
    dim,
    PARALLEL: tl.constexpr,
    SUM: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Rows of sources, over the item's destinations: gradients of their features."""
    j, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[:, None]

    sums = tl.full((BLOCK_I, BLOCK_D), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        i = start + tl.arange(0, BLOCK_J)
        cell, inside = cells_by_source(j, i, count, width)
        opened = open_gates(gate, tile_ptr, gate_bias_ptr, None, cell, inside, size, planes, types, PARALLEL, SUM)
        grad = load_rows(grad_ptr, i, first, count, grad_stride, d, dim, OPERAND)
        factor = opened.to(grad_ptr.dtype.element_ty).to(OPERAND)
        sums = tl.dot(factor, grad, sums, input_precision=PRECISION, out_dtype=SUM)
    store_rows(grad_feat_ptr, sums, j, first, count, d, dim)


@Kernel
def scatter_logits(
    feat_ptr,
    gate_ptr,
    gate_bias_ptr,
    planes_ptr,
    bounds_ptr,
    grad_ptr,
    product_ptr,
    table_ptr,
    feat_stride,
    grad_stride,
    nodes,
    planes,
    width,
    types,
    blocks,
    dim,
    TYPES: tl.constexpr,
    PARALLEL: tl.constexpr,
    SUM: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Rows of sources, over the item's destinations: (N, R) gradients of their logits by type."""
    j, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    r = tl.arange(0, BLOCK_R)
    gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[:, None]

    table = tl.full((BLOCK_I, BLOCK_R), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        i = start + tl.arange(0, BLOCK_J)
        product = row_products(
            feat_ptr, grad_ptr, j, i, first, count, feat_stride, grad_stride, dim, OPERAND, PRECISION, SUM, BLOCK_D
        )
        cell, inside = cells_by_source(j, i, count, width)
        of_type = product_ptr + (first + i)[None, :] * TYPES
        for plane in range(0, planes if PARALLEL else 1):
            kind = load_kinds(tile_ptr + plane * size, cell, inside, types)
            table += logits_by_type(product, of_type, gate, kind, gate_bias_ptr, types, r, TYPES, SUM)
    store_rows(table_ptr, table, j, first, count, r, TYPES)
