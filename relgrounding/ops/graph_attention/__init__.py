"""Attention of each node over its in-neighbours."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops._dispatch import as_structure, launch, whole_layer
from relgrounding.ops._edges import edge_inputs, per_edge
from relgrounding.ops._registry import load_backends
from relgrounding.ops.graph_attention.naive import attend_by_edge, attention_layer_by, features_and_scores

load_backends(__name__, __path__)


def graph_attention(
    graph: "dgl.DGLGraph | GraphStructure",
    feat: Float[Tensor, "nodes heads dim"],
    score_src: Float[Tensor, "nodes heads"],
    score_dst: Float[Tensor, "nodes heads"],
    negative_slope: float = 0.2,
    backend: str = "auto",
) -> Float[Tensor, "nodes heads dim"]:
    """Mean of the in-neighbours' features, weighted by additive attention.

        alpha_ij = softmax over the in-edges j -> i of  leaky_relu(score_src_j + score_dst_i)
        out_i    = sum over the in-edges of  alpha_ij feat_j

    Edge types are ignored; each of several parallel edges counts. A node without in-edges gets zeros. A score of
    minus infinity takes the node's edges out, those that it is the source or the destination of.

    Second derivatives (`create_graph=True`) are those of "naive", in its time and memory; the two Triton backends
    refuse them.

    Args:
        graph: of N nodes.
        feat: (N, H, D).
        score_src: (N, H), the share of the edge's source in the logit.
        score_dst: (N, H), the share of its destination.
        negative_slope: of the leaky ReLU.
        backend: "auto", "naive" (edge by edge, any float type), "dgl" (DGL's kernels), "cpp" (compiled loops, on the
            CPU), "dense" (padded matrices), "csr" (sums over the sorted edges), "triton" (fused, on a
            GPU) or "triton_dense" (the same on tensor cores, for items of up to 256 nodes).

    Returns:
        (N, H, D).

    Raises:
        ValueError: an unknown backend, one that cannot run on these tensors, or shapes that do not fit the graph.

    Source: Veličković et al., Graph Attention Networks, ICLR 2018, equations 3 and 4.
    """
    structure = as_structure(graph)
    nodes, heads = structure.num_nodes, feat.shape[1]
    if feat.shape[0] != nodes or score_src.shape != (nodes, heads) or score_dst.shape != (nodes, heads):
        raise ValueError(
            f"the graph has {nodes} nodes; feat {tuple(feat.shape)}, score_src {tuple(score_src.shape)} and score_dst "
            f"{tuple(score_dst.shape)} must be (nodes, heads, dim), (nodes, heads) and (nodes, heads)"
        )
    inputs = feat, score_src, score_dst
    return launch("graph_attention", inputs, backend, graph=structure, negative_slope=float(negative_slope))


def attention_layer(
    graph: "dgl.DGLGraph | GraphStructure",
    x: Float[Tensor, "nodes in_dim"],
    weight: Float[Tensor, "out_dim in_dim"],
    attention: Float[Tensor, "2 heads dim"],
    bias: Float[Tensor, " out_dim"],
    negative_slope: float,
    backend: str,
) -> Float[Tensor, "nodes out_dim"]:
    """`graph_attention` of ``weight x`` with the scores ``feat . attention``, plus a bias: `nn.GraphAttention`.

    Fused where the backend can, which saves passes over features and their gradients. The result has the type of x.
    """
    structure = as_structure(graph)
    if layer := whole_layer("attention_layer", "graph_attention", backend, structure, x, weight, attention, bias):
        return layer(structure, x, weight, attention, bias, negative_slope)
    attend = functools.partial(graph_attention, backend=backend)
    return attention_layer_by(attend, structure, x, weight, attention, bias, negative_slope)


def attention_layer_by_edge(
    graph: "dgl.DGLGraph | GraphStructure",
    x: Float[Tensor, "nodes in_dim"],
    weight: Float[Tensor, "out_dim in_dim"],
    attention: Float[Tensor, "2 heads dim"],
    bias: Float[Tensor, " out_dim"],
    negative_slope: float,
    backend: str,
    edge_bias: Tensor | None,
    dropout: float,
) -> tuple[Float[Tensor, "nodes out_dim"], Float[Tensor, "edges heads"]]:
    """`attention_layer` with a bias per logit and dropout of the weights, and the weights before it; see `ops._edges`.

    Args:
        graph: of E edges.
        x: see `attention_layer`, as the next five.
        weight: maps x to the features.
        attention: maps features to scores.
        bias: of the result.
        negative_slope: of the leaky ReLU.
        backend: "naive", or any other one: they all compute the same way.
        edge_bias: (E,) or (E, H), in the forward order of the edges.
        dropout: share of the weights set to zero.
    """
    structure = as_structure(graph)
    edge_bias = per_edge("edge_bias", edge_bias, structure, attention.shape[1])
    inputs = features_and_scores(x, weight, attention)
    naive, (feat, src, dst), edge_bias = edge_inputs("graph_attention", structure, inputs, edge_bias, backend)
    with torch.autocast(x.device.type, enabled=False):
        out, alpha = attend_by_edge(structure, feat, src, dst, negative_slope, edge_bias, dropout, naive)
    return (out.flatten(1) + bias).to(x.dtype), alpha.to(x.dtype)


__all__ = ["attention_layer", "attention_layer_by_edge", "graph_attention"]
