"""DGL's kernels: edge softmax, then a sparse product with one weight per edge and head."""

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import recorded
from relgrounding.ops._dgl import dgl_reason
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.graph_attention.naive import graph_attention_naive


@register_backend(
    "graph_attention",
    "dgl",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    reason=dgl_reason,
)
@recorded(graph_attention_naive)
def graph_attention_dgl(
    structure: GraphStructure,
    feat_NHD: Float[Tensor, "nodes heads dim"],
    score_src_NH: Float[Tensor, "nodes heads"],
    score_dst_NH: Float[Tensor, "nodes heads"],
    negative_slope: float,
) -> Float[Tensor, "nodes heads dim"]:
    """See `relgrounding.ops.graph_attention`; the largest tensors are (edges, heads)."""
    if structure.num_edges == 0:  # DGL refuses empty tensors
        return graph_attention_naive(structure, feat_NHD, score_src_NH, score_dst_NH, negative_slope)
    graph = structure.homogeneous()
    logit_EH = dgl.ops.u_add_v(graph, score_src_NH.unsqueeze(-1), score_dst_NH.unsqueeze(-1))
    logit_EH = torch.nn.functional.leaky_relu(logit_EH, negative_slope)
    taken_out = logit_EH == -torch.inf
    if taken_out.any():  # DGL's softmax makes NaN where a node has no other logits
        alpha_EH = dgl.ops.edge_softmax(graph, logit_EH.clamp_min(torch.finfo(logit_EH.dtype).min))
        return dgl.ops.u_mul_e_sum(graph, feat_NHD, alpha_EH.masked_fill(taken_out, 0))
    alpha_EH = dgl.ops.edge_softmax(graph, logit_EH)
    return dgl.ops.u_mul_e_sum(graph, feat_NHD, alpha_EH)
