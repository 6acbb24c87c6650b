"""Edge by edge: the reference of tests and benchmarks, in any float type; and the layers made of any operator."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import register_backend


@register_backend("graph_attention", "naive")
def graph_attention_naive(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    score_src_NH: Float[Tensor, "nodes heads"],
    score_dst_NH: Float[Tensor, "nodes heads"],
    negative_slope: float,
) -> Float[Tensor, "nodes heads dim"]:
    """See `relgrounding.ops.graph_attention`; makes an (edges, heads, dim) tensor."""
    src, dst = structure.indices, structure.destinations
    logit_EH = torch.nn.functional.leaky_relu(score_src_NH[src] + score_dst_NH[dst], negative_slope)
    with torch.no_grad():  # the largest logit cancels out of the softmax, and out of its gradient
        largest_NH = torch.full_like(score_dst_NH, -torch.inf)
        largest_NH = largest_NH.scatter_reduce(0, dst[:, None].expand_as(logit_EH), logit_EH, "amax")
    weight_EH = torch.exp(logit_EH - largest_NH[dst])
    total_NH = torch.zeros_like(score_dst_NH).index_add(0, dst, weight_EH)
    alpha_EH = weight_EH / total_NH[dst]
    return torch.zeros_like(feat_NHD).index_add(0, dst, alpha_EH[:, :, None] * feat_NHD[src])


@register_backend("attention_layer", "naive")
def attention_layer_naive(
    structure: GraphStructure,
    x: Float[Tensor, "nodes in_dim"],
    weight: Float[Tensor, "out_dim in_dim"],
    attention: Float[Tensor, "2 heads dim"],
    bias: Float[Tensor, " out_dim"],
    negative_slope: float,
) -> Float[Tensor, "nodes out_dim"]:
    """See `relgrounding.ops.graph_attention.attention_layer`."""
    return attention_layer_by(graph_attention_naive, structure, x, weight, attention, bias, negative_slope)


def attention_layer_by(
    graph_attention: Callable[..., Tensor],
    structure: GraphStructure,
    x: Tensor,
    weight: Tensor,
    attention: Tensor,
    bias: Tensor,
    negative_slope: float,
) -> Tensor:
    """The layer step by step, with this `graph_attention`."""
    feat = torch.nn.functional.linear(x, weight).unflatten(1, attention.shape[1:])
    score_src, score_dst = torch.einsum("nhd,shd->snh", feat, attention)
    return graph_attention(structure, feat, score_src, score_dst, negative_slope).flatten(1) + bias
