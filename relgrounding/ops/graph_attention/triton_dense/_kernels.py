"""Kernels of graph attention on the tiles of an item, see `relgrounding.ops._triton._tiles`."""

import triton.language as tl

from relgrounding.ops._triton._jit import Kernel, add, larger
from relgrounding.ops._triton._tiles import cells_by_destination, cells_by_source, load_kinds, load_rows, own_block


@Kernel
def count_edges(planes_ptr, cell, inside, size, planes, none, PARALLEL: tl.constexpr, SUM: tl.constexpr):
    """Numbers of edges of the pairs of nodes at some cells of an item's planes, which lie `size` cells apart."""
    edges = tl.where(load_kinds(planes_ptr, cell, inside, none) != none, 1.0, 0.0).to(SUM)
    if PARALLEL:
        for plane in range(1, planes):
            edges += tl.where(load_kinds(planes_ptr + plane * size, cell, inside, none) != none, 1.0, 0.0)
    return edges


@Kernel
def attend(
    feat_ptr,
    score_src_ptr,
    score_dst_ptr,
    planes_ptr,
    bounds_ptr,
    out_ptr,
    largest_ptr,
    scale_ptr,
    feat_stride,
    nodes,
    planes,
    width,
    none,
    blocks,
    heads,
    dim,
    SLOPE: tl.constexpr,
    PARALLEL: tl.constexpr,
    SUM: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Rows of destinations: softmax over the item's sources with a running maximum, and the weighted sum."""
    i, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    head = tl.program_id(1)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    row = (first + i) * heads + head
    score_dst = tl.load(score_dst_ptr + row, mask=i < count, other=0.0).to(SUM)

    largest = tl.full((BLOCK_I,), float("-inf"), SUM)
    total = tl.full((BLOCK_I,), 0.0, SUM)
    sums = tl.full((BLOCK_I, BLOCK_D), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        cell, inside = cells_by_destination(i, j, count, width)
        edges = count_edges(tile_ptr, cell, inside, size, planes, none, PARALLEL, SUM)
        score_src = tl.load(score_src_ptr + (first + j) * heads + head, mask=j < count, other=0.0).to(SUM)
        score = score_dst[:, None] + score_src[None, :]
        logit = tl.where(edges > 0, tl.where(score > 0, score, score * SLOPE), float("-inf"))
        grown = tl.maximum(largest, tl.reduce(logit, 1, larger))
        # A row that has seen no edge yet would subtract -inf from -inf.
        reference = tl.where(grown == float("-inf"), 0.0, grown)
        rescale = tl.exp(largest - reference)
        weight = edges * tl.exp(logit - reference[:, None])
        feat = load_rows(feat_ptr + head * dim, j, first, count, feat_stride, d, dim, OPERAND)
        factor = weight.to(feat_ptr.dtype.element_ty).to(OPERAND)
        sums = tl.dot(factor, feat, sums * rescale[:, None], input_precision=PRECISION, out_dtype=SUM)
        total = total * rescale + tl.reduce(weight, 1, add)
        largest = grown

    scale = tl.where(total > 0, 1.0 / tl.where(total > 0, total, 1.0), 0.0)
    out = (sums * scale[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row[:, None] * dim + d[None, :], out, mask=(i < count)[:, None] & (d < dim)[None, :])
    if tl.program_id(2) == 0:
        tl.store(largest_ptr + row, tl.where(largest == float("-inf"), 0.0, largest), mask=i < count)
        tl.store(scale_ptr + row, scale, mask=i < count)


@Kernel
def weigh(score, edges, largest, scale, SLOPE: tl.constexpr):
    """The weights of a tile, and the same times the slope of the leaky ReLU."""
    rising = score > 0
    # Where no edge is, the exponential may overflow: it must not meet a 0.
    logit = tl.where(edges > 0, tl.where(rising, score, score * SLOPE) - largest, 0.0)
    weight = edges * tl.exp(logit) * scale
    return weight, tl.where(rising, weight, weight * SLOPE)


@Kernel
def attend_backward_rows(
    feat_ptr,
    score_src_ptr,
    score_dst_ptr,
    planes_ptr,
    bounds_ptr,
    largest_ptr,
    scale_ptr,
    grad_ptr,
    mean_ptr,
    grad_dst_ptr,
    feat_stride,
    grad_stride,
    nodes,
    planes,
    width,
    none,
    blocks,
    heads,
    dim,
    SLOPE: tl.constexpr,
    PARALLEL: tl.constexpr,
    SUM: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Rows of destinations: the mean gradient of their weights, and the gradient of their scores.

    Both are linear in the features, so each chunk of features writes its part, (chunks, ...). The mean is made of the
    same weights and products as what it is subtracted from, so that rounded features and outputs do not show in it.
    """
    i, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    head = tl.program_id(1)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    row = (first + i) * heads + head
    score_dst = tl.load(score_dst_ptr + row, mask=i < count, other=0.0).to(SUM)
    largest = tl.load(largest_ptr + row, mask=i < count, other=0.0)
    scale = tl.load(scale_ptr + row, mask=i < count, other=0.0)
    grad = load_rows(grad_ptr + head * dim, i, first, count, grad_stride, d, dim, OPERAND)

    mean = tl.full((BLOCK_I,), 0.0, SUM)
    steep = tl.full((BLOCK_I,), 0.0, SUM)
    slopes = tl.full((BLOCK_I,), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        cell, inside = cells_by_destination(i, j, count, width)
        edges = count_edges(tile_ptr, cell, inside, size, planes, none, PARALLEL, SUM)
        score_src = tl.load(score_src_ptr + (first + j) * heads + head, mask=j < count, other=0.0).to(SUM)
        weight, sloped = weigh(score_dst[:, None] + score_src[None, :], edges, largest[:, None], scale[:, None], SLOPE)
        feat = load_rows(feat_ptr + head * dim, j, first, count, feat_stride, d, dim, OPERAND)
        product = tl.dot(grad, tl.trans(feat), input_precision=PRECISION, out_dtype=SUM)
        mean += tl.reduce(weight * product, 1, add)
        steep += tl.reduce(sloped * product, 1, add)
        slopes += tl.reduce(sloped, 1, add)

    part = tl.program_id(2).to(tl.int64) * nodes * heads + row
    tl.store(mean_ptr + part, mean, mask=i < count)
    tl.store(grad_dst_ptr + part, steep - mean * slopes, mask=i < count)


@Kernel
def attend_backward_columns(
    feat_ptr,
    score_src_ptr,
    score_dst_ptr,
    planes_ptr,
    bounds_ptr,
    largest_ptr,
    scale_ptr,
    grad_ptr,
    mean_ptr,
    grad_feat_ptr,
    grad_src_ptr,
    feat_stride,
    grad_stride,
    nodes,
    planes,
    width,
    none,
    blocks,
    heads,
    dim,
    NEED_FEAT: tl.constexpr,
    NEED_SCORES: tl.constexpr,
    SLOPE: tl.constexpr,
    PARALLEL: tl.constexpr,
    SUM: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Rows of sources, over the item's destinations: gradients of their features, and their part of the scores'."""
    j, first, count, last, tile_ptr, size = own_block(planes_ptr, bounds_ptr, nodes, width, blocks, BLOCK_I)
    head = tl.program_id(1)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    column = (first + j) * heads + head
    part = tl.program_id(2).to(tl.int64) * nodes * heads
    score_src = tl.load(score_src_ptr + column, mask=j < count, other=0.0).to(SUM)
    if NEED_SCORES:
        feat = load_rows(feat_ptr + head * dim, j, first, count, feat_stride, d, dim, OPERAND)

    sums = tl.full((BLOCK_I, BLOCK_D), 0.0, SUM)
    grad_src = tl.full((BLOCK_I,), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        i = start + tl.arange(0, BLOCK_J)
        row = (first + i) * heads + head
        cell, inside = cells_by_source(j, i, count, width)
        edges = count_edges(tile_ptr, cell, inside, size, planes, none, PARALLEL, SUM)
        score_dst = tl.load(score_dst_ptr + row, mask=i < count, other=0.0).to(SUM)
        largest = tl.load(largest_ptr + row, mask=i < count, other=0.0)
        scale = tl.load(scale_ptr + row, mask=i < count, other=0.0)
        weight, sloped = weigh(score_src[:, None] + score_dst[None, :], edges, largest[None, :], scale[None, :], SLOPE)
        grad = load_rows(grad_ptr + head * dim, i, first, count, grad_stride, d, dim, OPERAND)
        if NEED_FEAT:
            factor = weight.to(feat_ptr.dtype.element_ty).to(OPERAND)
            sums = tl.dot(factor, grad, sums, input_precision=PRECISION, out_dtype=SUM)
        if NEED_SCORES:
            mean = tl.load(mean_ptr + part + row, mask=i < count, other=0.0)
            product = tl.dot(feat, tl.trans(grad), input_precision=PRECISION, out_dtype=SUM)
            grad_src += tl.reduce(sloped * (product - mean[None, :]), 1, add)

    if NEED_FEAT:
        out = sums.to(grad_feat_ptr.dtype.element_ty)
        inside = (j < count)[:, None] & (d < dim)[None, :]
        tl.store(grad_feat_ptr + column[:, None] * dim + d[None, :], out, mask=inside)
    if NEED_SCORES:
        tl.store(grad_src_ptr + part + column, grad_src, mask=j < count)
