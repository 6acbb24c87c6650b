"""Relation modules: messages between proposals."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops._checks import check_features
from relgrounding.ops._fused import linear
from relgrounding.ops._registry import check_backend
from relgrounding.ops.gated_sum import gated_layer, gated_layer_by_edge
from relgrounding.ops.graph_attention import attention_layer, attention_layer_by_edge


class _Relation(nn.Module):
    """What the layers offer around their messages: dropout, a residual connection, weights per edge."""

    operator: str

    def __init__(
        self, in_dim: int, out_dim: int, backend: str, residual: bool, feat_drop: float, attn_drop: float
    ) -> None:
        super().__init__()
        check_backend(backend, self.operator)
        for name, share in (("feat_drop", feat_drop), ("attn_drop", attn_drop)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} {share} is not a share from 0 to 1")
        self.in_dim, self.out_dim, self.backend = in_dim, out_dim, backend
        self.feat_drop, self.attn_drop = feat_drop, attn_drop
        self.residual: nn.Module | None = None
        if residual:
            self.residual = nn.Identity() if in_dim == out_dim else nn.Linear(in_dim, out_dim, bias=False)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        if isinstance(self.residual, nn.Linear):
            nn.init.xavier_uniform_(self.residual.weight)

    def forward(
        self,
        structure: "GraphStructure | dgl.DGLGraph",
        x: Float[Tensor, "nodes in_dim"],
        edge_bias: Tensor | None = None,
        return_attention: bool = False,
    ) -> Float[Tensor, "nodes out_dim"] | tuple[Float[Tensor, "nodes out_dim"], Float[Tensor, "edges columns"]]:
        """Return (N, out_dim), in the type of x also under autocast, and with `return_attention` the weights per edge.

        Weights and biases per edge are in the forward order of the structure, by destination, then source, then type:
        that of `GraphStructure.edge_index`, and for a DGLGraph that of `graphs.from_dgl(graph).edge_index`. They are
        differentiable on every backend. With either, or with `attn_drop` in training, every backend but "naive" runs
        the same code, without a tensor of (edges x features) but slower than the fastest backends; under
        `torch.compile` it is that of "naive".

        Args:
            structure: graph of N nodes and E edges.
            x: (N, in_dim).
            edge_bias: (E,), or (E, columns) with one column per weight of an edge, added to the logits; minus infinity
                takes an edge out.
            return_attention: also return the weights (E, columns), before `attn_drop`.

        Raises:
            TypeError: something else in place of the graph or of x.
            ValueError: shapes or types that do not fit each other or the layer, or a backend that cannot run here.
        """
        if structure is None and (return_attention or edge_bias is not None):
            raise TypeError("there are no edges without a graph; give one, or leave edge_bias and return_attention out")
        if structure is None or not isinstance(x, Tensor):
            return self._without_graph(structure, x)
        check_features(self, "x", x, "nodes", self.in_dim, self._dtype)
        if edge_bias is None and not return_attention and self._plain:
            return self._messages(structure, x)
        x = nn.functional.dropout(x, self.feat_drop, self.training)
        dropout = self.attn_drop if self.training else 0.0
        if edge_bias is None and not return_attention and not dropout:
            return self._with_residual(self._messages(structure, x), x)
        out, weights = self._messages_by_edge(structure, x, edge_bias, dropout)
        out = self._with_residual(out, x)
        return (out, weights) if return_attention else out

    def silent(self, x: Float[Tensor, "nodes in_dim"]) -> Float[Tensor, "nodes out_dim"]:
        """Return what each node gets without messages from other nodes.

        Graph attention: W x + b, as with a self-loop alone, whose weight is 1. Gated sums: the share of the node
        itself; zeros if there is none.

        Raises:
            TypeError: x is not a tensor.
            ValueError: another shape or type.
        """
        check_features(self, "x", x, "nodes", self.in_dim, self._dtype)
        if self._plain:
            return self._itself(x)
        x = nn.functional.dropout(x, self.feat_drop, self.training)
        return self._with_residual(self._itself(x), x)

    @property
    def _plain(self) -> bool:
        return self.residual is None and not self.feat_drop and not self.attn_drop

    @property
    def _dtype(self) -> torch.dtype:
        raise NotImplementedError

    def _with_residual(self, out: Tensor, x: Tensor) -> Tensor:
        return out if self.residual is None else out + self.residual(x).to(x.dtype)

    def _messages(self, structure: "GraphStructure | dgl.DGLGraph", x: Tensor) -> Tensor:
        raise NotImplementedError

    def _messages_by_edge(
        self, structure: "GraphStructure | dgl.DGLGraph", x: Tensor, edge_bias: Tensor | None, dropout: float
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _itself(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _without_graph(self, structure: object, x: object) -> Tensor:
        name = type(self).__name__
        if isinstance(x, GraphStructure | dgl.DGLGraph):
            raise TypeError(f"{name}: the graph is the first argument; call layer(graph, x)")
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: x is a {type(x).__name__}; give a float tensor of shape (nodes, {self.in_dim})")
        message = f"{name}: None in place of a graph is deprecated; call {name}.silent(x)"
        warnings.warn(message, DeprecationWarning, stacklevel=5)
        return self.silent(x)

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        options = {"residual": self.residual is not None, "feat_drop": self.feat_drop, "attn_drop": self.attn_drop}
        settings = self._settings() | {name: value for name, value in options.items() if value}
        return ", ".join(f"{name}={value!r}" for name, value in (settings | {"backend": self.backend}).items())

    def _settings(self) -> dict[str, object]:
        return {"in_dim": self.in_dim, "out_dim": self.out_dim}


class GraphAttention(_Relation):
    """Multi-head attention over in-neighbours.

        f_j = W x_j,   alpha_ij = softmax_j leaky_relu(a_src . f_j + a_dst . f_i),   out_i = sum_j alpha_ij f_j + b

    Each head has its own W, a_src and a_dst; the heads are concatenated. No activation is applied. A node without
    in-edges gets b. W, a_src and a_dst start Xavier-uniform, the last two as maps from a head to one number; b at zero.

    The weights per edge that `forward` returns are alpha (E, heads); its `edge_bias` is added after the leaky ReLU.

    Args:
        in_dim: width of x.
        out_dim: width of the output, a multiple of `num_heads`.
        num_heads: number of heads.
        negative_slope: of the leaky ReLU.
        backend: see `relgrounding.ops.graph_attention`.
        residual: add x to the output, through a linear map without bias where the widths differ.
        feat_drop: share of x set to zero in training.
        attn_drop: share of the weights alpha set to zero in training.

    Raises:
        ValueError: heads that do not divide the width, a share outside 0 to 1, or an unknown backend.

    >>> from relgrounding import graphs
    >>> moments = graphs.temporal_structure([[0, 4], [2, 6], [5, 9]], iou_threshold=0.1)
    >>> out, alpha = GraphAttention(8, 6, num_heads=2)(moments, torch.randn(3, 8), return_attention=True)
    >>> out.shape, alpha.shape == (moments.num_edges, 2)
    (torch.Size([3, 6]), True)
    """

    operator = "graph_attention"

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_heads: int,
        negative_slope: float = 0.2,
        backend: str = "auto",
        *,
        residual: bool = False,
        feat_drop: float = 0.0,
        attn_drop: float = 0.0,
    ) -> None:
        super().__init__(in_dim, out_dim, backend, residual, feat_drop, attn_drop)
        if num_heads < 1 or out_dim % num_heads:
            raise ValueError(f"out_dim {out_dim} is not a multiple of num_heads {num_heads}; choose one that is")
        self.num_heads, self.negative_slope = num_heads, negative_slope
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
        super().reset_parameters()

    def _messages(self, structure: "GraphStructure | dgl.DGLGraph", x: Tensor) -> Tensor:
        weights = self.linear.weight, self.attention, self.bias
        return attention_layer(structure, x, *weights, self.negative_slope, self.backend)

    def _messages_by_edge(
        self, structure: "GraphStructure | dgl.DGLGraph", x: Tensor, edge_bias: Tensor | None, dropout: float
    ) -> tuple[Tensor, Tensor]:
        weights = self.linear.weight, self.attention, self.bias
        return attention_layer_by_edge(structure, x, *weights, self.negative_slope, self.backend, edge_bias, dropout)

    def _itself(self, x: Tensor) -> Tensor:
        # The only in-edge comes from the node itself.
        return linear(x, self.linear.weight, self.bias).to(x.dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.attention.dtype

    def _settings(self) -> dict[str, object]:
        return super()._settings() | {"num_heads": self.num_heads, "negative_slope": self.negative_slope}


class _Gated(_Relation):
    """Gated sums along one direction or both; with both the node itself, a bias and a ReLU."""

    operator = "gated_sum"
    ways: int
    itself: bool

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_types: int,
        backend: str = "auto",
        gate_init: float = -2.0,
        *,
        residual: bool = False,
        feat_drop: float = 0.0,
        attn_drop: float = 0.0,
    ) -> None:
        super().__init__(in_dim, out_dim, backend, residual, feat_drop, attn_drop)
        ways, itself = self.ways, self.itself
        self.gate_init = gate_init
        self._rows = [out_dim] * (ways + itself) + [1] * ways
        # One below the other: one product with x.
        self.weight = nn.Parameter(torch.empty(sum(self._rows), in_dim))
        self.bias = nn.Parameter(torch.empty(out_dim)) if itself else None
        self.gate_bias = nn.Parameter(torch.empty(ways, num_types))
        self.type_bias = nn.Parameter(torch.empty(ways, num_types, out_dim))
        self.reset_parameters()

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Views of the weight: a map (out_dim, in_dim) per direction, that of the node itself, (1, in_dim) gates."""
        return self.weight.split(self._rows)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for part in self.parts:
            nn.init.xavier_uniform_(part)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        nn.init.constant_(self.gate_bias, self.gate_init)
        nn.init.normal_(self.type_bias, std=1.0)
        super().reset_parameters()

    def _messages(self, structure: "GraphStructure | dgl.DGLGraph", x: Tensor) -> Tensor:
        weights = self.weight, self.bias, self.gate_bias, self.type_bias
        return gated_layer(structure, x, *weights, self.backend)

    def _messages_by_edge(
        self, structure: "GraphStructure | dgl.DGLGraph", x: Tensor, edge_bias: Tensor | None, dropout: float
    ) -> tuple[Tensor, Tensor]:
        weights = self.weight, self.bias, self.gate_bias, self.type_bias
        return gated_layer_by_edge(structure, x, *weights, self.backend, edge_bias, dropout)

    def _itself(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x.new_zeros(len(x), self.out_dim)
        rows = slice(self.ways * self.out_dim, -self.ways)
        return torch.relu_(linear(x, self.weight, self.bias, rows)).to(x.dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.weight.dtype

    def _settings(self) -> dict[str, object]:
        return super()._settings() | {"num_types": self.gate_bias.shape[1]}


class GatedSum(_Gated):
    """Gated sum over in-edges with its linear map: one direction of `EdgeGatedGCN` alone.

        out_i = sum over edges j -> i of  sigmoid(w . x_j + u[type]) (W x_j + b[type])

    A node without in-edges gets zeros. W and w start Xavier-uniform, b from N(0, 1), u at `gate_init`. The weights per
    edge that `forward` returns are the gates (E, 1).

    Args:
        in_dim: width of x.
        out_dim: width of the output.
        num_types: number of edge types.
        backend: see `relgrounding.ops.gated_sum`.
        gate_init: first value of the gate biases.
        residual: as in `EdgeGatedGCN`, and the next two.
        feat_drop: share of x set to zero in training.
        attn_drop: share of the gates set to zero in training.

    Raises:
        ValueError: a share outside 0 to 1, or an unknown backend.
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

    The weights per edge that `forward` returns are the gates (E, 2): of the message along the edge, and of that against
    it. They do not sum to 1.

    Args:
        in_dim: width of x.
        out_dim: width of the output.
        num_types: number of edge types.
        backend: see `relgrounding.ops.gated_sum`.
        gate_init: first value of the gate biases.
        residual: add x to x', after the ReLU, through a linear map without bias where the widths differ.
        feat_drop: share of x set to zero in training.
        attn_drop: share of the gates set to zero in training: of the messages, as each gate has one.

    Raises:
        ValueError: a share outside 0 to 1, or an unknown backend.
    """

    ways, itself = 2, True
