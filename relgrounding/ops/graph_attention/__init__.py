"""Attention of each node over its in-neighbours."""

import functools

from jaxtyping import Float
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops._dispatch import as_structure, launch, whole_layer
from relgrounding.ops._registry import load_backends
from relgrounding.ops.graph_attention.naive import attention_layer_by

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

    The edge type plays no part; parallel edges count as often as they are there. A node without in-edges gets zeros.

    Gradients of gradients (`create_graph=True`) are those of "naive", in its time and memory; "triton" refuses them.

    Args:
        graph: of N nodes.
        feat: (N, H, D).
        score_src: (N, H), the part of the logit that comes from the edge's source.
        score_dst: (N, H), the part that comes from its destination.
        negative_slope: of the leaky ReLU.
        backend: "auto", "naive" (edge by edge, any float type), "dgl" (DGL's kernels), "cpp" (compiled loops, on the
            CPU), "dense" (padded matrices), "csr" (sums over the sorted edges) or "triton" (fused, on a GPU).

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
    """`graph_attention` of ``weight x``, with the scores ``feat . attention``, and a bias: `nn.GraphAttention`.

    All in one go where the backend can, which saves passes over features and over their gradients.
    """
    structure = as_structure(graph)
    if layer := whole_layer("attention_layer", "graph_attention", backend, structure, x, weight, attention, bias):
        return layer(structure, x, weight, attention, bias, negative_slope)
    attend = functools.partial(graph_attention, backend=backend)
    return attention_layer_by(attend, structure, x, weight, attention, bias, negative_slope)


__all__ = ["attention_layer", "graph_attention"]
