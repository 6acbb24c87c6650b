"""Comparison of a proposal with its neighbours, as the sentence asks for it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.nn._precision import Linear, precise_linear, shortened
from relgrounding.ops import as_structure, edge_dot, typed_comparison
from relgrounding.ops._checks import check_features
from relgrounding.ops._registry import check_backend
from relgrounding.ops.typed_comparison import comparison_gates


class RelationalComparison(nn.Module):
    """Log-odds that a proposal is meant, from its in-neighbours; the sentence opens the types of edges.

        m_i = typed_comparison(W x + b_W, a . x, u + Q q_i, b, edge_bias)_i + V x_i + b_V
        r_i = w . (ReLU(W_m m_i + b_m) * W_c c_i) + beta

    with `relgrounding.ops.typed_comparison`, c the context of a proposal (its attended words) and q its sentence. Both
    come as a *share*, see `share`. To be added to the logit of a score without relations: w and beta start at zero, so
    that at first it changes nothing. u starts at `gate_init`, Q at zero, b from N(0, 1), all else as `nn.Linear` does.

    Args:
        in_dim: width of x.
        language_dim: width of c.
        sentence_dim: width of q.
        num_types: number of edge types.
        dim: width of m; None: `in_dim`.
        backend: see `relgrounding.ops.typed_comparison`.
        gate_init: first logit of every gate, up to a . x: nearly closed at -2.

    Raises:
        ValueError: an unknown backend.

    >>> from relgrounding import graphs
    >>> boxes = graphs.spatial_structure([[0, 0, 4, 4], [5, 0, 9, 4], [0, 5, 4, 9]], (10, 10))
    >>> compare = RelationalComparison(8, 6, 4, num_types=11)
    >>> share = compare.share(torch.randn(3, 6), torch.randn(3, 4))
    >>> r, gates = compare(boxes, torch.randn(3, 8), share, return_gates=True)
    >>> r.tolist(), gates.shape == (boxes.num_edges,)
    ([0.0, 0.0, 0.0], True)
    """

    def __init__(
        self,
        in_dim: int,
        language_dim: int,
        sentence_dim: int,
        num_types: int,
        dim: int | None = None,
        backend: str = "auto",
        gate_init: float = -2.0,
    ) -> None:
        super().__init__()
        check_backend(backend, "typed_comparison")
        dim = in_dim if dim is None else dim
        self.in_dim, self.dim, self.num_types = in_dim, dim, num_types
        self.backend, self.gate_init = backend, gate_init
        self.message = Linear(in_dim, dim)
        self.gate = Linear(in_dim, 1, bias=False)
        self.itself = Linear(in_dim, dim)
        self.type_gate = Linear(sentence_dim, num_types)
        self.type_bias = nn.Parameter(torch.empty(num_types, dim))
        self.hidden = Linear(dim, dim)
        self.context = Linear(language_dim, dim, bias=False)
        self.score = Linear(dim, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for linear in (self.message, self.gate, self.itself, self.hidden, self.context):
            linear.reset_parameters()
        nn.init.zeros_(self.type_gate.weight)
        nn.init.constant_(self.type_gate.bias, self.gate_init)
        nn.init.normal_(self.type_bias, std=1.0)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def share(
        self, context: Float[Tensor, "... language_dim"], sentence: Float[Tensor, "... sentence_dim"]
    ) -> Float[Tensor, "... dim_and_types"]:
        """Return what language adds, [W_c c; u + Q q] (..., dim + num_types), for `forward`.

        It is affine in [c; q]: the share of a weighted mean is the same mean of the shares. One row for each word, or
        for each proposal, will do.

        Raises:
            TypeError: something else than tensors.
            ValueError: widths or types other than those of the layer.
        """
        dtype = self.type_bias.dtype
        check_features(self, "context", context, "...", self.context.in_features, dtype)
        check_features(self, "sentence", sentence, "...", self.type_gate.in_features, dtype)
        return torch.cat([self.context(context), self.type_gate(sentence)], -1)

    def forward(
        self,
        structure: "GraphStructure | dgl.DGLGraph",
        x: Float[Tensor, "nodes in_dim"],
        share: Float[Tensor, "nodes dim_and_types"],
        edge_bias: Float[Tensor, " edges"] | None = None,
        return_gates: bool = False,
    ) -> Float[Tensor, " nodes"] | tuple[Float[Tensor, " nodes"], Float[Tensor, " edges"]]:
        """Return r (N,), log-odds, in the type of x also under autocast, and with `return_gates` the gates g (E,).

        Args:
            structure: graph of N nodes and E edges of `num_types` types.
            x: (N, in_dim).
            share: (N, dim + num_types), see `share`.
            edge_bias: (E,) added to the logits of the gates, in the forward order of the edges; minus infinity takes an
                edge out.
            return_gates: also return the gates, from 0 to 1, in the same order.

        Raises:
            TypeError: something else in place of the graph, of x or of share.
            ValueError: shapes or types that do not fit each other or the layer, or a backend that cannot run here.
        """
        structure = as_structure(structure)
        if structure.num_types != self.num_types:
            raise ValueError(
                f"the graph has {structure.num_types} edge types, the layer was made for {self.num_types}; make it "
                f"with num_types={structure.num_types}"
            )
        self._check(x, share)
        if (len(x), len(share)) != (structure.num_nodes, structure.num_nodes):
            raise ValueError(f"the graph has {structure.num_nodes} nodes; x has {len(x)} rows, and share {len(share)}")
        dtype, x = x.dtype, shortened(x)
        context, type_gate = share.split([self.dim, self.num_types], -1)
        logits = self.gate(x).squeeze(-1), type_gate
        compared = typed_comparison(structure, self.message(x), *logits, self.type_bias, edge_bias, self.backend)
        r = self._score(compared + self.itself(x), context).to(dtype)
        if not return_gates:
            return r
        bias = None if edge_bias is None else edge_bias.to(dtype)
        return r, comparison_gates(structure, logits[0].to(dtype), type_gate.to(dtype), bias)

    def silent(
        self, x: Float[Tensor, "nodes in_dim"], share: Float[Tensor, "nodes dim_and_types"]
    ) -> Float[Tensor, " nodes"]:
        """Return r (N,) as without edges.

        Raises:
            TypeError: something else than tensors.
            ValueError: not one share for each row of x, or shapes or types other than those of the layer.
        """
        self._check(x, share)
        if len(share) != len(x):
            raise ValueError(f"there are {len(share)} shares for {len(x)} proposals; give one for each")
        return self._score(self.itself(x), share[..., : self.dim]).to(x.dtype)

    def _check(self, x: object, share: object) -> None:
        dtype = self.type_bias.dtype
        check_features(self, "x", x, "nodes", self.in_dim, dtype)
        check_features(self, "share", share, "nodes", self.dim + self.num_types, dtype)

    def _score(self, compared: Tensor, context: Tensor) -> Tensor:
        return precise_linear(self.score, torch.relu(self.hidden(compared)) * context).squeeze(-1)

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        return f"num_types={self.num_types}, backend={self.backend!r}"


class EdgeSimilarity(nn.Module):
    """A scaled cosine for each edge: how much its two ends are of one kind, to be the `edge_bias` of a comparison.

        k_i = P h_i / |P h_i|,   s_ij = scale k_i . k_j

    P, without a bias, starts orthogonal; the scale is learned.

    Args:
        in_dim: width of h.
        dim: width of k.
        scale: first value of the scale.
        backend: see `relgrounding.ops.edge_dot`.

    >>> from relgrounding import graphs
    >>> moments = graphs.temporal_structure([[0, 4], [2, 6]], iou_threshold=0.1, self_loops=False)
    >>> similar = EdgeSimilarity(3)
    >>> similar(moments, similar.keys(torch.ones(2, 3)))
    tensor([4., 4.], grad_fn=<MulBackward0>)
    """

    def __init__(self, in_dim: int, dim: int = 32, scale: float = 4.0, backend: str = "auto") -> None:
        super().__init__()
        check_backend(backend, "edge_dot")
        self.backend, self.first_scale = backend, scale
        self.linear = Linear(in_dim, dim, bias=False)
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        nn.init.orthogonal_(self.linear.weight)
        nn.init.constant_(self.scale, self.first_scale)

    def keys(self, h: Float[Tensor, "nodes in_dim"]) -> Float[Tensor, "nodes dim"]:
        """Return k (N, dim), of length 1; zeros where P h is zero.

        Raises:
            TypeError: h is not a tensor.
            ValueError: another width or type.
        """
        check_features(self, "h", h, "...", self.linear.in_features, self.linear.weight.dtype)
        mapped = self.linear(h)
        # A cosine does not depend on the size, and numbers near 1 have squares in every float type.
        size = mapped.detach().abs().amax(-1, keepdim=True).clamp_min(torch.finfo(mapped.dtype).tiny)
        return nn.functional.normalize(mapped / size, dim=-1, eps=1e-3)

    def forward(
        self, structure: "GraphStructure | dgl.DGLGraph", keys: Float[Tensor, "nodes dim"]
    ) -> Float[Tensor, " edges"]:
        """Return s (E,), in the forward order of the edges.

        Raises:
            TypeError: something else in place of the graph.
            ValueError: keys that do not fit the graph, or a backend that cannot run here.
        """
        return self.scale * edge_dot(structure, keys, self.backend)
