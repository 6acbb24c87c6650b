"""The relation module of a system: layers through which proposals exchange messages."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding._registry import Registry
from relgrounding.graphs import GraphStructure
from relgrounding.nn import RelationalComparison
from relgrounding.nn._precision import Linear

RELATIONS: Registry[nn.Module] = Registry(
    "relation module", "relgrounding.models", ("graph", "none", "compare"), nn.Module
)
register_relation = RELATIONS.register
"""Decorator that registers your own relation module under the name that `model.relation` refers to.

Its constructor takes `(in_dim, out_dim, num_types, backend)`; `forward(structure, x)` maps (N, in_dim) to (N, out_dim).
An optional method `silent(x)` returns the output without messages; `mil.message_dropout` needs it.
"""


class Relation(nn.ModuleList):
    """A sequence of relation layers, each of which can be silenced for a step.

    Args:
        layers: `layer(structure, x)` returns the next x, `layer.silent(x)` does so without messages.
        activation: applied after each layer.
        silent: no layer passes messages, so no graph is needed.
    """

    def __init__(
        self, layers: Iterable[nn.Module], activation: Callable[[Tensor], Tensor] | None = None, silent: bool = False
    ) -> None:
        super().__init__(layers)
        self.activation: Callable[[Tensor], Tensor] | None = activation
        self.has_graph = not silent
        self._passing: Sequence[bool] = [not silent] * len(self)

    @contextmanager
    def passing(self, messages: Sequence[bool]) -> Iterator[None]:
        """Within a ``with`` block, let only those layers pass messages whose entry in `messages` is true."""
        before = self._passing
        self._passing = [a and b for a, b in zip(before, messages, strict=True)]
        try:
            yield
        finally:
            self._passing = before

    def forward(self, structure: GraphStructure, x: Float[Tensor, "nodes in_dim"]) -> Float[Tensor, "nodes out_dim"]:
        """Return the proposal features after all layers."""
        for layer, passing in zip(self, self._passing, strict=True):
            x = layer(structure, x) if passing or not hasattr(layer, "silent") else layer.silent(x)  # type: ignore[operator]
            x = x if self.activation is None else self.activation(x)
        return x


class Comparison(Relation):
    """A relation module whose output, log-odds, is added to the logits of scores: one `RelationalComparison`.

    Args:
        compare: the layer.
        silent: it reads no edges, so no graph is needed.
    """

    def __init__(self, compare: RelationalComparison, silent: bool = False) -> None:
        super().__init__([compare], silent=silent)

    def share(
        self, context: Float[Tensor, "*rows language_dim"], sentence: Float[Tensor, "*rows sentence_dim"]
    ) -> Tensor:
        """Return what language adds, see `nn.RelationalComparison`."""
        return self[0].share(context, sentence)  # type: ignore[operator]

    def forward(  # type: ignore[override]
        self,
        structure: GraphStructure,
        x: Float[Tensor, "nodes in_dim"],
        share: Float[Tensor, "nodes share_dim"],
        edge_bias: Float[Tensor, " edges"] | None = None,
    ) -> Float[Tensor, " nodes"]:
        """Return the log-odds r of each proposal."""
        (layer,), (passing,) = self, self._passing
        return layer(structure, x, share, edge_bias) if passing else layer.silent(x, share)  # type: ignore[operator]


def own_relation(name: str, in_dim: int, out_dim: int, num_types: int, backend: str) -> Relation:
    """Return the relation module of a name that the system does not have of its own.

    Raises:
        ConfigError: the name is unknown.
    """
    return Relation([RELATIONS.get(name)(in_dim, out_dim, num_types, backend)])


def self_terms(widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Return layers activation(W x + b), W Xavier-uniform and b zero: relation layers without their messages."""
    linears = [Linear(m, n) for m, n in pairwise(widths)]
    for linear in linears:
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*(layer for linear in linears for layer in (linear, activation())))


def last_states(
    words: Float[Tensor, "items length sentence_dim"], lengths: Int[Tensor, " items"]
) -> Float[Tensor, "items length sentence_dim"]:
    """Return the last states of both directions of a Bi-GRU, once per word."""
    forward, backward = words.chunk(2, -1)
    last = (lengths - 1)[:, None, None].expand(-1, 1, forward.shape[-1])
    return torch.cat([forward.gather(1, last), backward[:, :1]], -1).expand_as(words)
