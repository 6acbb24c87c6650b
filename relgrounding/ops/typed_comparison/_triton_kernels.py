"""Kernels of the typed comparison, see `relgrounding.ops._triton._rows`. N nodes, E edges, R types, D dim."""

import triton.language as tl

from relgrounding.ops._triton._jit import Kernel, add, sigmoid, sigmoid_slope
from relgrounding.ops._triton._rows import edges_of, load_edge_rows, store_sums


@Kernel
def open_gates(gates_ptr, types_ptr, biases_ptr, live, EDGE_BIAS: tl.constexpr, SUM: tl.constexpr):
    """The gates of some edges; 0 beyond the last one."""
    logit = tl.load(gates_ptr, mask=live, other=float("-inf")).to(SUM)
    logit += tl.load(types_ptr, mask=live, other=0.0).to(SUM)
    if EDGE_BIAS:
        logit += tl.load(biases_ptr, mask=live, other=0.0).to(SUM)
    return sigmoid(logit)


@Kernel
def gather(
    feat_ptr,
    gate_ptr,
    type_gate_ptr,
    type_bias_ptr,
    edge_bias_ptr,
    indptr_ptr,
    indices_ptr,
    etype_ptr,
    out_ptr,
    count_ptr,
    feat_stride,
    types,
    dim,
    EDGE_BIAS: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One destination: the mean of what its gates let through, and its saturated counts times the types' biases."""
    node = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    lane = tl.arange(0, BLOCK_E)
    first, last = edges_of(node, indptr_ptr)
    of_types_ptr = type_gate_ptr + node * types

    sums = tl.full((BLOCK_E, BLOCK_D), 0.0, SUM)
    opened = tl.full((BLOCK_E,), 0.0, SUM)
    for start in range(first, last, BLOCK_E):
        edge = start + lane
        live = edge < last
        source = tl.load(indices_ptr + edge, mask=live, other=0)
        kind = tl.load(etype_ptr + edge, mask=live, other=0)
        gate = open_gates(gate_ptr + source, of_types_ptr + kind, edge_bias_ptr + edge, live, EDGE_BIAS, SUM)
        feat = load_edge_rows(feat_ptr + source * feat_stride, live, d, dim, SUM)
        sums += gate[:, None] * feat
        opened += gate
    out = tl.reduce(sums, 0, add) / (1.0 + tl.reduce(opened, 0, add))

    for block in range(0, types, BLOCK_R):
        r = block + tl.arange(0, BLOCK_R)
        by_type = tl.full((BLOCK_E, BLOCK_R), 0.0, SUM)
        for start in range(first, last, BLOCK_E):
            edge = start + lane
            live = edge < last
            source = tl.load(indices_ptr + edge, mask=live, other=0)
            kind = tl.load(etype_ptr + edge, mask=live, other=0)
            gate = open_gates(gate_ptr + source, of_types_ptr + kind, edge_bias_ptr + edge, live, EDGE_BIAS, SUM)
            by_type += tl.where(kind[:, None] == r[None, :], gate[:, None], 0.0)
        count = tl.reduce(by_type, 0, add)
        offset = r.to(tl.int64)[:, None] * dim + d[None, :]
        inside = (r < types)[:, None] & (d < dim)[None, :]
        bias = tl.load(type_bias_ptr + offset, mask=inside, other=0.0).to(SUM)
        out += tl.reduce((count / (1.0 + count))[:, None] * bias, 0, add)
        tl.store(count_ptr + node * types + r, count, mask=(r < types) & (tl.program_id(1) == 0))
    tl.store(out_ptr + node * dim + d, out.to(out_ptr.dtype.element_ty), mask=d < dim)


@Kernel
def destinations(
    grad_ptr,
    out_ptr,
    type_bias_ptr,
    count_ptr,
    of_types_ptr,
    scale_ptr,
    through_ptr,
    grad_stride,
    types,
    dim,
    SUM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One destination: what the gradients of all its gates of a type share, and of all its gates.

    `scale` is 1 / (1 + sum of gates), `of_types` the share of the count, `through` that of the sum.
    """
    node = tl.program_id(0).to(tl.int64)
    through = tl.full((BLOCK_D,), 0.0, SUM)
    for start in range(0, dim, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        grad = tl.load(grad_ptr + node * grad_stride + d, mask=d < dim, other=0.0).to(SUM)
        through += grad * tl.load(out_ptr + node * dim + d, mask=d < dim, other=0.0).to(SUM)

    counts = tl.full((BLOCK_R,), 0.0, SUM)
    biases = tl.full((BLOCK_R,), 0.0, SUM)
    for block in range(0, types, BLOCK_R):
        r = block + tl.arange(0, BLOCK_R)
        count = tl.load(count_ptr + node * types + r, mask=r < types, other=0.0)
        products = tl.full((BLOCK_R, BLOCK_D), 0.0, SUM)
        for start in range(0, dim, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            grad = tl.load(grad_ptr + node * grad_stride + d, mask=d < dim, other=0.0).to(SUM)
            offset = r.to(tl.int64)[:, None] * dim + d[None, :]
            inside = (r < types)[:, None] & (d < dim)[None, :]
            products += grad[None, :] * tl.load(type_bias_ptr + offset, mask=inside, other=0.0).to(SUM)
        product = tl.reduce(products, 1, add)
        slope = 1.0 / (1.0 + count)
        counts += count
        biases += count * slope * product
        tl.store(of_types_ptr + node * types + r, product * slope * slope, mask=r < types)
    scale = 1.0 / (1.0 + tl.reduce(counts, 0, add))
    tl.store(scale_ptr + node, scale)
    tl.store(through_ptr + node, scale * (tl.reduce(through, 0, add) - tl.reduce(biases, 0, add)))


@Kernel
def scatter(
    feat_ptr,
    gate_ptr,
    type_gate_ptr,
    edge_bias_ptr,
    grad_ptr,
    of_types_ptr,
    scale_ptr,
    through_ptr,
    out_indptr_ptr,
    out_indices_ptr,
    out_edges_ptr,
    etype_ptr,
    grad_feat_ptr,
    grad_gate_ptr,
    grad_edge_ptr,
    feat_stride,
    grad_stride,
    nodes,
    edges,
    types,
    dim,
    EDGE_BIAS: tl.constexpr,
    NEED_FEAT: tl.constexpr,
    NEED_GATE: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One source, over its out-edges: gradients of its features, its gate, and each edge's logit.

    The gradient of a logit is linear in the features, so each chunk of features writes its part, (chunks, ...).
    """
    node = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    lane = tl.arange(0, BLOCK_E)
    first, last = edges_of(node, out_indptr_ptr)
    gate_logit = tl.load(gate_ptr + node).to(SUM)
    own = tl.load(feat_ptr + node * feat_stride + d, mask=d < dim, other=0.0).to(SUM)

    sums = tl.full((BLOCK_E, BLOCK_D), 0.0, SUM)
    grad_gate = tl.full((BLOCK_E,), 0.0, SUM)
    for start in range(first, last, BLOCK_E):
        offset = start + lane
        live = offset < last
        destination = tl.load(out_indices_ptr + offset, mask=live, other=0)
        edge = tl.load(out_edges_ptr + offset, mask=live, other=0)
        cell = destination * types + tl.load(etype_ptr + edge, mask=live, other=0)
        # Beyond the last edge the logit is -inf: the gate and its slope are 0.
        logit = gate_logit + tl.load(type_gate_ptr + cell, mask=live, other=float("-inf")).to(SUM)
        if EDGE_BIAS:
            logit += tl.load(edge_bias_ptr + edge, mask=live, other=0.0).to(SUM)
        scale = tl.load(scale_ptr + destination, mask=live, other=0.0)
        grad = load_edge_rows(grad_ptr + destination * grad_stride, live, d, dim, SUM)
        if NEED_FEAT:
            sums += (sigmoid(logit) * scale)[:, None] * grad
        if NEED_GATE:
            grad_opened = scale * tl.reduce(grad * own[None, :], 1, add)
            of_type = tl.load(of_types_ptr + cell, mask=live, other=0.0)
            of_all = tl.load(through_ptr + destination, mask=live, other=0.0)
            grad_opened += tl.where(chunk == 0, of_type - of_all, 0.0)
            grad_logit = sigmoid_slope(logit) * grad_opened
            grad_gate += grad_logit
            tl.store(grad_edge_ptr + chunk * edges + edge, grad_logit, mask=live)

    if NEED_FEAT:
        store_sums(grad_feat_ptr + node * dim, sums, d, dim)
    if NEED_GATE:
        tl.store(grad_gate_ptr + chunk * nodes + node, tl.reduce(grad_gate, 0, add))


@Kernel
def sum_by_type(
    edge_ptr,
    indptr_ptr,
    etype_ptr,
    table_ptr,
    types,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One destination and a block of types: the sums of a number per in-edge."""
    node = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    first, last = edges_of(node, indptr_ptr)
    sums = tl.full((BLOCK_E, BLOCK_R), 0.0, SUM)
    for start in range(first, last, BLOCK_E):
        edge = start + tl.arange(0, BLOCK_E)
        live = edge < last
        kind = tl.load(etype_ptr + edge, mask=live, other=0)
        value = tl.load(edge_ptr + edge, mask=live, other=0.0)
        sums += tl.where(kind[:, None] == r[None, :], value[:, None], 0.0)
    total = tl.reduce(sums, 0, add)
    tl.store(table_ptr + node * types + r, total.to(table_ptr.dtype.element_ty), mask=r < types)
