"""Kernels of the typed comparison on the tiles of an item, see `relgrounding.ops._triton._tiles`.

With T_i = 1 + sum_j g_ij and G the incoming gradient, the gradient of a gate is

    type_bias[t] . G_i / (1 + n_i[t])^2  +  feat_j . G_i / T_i  -  sum_k g_ik feat_k . G_i / T_i^2

of which `shared` is the table of the first and the last term, (N, R), and `scale` is 1 / T_i.
"""

import triton.language as tl

from relgrounding.ops._triton._jit import Kernel, add, sigmoid, sigmoid_slope
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
def gather(
    feat_ptr,
    gate_ptr,
    type_gate_ptr,
    type_bias_ptr,
    edge_bias_ptr,
    planes_ptr,
    bounds_ptr,
    out_ptr,
    count_ptr,
    scale_ptr,
    feat_stride,
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
    """Rows of destinations: the mean of what their gates let through, and saturated counts times the types' biases."""
    i, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    r = tl.arange(0, BLOCK_R)
    of_types = type_gate_ptr + first * TYPES + (i * TYPES)[:, None]
    biases = None if edge_bias_ptr is None else edge_bias_ptr + first * width

    table = tl.full((BLOCK_I, BLOCK_R), 0.0, SUM)
    sums = tl.full((BLOCK_I, BLOCK_D), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        cell, inside = cells_by_destination(i, j, count, width)
        gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[None, :]
        opened = tl.full((BLOCK_I, BLOCK_J), 0.0, SUM)
        for plane in range(0, planes if PARALLEL else 1):
            other = plane * size + cell
            kind = load_kinds(tile_ptr, other, inside, types)
            gates = sigmoid(gate_logits(gate, kind, of_types, biases, other, types, SUM))
            table += sums_by_type(gates, kind, r, TYPES)
            opened += gates
        feat = load_rows(feat_ptr, j, first, count, feat_stride, d, dim, OPERAND)
        factor = opened.to(feat_ptr.dtype.element_ty).to(OPERAND)
        sums = tl.dot(factor, feat, sums, input_precision=PRECISION, out_dtype=SUM)

    scale = 1.0 / (1.0 + tl.reduce(table, 1, add))
    bias = load_rows(type_bias_ptr, r, 0, TYPES, dim, d, dim, SUM)
    out = tl.dot(table / (1.0 + table), bias, sums * scale[:, None], input_precision="ieee", out_dtype=SUM)
    store_rows(out_ptr, out, i, first, count, d, dim)
    if tl.program_id(2) == 0:
        store_rows(count_ptr, table, i, first, count, r, TYPES)
        tl.store(scale_ptr + first + i, scale, mask=i < count)


@Kernel
def destinations(
    feat_ptr,
    gate_ptr,
    type_gate_ptr,
    edge_bias_ptr,
    planes_ptr,
    bounds_ptr,
    grad_ptr,
    product_ptr,
    count_ptr,
    scale_ptr,
    shared_ptr,
    grad_type_gate_ptr,
    feat_stride,
    grad_stride,
    nodes,
    planes,
    width,
    types,
    blocks,
    dim,
    NEED_TYPES: tl.constexpr,
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
    """Rows of destinations: what the gradients of their gates have in common, and those of their types' logits.

    What all gates let through is made of the same gates and products as what it is subtracted from, so that rounded
    features and outputs do not show in the gradients.
    """
    i, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    r = tl.arange(0, BLOCK_R)
    of_types = type_gate_ptr + first * TYPES + (i * TYPES)[:, None]
    biases = None if edge_bias_ptr is None else edge_bias_ptr + first * width

    through = tl.full((BLOCK_I,), 0.0, SUM)
    slopes = tl.full((BLOCK_I, BLOCK_R), 0.0, SUM)
    steep = tl.full((BLOCK_I, BLOCK_R), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        product = row_products(
            grad_ptr, feat_ptr, i, j, first, count, grad_stride, feat_stride, dim, OPERAND, PRECISION, SUM, BLOCK_D
        )
        cell, inside = cells_by_destination(i, j, count, width)
        gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[None, :]
        for plane in range(0, planes if PARALLEL else 1):
            other = plane * size + cell
            kind = load_kinds(tile_ptr, other, inside, types)
            logit = gate_logits(gate, kind, of_types, biases, other, types, SUM)
            if NEED_TYPES:
                slope = sigmoid_slope(logit)
                slopes += sums_by_type(slope, kind, r, TYPES)
                steep += sums_by_type(slope * product, kind, r, TYPES)
            through += tl.reduce(sigmoid(logit) * product, 1, add)

    products = load_rows(product_ptr, i, first, count, TYPES, r, TYPES, SUM)
    opened = load_rows(count_ptr, i, first, count, TYPES, r, TYPES, SUM)
    scale = tl.load(scale_ptr + first + i, mask=i < count, other=0.0)
    shared = products / ((1.0 + opened) * (1.0 + opened)) - (scale * scale * through)[:, None]
    store_rows(shared_ptr, shared, i, first, count, r, TYPES)
    if NEED_TYPES:
        store_rows(grad_type_gate_ptr, scale[:, None] * steep + shared * slopes, i, first, count, r, TYPES)


@Kernel
def scatter(
    gate_ptr,
    type_gate_ptr,
    edge_bias_ptr,
    planes_ptr,
    bounds_ptr,
    grad_ptr,
    scale_ptr,
    grad_feat_ptr,
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
    """Rows of sources, over the item's destinations: gradients of their features."""
    j, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[:, None]
    biases = None if edge_bias_ptr is None else edge_bias_ptr + first * width

    sums = tl.full((BLOCK_I, BLOCK_D), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        i = start + tl.arange(0, BLOCK_J)
        cell, inside = cells_by_source(j, i, count, width)
        of_types = type_gate_ptr + first * TYPES + (i * TYPES)[None, :]
        opened = open_gates(gate, tile_ptr, of_types, biases, cell, inside, size, planes, types, PARALLEL, SUM)
        scale = tl.load(scale_ptr + first + i, mask=i < count, other=0.0)
        grad = load_rows(grad_ptr, i, first, count, grad_stride, d, dim, OPERAND)
        factor = (opened * scale[None, :]).to(grad_ptr.dtype.element_ty).to(OPERAND)
        sums = tl.dot(factor, grad, sums, input_precision=PRECISION, out_dtype=SUM)
    store_rows(grad_feat_ptr, sums, j, first, count, d, dim)


@Kernel
def scatter_logits(
    feat_ptr,
    gate_ptr,
    type_gate_ptr,
    edge_bias_ptr,
    planes_ptr,
    bounds_ptr,
    grad_ptr,
    shared_ptr,
    scale_ptr,
    grad_gate_ptr,
    grad_edges_ptr,
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
    """Rows of sources, over the item's destinations: gradients of their logits, and of those of the edges.

    The latter lie in planes like the types, and are written only where there is an edge.
    """
    j, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[:, None]
    biases = None if edge_bias_ptr is None else edge_bias_ptr + first * width

    grad_gate = tl.full((BLOCK_I,), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        i = start + tl.arange(0, BLOCK_J)
        product = row_products(
            feat_ptr, grad_ptr, j, i, first, count, feat_stride, grad_stride, dim, OPERAND, PRECISION, SUM, BLOCK_D
        )
        product *= tl.load(scale_ptr + first + i, mask=i < count, other=0.0)[None, :]
        cell, inside = cells_by_source(j, i, count, width)
        row = first * TYPES + (i * TYPES)[None, :]
        for plane in range(0, planes if PARALLEL else 1):
            other = plane * size + cell
            kind = load_kinds(tile_ptr, other, inside, types)
            logit = gate_logits(gate, kind, type_gate_ptr + row, biases, other, types, SUM)
            shared = tl.load(shared_ptr + row + kind, mask=kind < types, other=0.0)
            grad_logit = sigmoid_slope(logit) * (product + shared)
            grad_gate += tl.reduce(grad_logit, 1, add)
            if grad_edges_ptr is not None:
                tl.store(grad_edges_ptr + first * width + other, grad_logit, mask=kind < types)
    tl.store(grad_gate_ptr + first + j, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=j < count)
