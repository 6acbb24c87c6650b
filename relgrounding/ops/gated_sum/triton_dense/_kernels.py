"""Kernels of the gated sum on the tiles of an item.

A tile is (BLOCK_I, BLOCK_J): (destinations, sources) or the converse. Grid: (items x blocks of rows, 1, chunks of
BLOCK_D features). A program's rows, and those it meets, belong to one item; sums over a row of tiles are matrix
products, made in a fixed order: there are no atomics. Offsets of rows of features are 64-bit. `SUM` is the type of the
sums, `OPERAND` that of the factors of matrix products; R types fill BLOCK_R columns.
"""

import triton.language as tl

from relgrounding.ops._triton_jit import Kernel, add, load_kinds, load_rows


@Kernel
def open_gates(gate, kind, gate_bias_ptr, types, SUM: tl.constexpr):
    """The gates of a tile; 0 where there is no edge."""
    logit = gate + tl.load(gate_bias_ptr + kind, mask=kind < types, other=float("-inf")).to(SUM)
    small = tl.exp(-tl.abs(logit))
    return tl.where(logit >= 0, 1.0, small) / (1.0 + small)


@Kernel
def sums_by_type(values, kind, r, TYPES: tl.constexpr):
    """(row, r) sums of the values of a tile by type."""
    table = tl.full((values.shape[0], r.shape[0]), 0.0, values.dtype)
    for type in tl.static_range(TYPES):
        of_type = tl.reduce(tl.where(kind == type, values, 0.0), 1, add)
        table += tl.where(r == type, 1.0, 0.0)[None, :] * of_type[:, None]
    return table


@Kernel
def logits_by_type(product, of_type, gate, kind, gate_bias_ptr, types, r, TYPES: tl.constexpr, SUM: tl.constexpr):
    """(row, r) sums by type of the gradients of the logits of a tile, whose gates have slope 0 where no edge is."""
    logit = gate + tl.load(gate_bias_ptr + kind, mask=kind < types, other=float("-inf")).to(SUM)
    small = tl.exp(-tl.abs(logit))
    slope = small / ((1.0 + small) * (1.0 + small))
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
    item = tl.program_id(0) // blocks
    first = tl.load(bounds_ptr + item)
    count = (tl.load(bounds_ptr + item + 1) - first).to(tl.int32)
    tile_ptr = planes_ptr + first * width
    size = nodes.to(tl.int64) * width
    i = tl.program_id(0) % blocks * BLOCK_I + tl.arange(0, BLOCK_I)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    r = tl.arange(0, BLOCK_R)

    # Blocks beyond the item's last row have nothing to do.
    last = tl.where(tl.program_id(0) % blocks * BLOCK_I < count, count, 0)
    table = tl.full((BLOCK_I, BLOCK_R), 0.0, SUM)
    for start in range(0, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        inside = (i < count)[:, None] & (j < width)[None, :]
        cell = i[:, None] * width + j[None, :]
        gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[None, :]
        if PARALLEL:
            for plane in range(0, planes):
                kind = load_kinds(tile_ptr + plane * size, cell, inside, types)
                table += sums_by_type(open_gates(gate, kind, gate_bias_ptr, types, SUM), kind, r, TYPES)
        else:
            kind = load_kinds(tile_ptr, cell, inside, types)
            table += sums_by_type(open_gates(gate, kind, gate_bias_ptr, types, SUM), kind, r, TYPES)

    # In the type of the sums: the gates of many edges add up.
    bias = load_rows(type_bias_ptr, r, 0, TYPES, dim, d, dim, SUM)
    sums = tl.dot(table, bias, input_precision="ieee", out_dtype=SUM)
    for start in range(0, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        inside = (i < count)[:, None] & (j < width)[None, :]
        cell = i[:, None] * width + j[None, :]
        gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[None, :]
        opened = open_gates(gate, load_kinds(tile_ptr, cell, inside, types), gate_bias_ptr, types, SUM)
        if PARALLEL:
            for plane in range(1, planes):
                kind = load_kinds(tile_ptr + plane * size, cell, inside, types)
                opened += open_gates(gate, kind, gate_bias_ptr, types, SUM)
        feat = load_rows(feat_ptr, j, first, count, feat_stride, d, dim, OPERAND)
        factor = opened.to(feat_ptr.dtype.element_ty).to(OPERAND)
        sums = tl.dot(factor, feat, sums, input_precision=PRECISION, out_dtype=SUM)

    row = (first + i)[:, None]
    out = sums.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * dim + d[None, :], out, mask=(i < count)[:, None] & (d < dim)[None, :])
    if KEEP_TABLE:
        kept = (i < count)[:, None] & (r < TYPES)[None, :] & (tl.program_id(2) == 0)
        tl.store(table_ptr + row * TYPES + r[None, :], table, mask=kept)


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
    inside = (i < nodes)[:, None] & (r < TYPES)[None, :]
    tl.store(product_ptr + i[:, None] * TYPES + r[None, :], sums, mask=inside)


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
    item = tl.program_id(0) // blocks
    first = tl.load(bounds_ptr + item)
    count = (tl.load(bounds_ptr + item + 1) - first).to(tl.int32)
    tile_ptr = planes_ptr + first * width
    size = nodes.to(tl.int64) * width
    j = tl.program_id(0) % blocks * BLOCK_I + tl.arange(0, BLOCK_I)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[:, None]

    sums = tl.full((BLOCK_I, BLOCK_D), 0.0, SUM)
    for start in range(0, tl.where(tl.program_id(0) % blocks * BLOCK_I < count, count, 0), BLOCK_J):
        i = start + tl.arange(0, BLOCK_J)
        inside = (j < count)[:, None] & (i < count)[None, :]
        cell = i[None, :] * width + j[:, None]
        opened = open_gates(gate, load_kinds(tile_ptr, cell, inside, types), gate_bias_ptr, types, SUM)
        if PARALLEL:
            for plane in range(1, planes):
                kind = load_kinds(tile_ptr + plane * size, cell, inside, types)
                opened += open_gates(gate, kind, gate_bias_ptr, types, SUM)
        grad = load_rows(grad_ptr, i, first, count, grad_stride, d, dim, OPERAND)
        factor = opened.to(grad_ptr.dtype.element_ty).to(OPERAND)
        sums = tl.dot(factor, grad, sums, input_precision=PRECISION, out_dtype=SUM)

    out = sums.to(grad_feat_ptr.dtype.element_ty)
    inside = (j < count)[:, None] & (d < dim)[None, :]
    tl.store(grad_feat_ptr + (first + j)[:, None] * dim + d[None, :], out, mask=inside)


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
    item = tl.program_id(0) // blocks
    first = tl.load(bounds_ptr + item)
    count = (tl.load(bounds_ptr + item + 1) - first).to(tl.int32)
    tile_ptr = planes_ptr + first * width
    size = nodes.to(tl.int64) * width
    j = tl.program_id(0) % blocks * BLOCK_I + tl.arange(0, BLOCK_I)
    r = tl.arange(0, BLOCK_R)
    gate = tl.load(gate_ptr + first + j, mask=j < count, other=0.0).to(SUM)[:, None]

    table = tl.full((BLOCK_I, BLOCK_R), 0.0, SUM)
    for start in range(0, tl.where(tl.program_id(0) % blocks * BLOCK_I < count, count, 0), BLOCK_J):
        i = start + tl.arange(0, BLOCK_J)
        product = tl.full((BLOCK_I, BLOCK_J), 0.0, SUM)
        for chunk in range(0, dim, BLOCK_D):
            d = chunk + tl.arange(0, BLOCK_D)
            feat = load_rows(feat_ptr, j, first, count, feat_stride, d, dim, OPERAND)
            grad = load_rows(grad_ptr, i, first, count, grad_stride, d, dim, OPERAND)
            product = tl.dot(feat, tl.trans(grad), product, input_precision=PRECISION, out_dtype=SUM)
        inside = (j < count)[:, None] & (i < count)[None, :]
        cell = i[None, :] * width + j[:, None]
        of_type = product_ptr + (first + i)[None, :] * TYPES
        if PARALLEL:
            for plane in range(0, planes):
                kind = load_kinds(tile_ptr + plane * size, cell, inside, types)
                table += logits_by_type(product, of_type, gate, kind, gate_bias_ptr, types, r, TYPES, SUM)
        else:
            kind = load_kinds(tile_ptr, cell, inside, types)
            table += logits_by_type(product, of_type, gate, kind, gate_bias_ptr, types, r, TYPES, SUM)

    inside = (j < count)[:, None] & (r < TYPES)[None, :]
    tl.store(table_ptr + (first + j)[:, None] * TYPES + r[None, :], table, mask=inside)
