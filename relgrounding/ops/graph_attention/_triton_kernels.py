"""Kernels of graph attention, see `relgrounding.ops._triton._rows`. N nodes, E edges, H heads, D dim.

Each lane of `attend` keeps its own largest logit, too.
"""

import triton.language as tl

from relgrounding.ops._triton._jit import Kernel, add, larger
from relgrounding.ops._triton._rows import edges_of, load_edge_rows, store_sums


@Kernel
def attend(
    feat_ptr,
    score_src_ptr,
    score_dst_ptr,
    indptr_ptr,
    indices_ptr,
    out_ptr,
    largest_ptr,
    scale_ptr,
    feat_stride,
    heads,
    dim,
    SLOPE: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One destination and head: softmax over its in-edges with a running maximum, and the weighted sum."""
    node = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    lane = tl.arange(0, BLOCK_E)
    cell = node * heads + head
    score_dst = tl.load(score_dst_ptr + cell).to(SUM)
    first, last = edges_of(node, indptr_ptr)

    largest = tl.full((BLOCK_E,), float("-inf"), SUM)
    total = tl.full((BLOCK_E,), 0.0, SUM)
    sums = tl.full((BLOCK_E, BLOCK_D), 0.0, SUM)
    for start in range(first, last, BLOCK_E):
        edge = start + lane
        live = edge < last
        source = tl.load(indices_ptr + edge, mask=live, other=0)
        score = tl.load(score_src_ptr + source * heads + head, mask=live, other=0.0).to(SUM) + score_dst
        logit = tl.where(live, tl.where(score > 0, score, score * SLOPE), float("-inf"))
        grown = tl.maximum(largest, logit)
        # A lane that has seen no edge yet would subtract -inf from -inf.
        reference = tl.where(grown == float("-inf"), 0.0, grown)
        rescale = tl.exp(largest - reference)
        weight = tl.exp(logit - reference)
        feat = load_edge_rows(feat_ptr + source * feat_stride + head * dim, live, d, dim, SUM)
        sums = sums * rescale[:, None] + weight[:, None] * feat
        total = total * rescale + weight
        largest = grown

    row_largest = tl.reduce(largest, 0, larger)
    row_largest = tl.where(row_largest == float("-inf"), 0.0, row_largest)
    rescale = tl.exp(largest - row_largest)
    row_total = tl.reduce(total * rescale, 0, add)
    scale = tl.where(row_total > 0, 1.0 / tl.where(row_total > 0, row_total, 1.0), 0.0)
    out = tl.reduce(sums * rescale[:, None], 0, add) * scale
    tl.store(out_ptr + cell * dim + d, out.to(out_ptr.dtype.element_ty), mask=d < dim)
    if tl.program_id(2) == 0:
        tl.store(largest_ptr + cell, row_largest)
        tl.store(scale_ptr + cell, scale)


@Kernel
def row_products(
    grad_ptr,
    out_ptr,
    product_ptr,
    grad_stride,
    heads,
    dim,
    SUM: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One node: for a block of heads, the product of gradient and output, which the softmax's gradient subtracts."""
    node = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    sums = tl.full((BLOCK_H, BLOCK_D), 0.0, SUM)
    for start in range(0, dim, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        inside = (head < heads)[:, None] & (d < dim)[None, :]
        offset = head[:, None] * dim + d[None, :]
        grad = tl.load(grad_ptr + node * grad_stride + offset, mask=inside, other=0.0).to(SUM)
        out = tl.load(out_ptr + node * heads * dim + offset, mask=inside, other=0.0).to(SUM)
        sums += grad * out
    tl.store(product_ptr + node * heads + head, tl.reduce(sums, 1, add), mask=head < heads)


@Kernel
def attend_backward(
    feat_ptr,
    score_src_ptr,
    score_dst_ptr,
    largest_ptr,
    scale_ptr,
    grad_ptr,
    product_ptr,
    out_indptr_ptr,
    out_indices_ptr,
    out_edges_ptr,
    grad_feat_ptr,
    grad_src_ptr,
    grad_edge_ptr,
    feat_stride,
    grad_stride,
    nodes,
    edges,
    heads,
    dim,
    SLOPE: tl.constexpr,
    NEED_FEAT: tl.constexpr,
    NEED_SCORES: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One source and head, over its out-edges: gradients of its features, its score, and each edge's logit.

    The gradient of a logit is linear in the features, so each chunk of features writes its part, (chunks, ...).
    """
    node = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    chunk = tl.program_id(2).to(tl.int64)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    lane = tl.arange(0, BLOCK_E)
    cell = node * heads + head
    score_src = tl.load(score_src_ptr + cell).to(SUM)
    first, last = edges_of(node, out_indptr_ptr)
    own = tl.load(feat_ptr + node * feat_stride + head * dim + d, mask=d < dim, other=0.0).to(SUM)

    sums = tl.full((BLOCK_E, BLOCK_D), 0.0, SUM)
    grad_src = tl.full((BLOCK_E,), 0.0, SUM)
    for start in range(first, last, BLOCK_E):
        offset = start + lane
        live = offset < last
        destination = tl.load(out_indices_ptr + offset, mask=live, other=0)
        at = destination * heads + head
        score = tl.load(score_dst_ptr + at, mask=live, other=0.0).to(SUM) + score_src
        logit = tl.where(score > 0, score, score * SLOPE)
        # A lane beyond the last edge gets exp(-inf): weight 0.
        largest = tl.load(largest_ptr + at, mask=live, other=float("inf"))
        weight = tl.exp(logit - largest) * tl.load(scale_ptr + at, mask=live, other=0.0)
        grad = load_edge_rows(grad_ptr + destination * grad_stride + head * dim, live, d, dim, SUM)
        if NEED_FEAT:
            sums += weight[:, None] * grad
        if NEED_SCORES:
            product = tl.load(product_ptr + at, mask=live & (chunk == 0), other=0.0)
            grad_logit = weight * (tl.reduce(grad * own[None, :], 1, add) - product)
            grad_score = tl.where(score > 0, grad_logit, grad_logit * SLOPE)
            grad_src += grad_score
            edge = tl.load(out_edges_ptr + offset, mask=live, other=0)
            tl.store(grad_edge_ptr + (chunk * edges + edge) * heads + head, grad_score, mask=live)

    if NEED_FEAT:
        store_sums(grad_feat_ptr + cell * dim, sums, d, dim)
    if NEED_SCORES:
        tl.store(grad_src_ptr + chunk * nodes * heads + cell, tl.reduce(grad_src, 0, add))


@Kernel
def sum_in_edges(
    edge_ptr,
    indptr_ptr,
    out_ptr,
    edges,
    rows,
    heads,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """One destination: for a block of heads, the sum over its in-edges, which lie together, in rows / E tables."""
    node = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    first, last = edges_of(node, indptr_ptr)
    sums = tl.full((BLOCK_E, BLOCK_H), 0.0, SUM)
    for table in range(0, rows, edges):
        for start in range(first, last, BLOCK_E):
            edge = start + tl.arange(0, BLOCK_E)
            inside = (edge < last)[:, None] & (head < heads)[None, :]
            offset = (table + edge)[:, None] * heads + head[None, :]
            sums += tl.load(edge_ptr + offset, mask=inside, other=0.0)
    out = tl.reduce(sums, 0, add)
    tl.store(out_ptr + node * heads + head, out.to(out_ptr.dtype.element_ty), mask=head < heads)
