"""Launches of the kernels of graph attention. N nodes, E edges, H heads, C chunks of features."""

import torch
from torch import Tensor

from relgrounding.ops._triton import accumulator, dense_rows, power_of_two
from relgrounding.ops._triton._jit import TYPES
from relgrounding.ops._triton._rows import RowsCall
from relgrounding.ops.graph_attention import _triton_kernels as kernels


def attend(
    feat: Tensor, score_src: Tensor, score_dst: Tensor, indptr: Tensor, indices: Tensor, slope: float, exact: bool
) -> tuple[Tensor, ...]:
    """Output, and for each destination and head its largest logit and 1 / sum of exp(logit - largest).

    Both are 0 for a node without in-edges. With `exact` the output has the type of sums, float32 of bfloat16.
    """
    sums = accumulator(feat.dtype)
    out = feat.new_empty(feat.shape, dtype=sums if exact else feat.dtype)
    if out.numel() == 0:
        return out, *(score_dst.new_zeros(score_dst.shape, dtype=sums) for _ in range(2))
    largest, scale = (score_dst.new_empty(score_dst.shape, dtype=sums) for _ in range(2))
    feat = dense_rows(feat)
    inputs = feat, score_src.contiguous(), score_dst.contiguous(), indptr, indices
    RowsCall(feat)(kernels.attend, (*inputs, out, largest, scale), feat.stride(0), feat.shape[1], SLOPE=slope)
    return out, largest, scale


def attend_backward(
    grad: Tensor,
    feat: Tensor,
    score_src: Tensor,
    score_dst: Tensor,
    out: Tensor,
    largest: Tensor,
    scale: Tensor,
    indptr: Tensor,
    out_indptr: Tensor,
    out_indices: Tensor,
    out_edges: Tensor,
    slope: float,
    need_feat: bool,
    need_scores: bool,
) -> tuple[Tensor, ...]:
    """Gradients of the features, the sources' and the destinations' scores; an empty tensor where not needed."""
    (nodes, heads, _), edges = feat.shape, len(out_edges)
    if feat.numel() == 0 or edges == 0:
        shapes = [feat.shape if need_feat else (0,), *[score_src.shape if need_scores else (0,)] * 2]
        return tuple(feat.new_zeros(shape) for shape in shapes)
    feat, grad = dense_rows(feat), dense_rows(grad)
    call = RowsCall(feat)
    chunks = call.chunks
    grad_feat = feat.new_empty(feat.shape if need_feat else (0,))
    grad_src_CNH = largest.new_empty((chunks, nodes, heads) if need_scores else (0,))
    grad_edge_CEH = largest.new_empty((chunks, edges, heads) if need_scores else (0,))
    with torch.cuda.device_of(feat):
        products = _row_products(grad, out, largest) if need_scores else largest
        inputs = feat, score_src.contiguous(), score_dst.contiguous(), largest, scale, grad, products
        tensors = *inputs, out_indptr, out_indices, out_edges, grad_feat, grad_src_CNH, grad_edge_CEH
        numbers = feat.stride(0), grad.stride(0), nodes, edges, heads
        needs = {"NEED_FEAT": need_feat, "NEED_SCORES": need_scores}
        call(kernels.attend_backward, tensors, *numbers, SLOPE=slope, **needs)
        if not need_scores:
            return grad_feat, *(score_src.new_empty(0) for _ in range(2))
        grad_dst = _sum_in_edges(grad_edge_CEH, indptr, score_dst)
    grad_src_NH = grad_src_CNH[0] if chunks == 1 else grad_src_CNH.sum(0)
    return grad_feat, grad_src_NH.to(score_src.dtype), grad_dst


def _row_products(grad: Tensor, out: Tensor, largest: Tensor) -> Tensor:
    """(N, H) the products of gradient and output."""
    nodes, heads, dim = out.shape
    block_h, block_d = min(power_of_two(heads), 16), min(power_of_two(dim), 128)
    products = torch.empty_like(largest)
    kernels.row_products[(nodes, -(-heads // block_h))](
        grad,
        out,
        products,
        grad.stride(0),
        heads,
        dim,
        SUM=TYPES[largest.dtype],
        BLOCK_H=block_h,
        BLOCK_D=block_d,
        num_warps=max(block_h * block_d // 512, 1),
    )
    return products


def _sum_in_edges(edge_CEH: Tensor, indptr: Tensor, score_dst: Tensor) -> Tensor:
    """(N, H) the sums over chunks and in-edges."""
    chunks, edges, heads = edge_CEH.shape
    block_h = min(power_of_two(heads), 16)
    sums = score_dst.new_empty(score_dst.shape)
    kernels.sum_in_edges[(len(sums), -(-heads // block_h))](
        edge_CEH,
        indptr,
        sums,
        edges,
        chunks * edges,
        heads,
        SUM=TYPES[edge_CEH.dtype],
        BLOCK_E=32,
        BLOCK_H=block_h,
        num_warps=1,
    )
    return sums
