"""Interface and registry of grounding systems."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from relgrounding._registry import Registry
from relgrounding._settings import number

WIDEST = 65_536
"""Maximum width of a layer: a typing error beyond it would exhaust the memory."""


@dataclass
class ModelConfig:
    """Settings of systems with a relation module; the defaults are the paper's.

    A system without one has a dataclass of its own, with the fields `name` and `word_dim` and the class variable
    `relation = ""`.
    """

    name: str = "ign"
    """Name of the system, or package.module:Name of your own system."""
    relation: str = "graph"
    """graph: the system's relation module; compare: comparison with the neighbours that the sentence asks for;
    none: no messages, everything else unchanged; or your own module: its registered name, or package.module:Name."""
    word_dim: int = number(300, least=1, most=WIDEST)
    """Width of word vectors trained from scratch; pretrained vectors keep theirs."""
    hidden: int = number(128, least=1, most=WIDEST)
    """Bi-GRU units per direction."""
    attention_dim: int = number(256, least=1, most=WIDEST)
    """Width of the additive proposal-to-word attention."""
    relation_dim: int = number(256, least=1, most=WIDEST)
    """Width of the relation layers."""
    relation_layers: int = number(2, least=1, most=1000)
    """Number of relation layers."""
    top_r: int = number(12, least=1)
    """Number R of proposals whose scores are averaged for the alignment."""
    dropout: float = number(0.0, least=0, below=1)
    """Share of the features set to zero in training."""


class System(nn.Module):
    """A model that scores the proposals of an item for a sentence; each system is defined and registered in one file.

    Its constructor takes `(config, feature_dim, embedding, word_dim, backend)`: an instance of its `Config`, the width
    of a clip or region feature, the module that maps word ids to vectors, their width, and the message-passing backend.
    """

    Config: ClassVar[type] = ModelConfig
    """Dataclass of the section `model` of a configuration."""
    name: ClassVar[str]
    """Given by `register_model`."""
    modality: ClassVar[str]
    """Registered name of its modality."""
    relations: ClassVar[tuple[str, ...]] = ("graph", "none")
    """Relation modules that it has of its own."""
    edge_types: ClassVar[int] = 1
    """Number of edge types of its graph."""
    pieces: ClassVar[tuple[str, ...]] = ()
    """Methods that `train.compile` compiles, each to one graph: those that training calls, and whose results have sizes
    that depend on nothing but the sizes of their arguments."""

    @classmethod
    def check(cls, config: Any) -> None:
        """Reject contradictory settings.

        Raises:
            ConfigError: they contradict each other.
        """

    def fit(self, batches: Iterable[Any]) -> None:
        """Take from the training data what is not learned, before the first step of a new run; by default nothing.

        It belongs into buffers, which a checkpoint keeps. What a system consists of is fitted with it.

        Args:
            batches: every item of the training split once; may be iterated several times.
        """
        for part in self.modules():
            if part is not self and isinstance(part, System):
                part.fit(batches)

    @classmethod
    def graph_options(cls, config: Any) -> dict[str, Any]:
        """Return keyword arguments with which the modality's collator builds the graph."""
        return {}

    @classmethod
    def reads_graph(cls, config: Any) -> bool:
        """Whether the scores depend on the edges of the graph."""
        return config.relation not in ("", "none")

    @classmethod
    def feature_dim(cls, config: Any, weights: Mapping[str, Tensor]) -> int:
        """Return the width of a clip or region feature, which a run states only in its weights.

        Raises:
            LookupError: the weights are those of another model.
        """
        raise NotImplementedError

    @property
    def systems(self) -> list["System"]:
        """The members of a committee; a system alone is its own only one."""
        return [self]

    def begin(self, number: int) -> "System":
        """Freeze the members before one, let it answer with them, and return it: the one to be trained."""
        return self

    def forward(self, batch: Any) -> Float[Tensor, " nodes"]:
        """Return the score, from 0 to 1, of every proposal for the sentence of its item."""
        raise NotImplementedError


def first_weight(weights: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor of a checkpoint, for `System.feature_dim`."""
    if name not in weights:
        raise LookupError(f"it has no {name}")
    return weights[name]


MODELS: Registry[System] = Registry("model", "relgrounding.models", base=System)
register_model = MODELS.register
"""Decorator that registers a `System` under the name that `model.name` refers to."""
