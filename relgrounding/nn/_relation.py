"""Relation modules: messages between proposals."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops.gated_sum import gated_layer
from relgrounding.ops.graph_attention import attention_layer


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
        """Return (N, out_dim) for the nodes x (N, in_dim) of the graph."""
        if structure is None:
            return _without_graph(self, x)
        weights = self.linear.weight, self.attention, self.bias
        return attention_layer(structure, x, *weights, self.negative_slope, self.backend)

    def silent(self, x: Float[Tensor, "nodes in_dim"]) -> Float[Tensor, "nodes out_dim"]:
        """Return what each node gets without its neighbours, as if its only in-edge came from itself: W x + b."""
        return self.linear(x) + self.bias


class _Gated(nn.Module):
    """Gated sums of one way, over in-edges, or of two, and the node itself with its bias and ReLU or without."""

    ways: int
    itself: bool

    def __init__(
        self, in_dim: int, out_dim: int, num_types: int, backend: str = "auto", gate_init: float = -2.0
    ) -> None:
        super().__init__()
        ways, itself = self.ways, self.itself
        self.out_dim, self.backend, self.gate_init = out_dim, backend, gate_init
        self._rows = [out_dim] * (ways + itself) + [1] * ways
        # One below the other: one product with x.
        self.weight = nn.Parameter(torch.empty(sum(self._rows), in_dim))
        self.bias = nn.Parameter(torch.empty(out_dim)) if itself else None
        self.gate_bias = nn.Parameter(torch.empty(ways, num_types))
        self.type_bias = nn.Parameter(torch.empty(ways, num_types, out_dim))
        self.reset_parameters()

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Views of the weight: a map (out_dim, in_dim) a way, that of the node itself, a gate (1, in_dim) a way."""
        return self.weight.split(self._rows)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for part in self.parts:
            nn.init.xavier_uniform_(part)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        nn.init.constant_(self.gate_bias, self.gate_init)
        nn.init.normal_(self.type_bias, std=1.0)

    def forward(
        self, structure: "GraphStructure | dgl.DGLGraph | None", x: Float[Tensor, "nodes in_dim"]
    ) -> Float[Tensor, "nodes out_dim"]:
        """Return (N, out_dim) for the nodes x (N, in_dim) of the graph."""
        if structure is None:
            return _without_graph(self, x)
        weights = self.weight, self.bias, self.gate_bias, self.type_bias
        return gated_layer(structure, x, *weights, self.backend)

    def silent(self, x: Float[Tensor, "nodes in_dim"]) -> Float[Tensor, "nodes out_dim"]:
        """Return what each node gets without its neighbours, as in a graph without edges."""
        if self.bias is None:
            return x.new_zeros(len(x), self.out_dim)
        return torch.relu(nn.functional.linear(x, self.parts[self.ways], self.bias))


def _without_graph(layer: GraphAttention | _Gated, x: Tensor) -> Tensor:
    name = type(layer).__name__
    warnings.warn(
        f"{name}: None in place of a graph is deprecated; call {name}.silent(x)", DeprecationWarning, stacklevel=3
    )
    return layer.silent(x)


class GatedSum(_Gated):
    """Gated sum over in-edges with its linear map: one direction of `EdgeGatedGCN`, and nothing else of it.

        out_i = sum over edges j -> i of  sigmoid(w . x_j + u[type]) (W x_j + b[type])

    A node without in-edges gets zeros. W and w start Xavier-uniform, b from N(0, 1), u at `gate_init`.

    Args:
        in_dim: width of x.
        out_dim: width of the output.
        num_types: number of edge types.
        backend: see `relgrounding.ops.gated_sum`.
        gate_init: first value of the gate biases.
    """

    ways, itself = 1, False


class EdgeGatedGCN(_Gated):
    """Gated sums over in-edges and over out-edges, and the node itself.

        in_i  = sum over edges j -> i of  sigmoid(w_in  . x_j + u_in[type])  (W_in  x_j + b_in[type])
        out_i = sum over edges i -> j of  sigmoid(w_out . x_j + u_out[type]) (W_out x_j + b_out[type])
        x_i'  = ReLU(in_i + out_i + W_self x_i + b)

    A node without edges keeps the self term. Matrices and gate vectors start Xavier-uniform, type biases from N(0, 1),
    b at zero, and the gate biases u at `gate_init`: nearly closed, because the sums run over all neighbours, some fifty
    in a full image, and would drown the node itself. Among few neighbours 0 learns faster.

    Args:
        in_dim: width of x.
        out_dim: width of the output.
        num_types: number of edge types.
        backend: see `relgrounding.ops.gated_sum`.
        gate_init: first value of the gate biases.
    """

    ways, itself = 2, True
