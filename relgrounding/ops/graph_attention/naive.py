"""Edge by edge: the reference of tests and benchmarks, in any float type; and the layer made of any operator."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._edges import edge_softmax, take_rows, weighted_sum
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
    return attend_by_edge(structure, feat_NHD, score_src_NH, score_dst_NH, negative_slope)[0]


def attend_by_edge(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    score_src_NH: Float[Tensor, "nodes heads"],
    score_dst_NH: Float[Tensor, "nodes heads"],
    negative_slope: float,
    edge_bias_EH: Float[Tensor, "edges heads"] | None = None,
    dropout: float = 0.0,
    naive: bool = True,
) -> tuple[Float[Tensor, "nodes heads dim"], Float[Tensor, "edges heads"]]:
    """`graph_attention` and its weights, with a bias per logit and dropout of the weights; see `ops._edges`."""
    source_EH = take_rows(score_src_NH, structure.indices, naive)
    destination_EH = take_rows(score_dst_NH, structure.destinations, naive)
    logit_EH = torch.nn.functional.leaky_relu(source_EH + destination_EH, negative_slope)
    alpha_EH = edge_softmax(structure, logit_EH if edge_bias_EH is None else logit_EH + edge_bias_EH, naive)
    kept_EH = torch.nn.functional.dropout(alpha_EH, dropout) if dropout else alpha_EH
    return weighted_sum(structure, feat_NHD, kept_EH, naive), alpha_EH


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
    out = graph_attention(structure, *features_and_scores(x, weight, attention), negative_slope)
    return (out.flatten(1) + bias).to(x.dtype)


def features_and_scores(x: Tensor, weight: Tensor, attention: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The features (N, H, D) of the layer and their scores (N, H) as sources and as destinations."""
    feat = torch.nn.functional.linear(x, weight).unflatten(1, attention.shape[1:])
    score_src, score_dst = torch.einsum("nhd,shd->snh", feat, attention)
    return feat, score_src, score_dst
