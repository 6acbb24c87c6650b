"""Kernels of the gated sum, see `relgrounding.ops._triton._rows`. N nodes, E edges, R types, D dim."""

import triton.language as tl

from relgrounding.ops._triton._jit import Kernel, add, sigmoid, sigmoid_slope
from relgrounding.ops._triton._rows import edges_of, load_edge_rows, store_sums


@Kernel
def open_gates(gates_ptr, biases_ptr, live, SUM: tl.constexpr):
    """The gates of some edges; 0 beyond the last one."""
    logit = tl.load(gates_ptr, mask=live, other=float("-inf")).to(SUM)
    logit += tl.load(biases_ptr, mask=live, other=0.0).to(SUM)
    return sigmoid(logit)


@Kernel
def weigh_biases(gates, type_bias_ptr, r, d, types, dim, SUM: tl.constexpr):
    """The types' biases, weighted by the sums of gates of some types."""
    offset = r.to(tl.int64)[:, None] * dim + d[None, :]
    inside = (r < types)[:, None] & (d < dim)[None, :]
    bias = tl.load(type_bias_ptr + offset, mask=inside, other=0.0).to(SUM)
    return tl.reduce(gates[:, None] * bias, 0, add)


@Kernel
def gather(
    feat_ptr,
    gate_ptr,
    gate_bias_ptr,
    type_bias_ptr,
    indptr_ptr,
    indices_ptr,
    etype_ptr,
    out_ptr,
    table_ptr,
    feat_stride,
    types,
    dim,
    KEEP_TABLE: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One destination: its in-edges' gates times features, plus its sums of gates by type times the types' biases."""
    node = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    lane = tl.arange(0, BLOCK_E)
    first, last = edges_of(node, indptr_ptr)

    sums = tl.full((BLOCK_E, BLOCK_D), 0.0, SUM)
    r = tl.arange(0, BLOCK_R)
    by_type = tl.full((BLOCK_E, BLOCK_R), 0.0, SUM)
    for start in range(first, last, BLOCK_E):
        edge = start + lane
        live = edge < last
        source = tl.load(indices_ptr + edge, mask=live, other=0)
        kind = tl.load(etype_ptr + edge, mask=live, other=0)
        gate = open_gates(gate_ptr + source, gate_bias_ptr + kind, live, SUM)
        feat = load_edge_rows(feat_ptr + source * feat_stride, live, d, dim, SUM)
        sums += gate[:, None] * feat
        by_type += tl.where(kind[:, None] == r[None, :], gate[:, None], 0.0)
    gates = tl.reduce(by_type, 0, add)
    out = tl.reduce(sums, 0, add) + weigh_biases(gates, type_bias_ptr, r, d, types, dim, SUM)
    if KEEP_TABLE:
        tl.store(table_ptr + node * types + r, gates, mask=(r < types) & (tl.program_id(1) == 0))

    # Types beyond the first block, where there are so many, walk the edges again.
    for block in range(BLOCK_R, types, BLOCK_R):
        r = block + tl.arange(0, BLOCK_R)
        by_type = tl.full((BLOCK_E, BLOCK_R), 0.0, SUM)
        for start in range(first, last, BLOCK_E):
            edge = start + lane
            live = edge < last
            source = tl.load(indices_ptr + edge, mask=live, other=0)
            kind = tl.load(etype_ptr + edge, mask=live, other=0)
            gate = open_gates(gate_ptr + source, gate_bias_ptr + kind, live, SUM)
            by_type += tl.where(kind[:, None] == r[None, :], gate[:, None], 0.0)
        gates = tl.reduce(by_type, 0, add)
        out += weigh_biases(gates, type_bias_ptr, r, d, types, dim, SUM)
        if KEEP_TABLE:
            tl.store(table_ptr + node * types + r, gates, mask=(r < types) & (tl.program_id(1) == 0))
    tl.store(out_ptr + node * dim + d, out.to(out_ptr.dtype.element_ty), mask=d < dim)


@Kernel
def scatter(
    feat_ptr,
    gate_ptr,
    gate_bias_ptr,
    type_bias_ptr,
    grad_ptr,
    out_indptr_ptr,
    out_indices_ptr,
    out_etype_ptr,
    grad_feat_ptr,
    grad_gate_ptr,
    grad_edge_ptr,
    feat_stride,
    grad_stride,
    nodes,
    edges,
    dim,
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
        kind = tl.load(out_etype_ptr + offset, mask=live, other=0)
        # Beyond the last edge the logit is -inf: the gate and its slope are 0.
        logit = gate_logit + tl.load(gate_bias_ptr + kind, mask=live, other=float("-inf")).to(SUM)
        grad = load_edge_rows(grad_ptr + destination * grad_stride, live, d, dim, SUM)
        if NEED_FEAT:
            sums += sigmoid(logit)[:, None] * grad
        if NEED_GATE:
            bias = load_edge_rows(type_bias_ptr + kind * dim, live, d, dim, SUM)
            grad_logit = sigmoid_slope(logit) * tl.reduce(grad * (own[None, :] + bias), 1, add)
            grad_gate += grad_logit
            tl.store(grad_edge_ptr + chunk * edges + offset, grad_logit, mask=live)

    if NEED_FEAT:
        store_sums(grad_feat_ptr + node * dim, sums, d, dim)
    if NEED_GATE:
        tl.store(grad_gate_ptr + chunk * nodes + node, tl.reduce(grad_gate, 0, add))


@Kernel
def sum_by_type(
    edge_ptr,
    out_etype_ptr,
    part_ptr,
    edges,
    rows,
    types,
    span,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """A span of edges in the order by source: (parts, R) sums by type, over each of rows / E tables."""
    part = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    first = part * span
    last = tl.minimum(first + span, edges)
    sums = tl.full((BLOCK_E, BLOCK_R), 0.0, SUM)
    for table in range(0, rows, edges):
        for start in range(first, last, BLOCK_E):
            offset = start + tl.arange(0, BLOCK_E)
            live = offset < last
            kind = tl.load(out_etype_ptr + offset, mask=live, other=0)
            value = tl.load(edge_ptr + table + offset, mask=live, other=0.0)
            sums += tl.where(kind[:, None] == r[None, :], value[:, None], 0.0)
    tl.store(part_ptr + part * types + r, tl.reduce(sums, 0, add), mask=r < types)


@Kernel
def table_products(
    table_ptr,
    grad_ptr,
    part_ptr,
    grad_stride,
    nodes,
    types,
    dim,
    span,
    SUM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """A span of nodes: (parts, R, D) sums of their gate sums by type times their gradients."""
    part = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    r = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    first = part * span
    last = tl.minimum(first + span, nodes)
    sums = tl.full((BLOCK_R, BLOCK_D), 0.0, SUM)
    for start in range(first, last, BLOCK_N):
        node = start + tl.arange(0, BLOCK_N)
        live = node < last
        gates = tl.load(
            table_ptr + node[None, :] * types + r[:, None], mask=live[None, :] & (r < types)[:, None], other=0.0
        )
        grad = load_edge_rows(grad_ptr + node * grad_stride, live, d, dim, SUM)
        sums += tl.dot(gates, grad, input_precision="ieee", out_dtype=SUM)
    offset = (part * types + r)[:, None] * dim + d[None, :]
    tl.store(part_ptr + offset, sums, mask=(r < types)[:, None] & (d < dim)[None, :])
