"""Relation modules: messages between proposals."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding import ops
from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure


class GraphAttention(nn.Module):
    """Multi-head attention over in-neighbours.

        f_j = W x_j,   alpha_ij = softmax_j leaky_relu(a_src . f_j + a_dst . f_i),   out_i = sum_j alpha_ij f_j + b

    with W, a_src and a_dst of each head's own; the heads are concatenated. No activation is applied. A node without
    in-edges gets b. W starts Xavier-uniform, a_src and a_dst too, as maps from a head to one number; b at zero.

    Args:
        in_dim: width of x.
        out_dim: width of the output, a multiple of `num_heads`.
        num_heads: number of heads.
        negative_slope: of the leaky ReLU.
        backend: see `relgrounding.ops.graph_attention`.
    """

    def __init__(
        self, in_dim: int, out_dim: int, num_heads: int, negative_slope: float = 0.2, backend: str = "auto"
    ) -> None:
        super().__init__()
        if num_heads < 1 or out_dim % num_heads:
            raise ValueError(f"out_dim {out_dim} is no multiple of num_heads {num_heads}; choose one that is")
        self.num_heads, self.negative_slope, self.backend = num_heads, negative_slope, backend
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.attention = nn.Parameter(torch.empty(2, num_heads, out_dim // num_heads))
        self.bias = nn.Parameter(torch.empty(out_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        nn.init.xavier_uniform_(self.linear.weight)
        bound = (6 / (self.attention.shape[2] + 1)) ** 0.5
        nn.init.uniform_(self.attention, -bound, bound)
        nn.init.zeros_(self.bias)

    def forward(
        self, structure: "GraphStructure | dgl.DGLGraph | None", x: Float[Tensor, "nodes in_dim"]
    ) -> Float[Tensor, "nodes out_dim"]:
        """Return (N, out_dim) for the nodes x (N, in_dim) of the graph; None: each has an in-edge from itself alone."""
        if structure is None:
            return self.linear(x) + self.bias
        feat = self.linear(x).unflatten(1, (self.num_heads, -1))
        score_src, score_dst = torch.einsum("nhd,shd->snh", feat, self.attention)
        messages = ops.graph_attention(structure, feat, score_src, score_dst, self.negative_slope, self.backend)
        return messages.flatten(1) + self.bias


class EdgeGatedGCN(nn.Module):
    """Gated sums over in-edges and over out-edges, and the node itself.

        in_i  = sum over edges j -> i of  sigmoid(w_in  . x_j + u_in[type])  (W_in  x_j + b_in[type])
        out_i = sum over edges i -> j of  sigmoid(w_out . x_j + u_out[type]) (W_out x_j + b_out[type])
        x_i'  = ReLU(in_i + out_i + W_self x_i + b)

    A node without edges keeps the self term. Matrices and gate vectors start Xavier-uniform, type biases from
    N(0, 0.3^2), b at zero, and the gate biases u at `gate_init`: nearly closed, because the sums run over all
    neighbours, some fifty in a full image, and would drown the node itself.

    Args:
        in_dim: width of x.
        out_dim: width of the output.
        num_types: number of edge types.
        backend: see `relgrounding.ops.gated_sum`.
        gate_init: first value of the gate biases.
    """

    def __init__(
        self, in_dim: int, out_dim: int, num_types: int, backend: str = "auto", gate_init: float = -2.0
    ) -> None:
        super().__init__()
        self.in_edges = _GatedMessages(in_dim, out_dim, num_types, backend, gate_init)
        self.out_edges = _GatedMessages(in_dim, out_dim, num_types, backend, gate_init)
        self.self_loop = nn.Linear(in_dim, out_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        self.in_edges.reset_parameters()
        self.out_edges.reset_parameters()
        nn.init.xavier_uniform_(self.self_loop.weight)
        nn.init.zeros_(self.self_loop.bias)

    def forward(
        self, structure: "GraphStructure | dgl.DGLGraph | None", x: Float[Tensor, "nodes in_dim"]
    ) -> Float[Tensor, "nodes out_dim"]:
        """Return (N, out_dim) for the nodes x (N, in_dim) of the graph; None: there are no edges."""
        if structure is None:
            return torch.relu(self.self_loop(x))
        structure = ops.as_structure(structure)
        return torch.relu(self.in_edges(structure, x) + self.out_edges(structure.reverse(), x) + self.self_loop(x))


class _GatedMessages(nn.Module):
    """One direction of `EdgeGatedGCN`: its weights and its gated sum."""

    def __init__(self, in_dim: int, out_dim: int, num_types: int, backend: str, gate_init: float) -> None:
        super().__init__()
        self.backend, self.gate_init = backend, gate_init
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.gate = nn.Linear(in_dim, 1, bias=False)
        self.gate_bias = nn.Parameter(torch.empty(num_types))
        self.type_bias = nn.Parameter(torch.empty(num_types, out_dim))

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.xavier_uniform_(self.gate.weight)
        nn.init.constant_(self.gate_bias, self.gate_init)
        nn.init.normal_(self.type_bias, std=0.3)

    def forward(self, structure: GraphStructure, x: Tensor) -> Tensor:
        gate = self.gate(x).squeeze(1)
        return ops.gated_sum(structure, self.linear(x), gate, self.gate_bias, self.type_bias, self.backend)
