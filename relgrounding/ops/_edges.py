"""Softmax and sums over the in-edges of each node, of numbers that are given per edge and head.

`naive` is plain differentiable operations. Otherwise values and gradients are the same, without a tensor of
(edges x features) and without atomics.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._choice import choose_backend
from relgrounding.ops._dispatch import check_tensors
from relgrounding.ops._registry import HALF
from relgrounding.ops._segments import edge_dots, segment_max, segment_sum, weighted_rows


def take_rows(x: Tensor, index: Tensor, naive: bool) -> Tensor:
    """``x[index]``; without `naive` the gradient adds up in one order on a GPU, too, which takes longer on a CPU."""
    return x.index_select(0, index) if naive else x[index]


def edge_softmax(
    structure: GraphStructure, logit_EH: Float[Tensor, "edges heads"], naive: bool = True
) -> Float[Tensor, "edges heads"]:
    """Softmax over the in-edges of each node. Logits of minus infinity get 0, also where a node has no others."""
    return _softmax_naive(structure, logit_EH) if naive else _Softmax.apply(structure, logit_EH)


def weighted_sum(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    weight_EH: Float[Tensor, "edges heads"],
    naive: bool = True,
) -> Float[Tensor, "nodes heads dim"]:
    """Sum over the in-edges of each node of ``weight feat[source]``."""
    return (_weighted_sum_naive if naive else _WeightedSum.apply)(structure, feat_NHD, weight_EH)


def per_edge(name: str, values: Tensor | None, structure: GraphStructure, columns: int) -> Tensor | None:
    """The values as (edges, columns), from one column for all or that many.

    Raises:
        ValueError: other shapes.
    """
    if values is None:
        return None
    shape = structure.num_edges, columns
    if values.shape not in (shape[:1], shape):
        raise ValueError(
            f"{name} has the shape {tuple(values.shape)}, the graph has {shape[0]} edges; give ({shape[0]},) or {shape}"
        )
    return (values if values.ndim == 2 else values[:, None]).expand(shape)


def edge_inputs(
    operator: str, structure: GraphStructure, inputs: Sequence[Tensor], edge_bias: Tensor | None, backend: str
) -> tuple[bool, Sequence[Tensor], Tensor | None]:
    """Whether to compute as "naive" does, and the inputs and the bias in the type to compute in.

    Args:
        operator: its name.
        structure: graph.
        inputs: tensors; the first are the features.
        edge_bias: (E, K) or None.
        backend: or "auto".

    Raises:
        ValueError: a backend that does not exist or cannot run here, or features that do not fit the graph.
    """
    first = inputs[0]
    if len(first) != structure.num_nodes:
        raise ValueError(f"the graph has {structure.num_nodes} nodes, the features have {len(first)} rows")
    name = choose_backend(backend, operator, structure, first)
    dtype = torch.float32 if first.dtype in HALF else first.dtype
    inputs = [x.to(dtype) for x in inputs]
    edge_bias = None if edge_bias is None else edge_bias.to(dtype)
    check_tensors(structure, *inputs, *([] if edge_bias is None else [edge_bias]))
    naive = name == "naive" or torch.compiler.is_compiling() or first.device.type not in ("cpu", "cuda")
    return naive, inputs, edge_bias


def _softmax_naive(structure: GraphStructure, logit_EH: Tensor) -> Tensor:
    dst, nodes_NH = structure.destinations, logit_EH.new_zeros(structure.num_nodes, logit_EH.shape[1])
    with torch.no_grad():  # the largest logit cancels out of the softmax, and out of its gradient
        largest_NH = torch.full_like(nodes_NH, torch.finfo(logit_EH.dtype).min)
        largest_NH = largest_NH.scatter_reduce(0, dst[:, None].expand_as(logit_EH), logit_EH, "amax")
    weight_EH = torch.exp(logit_EH - largest_NH.index_select(0, dst))
    total_NH = nodes_NH.index_add(0, dst, weight_EH)
    # A sum holds exp(0), unless minus infinity takes out all edges; a tiny one would make an infinite gradient of it.
    return weight_EH / total_NH.masked_fill(total_NH == 0, 1).index_select(0, dst)


def _weighted_sum_naive(structure: GraphStructure, feat_NHD: Tensor, weight_EH: Tensor) -> Tensor:
    message_EHD = weight_EH[:, :, None] * feat_NHD.index_select(0, structure.indices)
    return torch.zeros_like(feat_NHD).index_add(0, structure.destinations, message_EHD)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, structure: GraphStructure, logit_EH: Tensor) -> Tensor:
        limits, dst = torch.finfo(logit_EH.dtype), structure.destinations
        largest_NH = segment_max(logit_EH, structure.indptr).clamp_(min=limits.min)
        weight_EH = torch.sub(logit_EH, largest_NH.index_select(0, dst)).exp_()
        total_NH = segment_sum(weight_EH, structure.indptr).clamp_(min=limits.tiny)
        alpha_EH = weight_EH.div_(total_NH.index_select(0, dst))
        keep(ctx, (structure, logit_EH), alpha_EH)
        return alpha_EH

    @staticmethod
    @backward_pass(_softmax_naive)
    def backward(ctx: Any, grad_EH: Tensor) -> tuple[Tensor | None, ...]:
        (structure, _), (alpha_EH,) = kept(ctx)
        x_EH = grad_EH * alpha_EH
        mean_NH = segment_sum(x_EH, structure.indptr)
        return None, x_EH.addcmul_(alpha_EH, mean_NH.index_select(0, structure.destinations), value=-1)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, structure: GraphStructure, feat_NHD: Tensor, weight_EH: Tensor) -> Tensor:
        keep(ctx, (structure, feat_NHD, weight_EH))
        heads = zip(feat_NHD.unbind(1), weight_EH.unbind(1), strict=True)
        edges = structure.indices, structure.indptr
        return torch.stack([weighted_rows(f.contiguous(), *edges, w.contiguous()) for f, w in heads], 1)

    @staticmethod
    @backward_pass(_weighted_sum_naive)
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_NHD, weight_EH), _ = kept(ctx)
        d_feat = d_weight = None
        heads = [g.contiguous() for g in grad_NHD.unbind(1)]
        if ctx.needs_input_grad[1]:
            by_source = zip(heads, weight_EH[structure.out_edges].unbind(1), strict=True)
            edges = structure.out_indices, structure.out_indptr
            d_feat = torch.stack([weighted_rows(g, *edges, w.contiguous()) for g, w in by_source], 1)
        if ctx.needs_input_grad[2]:
            pairs = zip(heads, feat_NHD.unbind(1), strict=True)
            edges = structure.indices, structure.indptr
            d_weight = torch.stack([edge_dots(g, f.contiguous(), *edges) for g, f in pairs], 1)
        return None, d_feat, d_weight
