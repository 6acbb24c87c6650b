"""The relation module of a system: layers through which proposals hear of each other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from relgrounding._registry import Registry
from relgrounding.graphs import GraphStructure

RELATIONS: Registry[nn.Module] = Registry("relation module", "relgrounding.models", ("graph", "none"))
register_relation = RELATIONS.register
"""Decorator that registers a module of your own under the name that `model.relation` selects it by.

It is made with `(in_dim, out_dim, num_types, backend)`; its `forward(structure, x)` maps (N, in_dim) to (N, out_dim).
A method `silent(x)`, if it has one, says what a proposal is without messages; `mil.message_dropout` needs it.
"""


class Relation(nn.ModuleList):
    """Relation layers, one after the other; any of them may be silent for a step.

    Args:
        layers: each maps `(structure, x)` to the next x, and `silent(x)` does so without messages.
        activation: after each layer.
        silent: whether no layer ever passes messages, so that no graph is needed.
    """

    def __init__(
        self, layers: Iterable[nn.Module], activation: Callable[[Tensor], Tensor] | None = None, silent: bool = False
    ) -> None:
        super().__init__(layers)
        self.activation: Callable[[Tensor], Tensor] | None = activation
        self.has_graph = not silent
        self._heard: Sequence[bool] = [not silent] * len(self)

    @contextmanager
    def passing(self, messages: Sequence[bool]) -> Iterator[None]:
        """Let those layers alone pass messages of which `messages` says so, within a ``with`` block."""
        before = self._heard
        self._heard = [a and b for a, b in zip(before, messages, strict=True)]
        try:
            yield
        finally:
            self._heard = before

    def forward(self, structure: GraphStructure, x: Float[Tensor, "nodes in_dim"]) -> Float[Tensor, "nodes out_dim"]:
        """Return what the proposals of a graph are after all layers."""
        for layer, heard in zip(self, self._heard, strict=True):
            x = layer(structure, x) if heard or not hasattr(layer, "silent") else layer.silent(x)  # type: ignore[operator]
            x = x if self.activation is None else self.activation(x)
        return x


def own_relation(name: str, in_dim: int, out_dim: int, num_types: int, backend: str) -> Relation:
    """Return the relation module that a name other than "graph" and "none" selects.

    Raises:
        ConfigError: there is none.
    """
    return Relation([RELATIONS.get(name)(in_dim, out_dim, num_types, backend)])
