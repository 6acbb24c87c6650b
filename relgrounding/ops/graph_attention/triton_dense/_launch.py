"""Launches of the kernels of graph attention on tiles. N nodes, H heads, C chunks of features."""

from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._triton import accumulator, dense_rows
from relgrounding.ops._triton._tiles import TiledCall
from relgrounding.ops.graph_attention.triton_dense import _kernels as kernels


def attend(
    structure: GraphStructure, feat: Tensor, score_src: Tensor, score_dst: Tensor, slope: float
) -> tuple[Tensor, ...]:
    """Output, and for each destination and head its largest logit and 1 / sum of exp(logit - largest).

    Both are 0 for a node without in-edges.
    """
    sums = accumulator(feat.dtype)
    out = feat.new_empty(feat.shape)
    largest, scale = (score_dst.new_empty(score_dst.shape, dtype=sums) for _ in range(2))
    if out.numel() == 0:
        return out, largest.zero_(), scale.zero_()
    feat, (heads, dim) = dense_rows(feat), feat.shape[1:]
    call = TiledCall(structure, feat.dtype, dim, heads, SLOPE=slope)
    inputs = feat, score_src.contiguous(), score_dst.contiguous(), *call.graph
    call(kernels.attend, (*inputs, out, largest, scale), feat.stride(0))
    return out, largest, scale


def attend_backward(
    structure: GraphStructure,
    slope: float,
    need_feat: bool,
    need_scores: bool,
    grad: Tensor,
    feat: Tensor,
    score_src: Tensor,
    score_dst: Tensor,
    largest: Tensor,
    scale: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the features, the sources' and the destinations' scores; an empty tensor where not needed."""
    if feat.numel() == 0:
        return feat.new_zeros(feat.shape), *(score_src.new_zeros(score_src.shape) for _ in range(2))
    grad, feat, (heads, dim) = dense_rows(grad), dense_rows(feat), feat.shape[1:]
    call = TiledCall(structure, feat.dtype, dim, heads, SLOPE=slope)
    inputs = feat, score_src.contiguous(), score_dst.contiguous(), *call.graph, largest, scale, grad
    strides = feat.stride(0), grad.stride(0)
    parts = (call.chunks, *largest.shape) if need_scores else (0,)
    mean_CNH, dst_CNH, src_CNH = (largest.new_empty(parts) for _ in range(3))
    grad_feat = feat.new_empty(feat.shape if need_feat else (0,))
    if need_scores:
        call(kernels.attend_backward_rows, (*inputs, mean_CNH, dst_CNH), *strides)
    needs = {"NEED_FEAT": need_feat, "NEED_SCORES": need_scores}
    outputs = mean_CNH, grad_feat, src_CNH
    call(kernels.attend_backward_columns, (*inputs, *outputs), *strides, by_source=True, **needs)
    return grad_feat, *((sum_of_chunks(x).to(score_src.dtype) if need_scores else x) for x in (src_CNH, dst_CNH))


def sum_of_chunks(parts: Tensor) -> Tensor:
    """The sum over the first axis."""
    return parts[0] if len(parts) == 1 else parts.sum(0)
