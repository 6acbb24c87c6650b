"""What a system is to the rest of the library, and the registry of all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from relgrounding._registry import Registry
from relgrounding._settings import number

WIDEST = 65_536
"""Of a layer; a slip of the keyboard beyond it would take all memory."""


@dataclass
class ModelConfig:
    """What every system has; the defaults are the paper's."""

    name: str = "ign"
    """Name of the system, or package.module:Name of your own."""
    relation: str = "graph"
    """graph: the system's relation module; none: without messages, everything else the same; or one of your own:
    its registered name, or package.module:Name."""
    word_dim: int = number(300, least=1, most=WIDEST)
    """Width of word vectors trained from scratch; pretrained ones bring their own."""
    hidden: int = number(128, least=1, most=WIDEST)
    """Bi-GRU units per direction."""
    attention_dim: int = number(256, least=1, most=WIDEST)
    """Width of the additive proposal-to-word attention."""
    relation_dim: int = number(256, least=1, most=WIDEST)
    """Width of the relation layers."""
    relation_layers: int = number(2, least=1, most=1000)
    """Number of relation layers."""
    top_r: int = number(12, least=1)
    """Proposals whose scores make the alignment."""
    dropout: float = number(0.0, least=0, below=1)
    """Share of the features that training sets to zero."""


class System(nn.Module):
    """A model that scores the proposals of an item for a sentence; one file per system defines and registers one.

    It is made with `(config, feature_dim, embedding, word_dim, backend)`: an instance of its `Config`, the width of a
    clip's or a region's feature, the module from word ids to vectors, their width, and the message-passing kernels.
    """

    Config: ClassVar[type] = ModelConfig
    """Its settings: the section `model` of a configuration."""
    name: ClassVar[str]
    """Given by `register_model`."""
    modality: ClassVar[str]
    """Registered name of the modality that it works on."""
    edge_types: ClassVar[int] = 1
    """Types of edges in its graph."""

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ConfigError: they do.
        """

    @classmethod
    def graph_options(cls, config: Any) -> dict[str, Any]:
        """Return what the modality's collator needs to know to build the graph; see its arguments."""
        return {}

    @classmethod
    def feature_dim(cls, config: Any, weights: Mapping[str, Tensor]) -> int:
        """Return the width of a clip's or a region's feature, which no file of a run but the weights tells.

        Raises:
            LookupError: the weights are those of another model.
        """
        raise NotImplementedError

    def forward(self, batch: Any) -> Float[Tensor, " nodes"]:
        """Return the score, from 0 to 1, of every proposal for its item's own sentence."""
        raise NotImplementedError


def first_weight(weights: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor of a checkpoint, for `System.feature_dim`."""
    if name not in weights:
        raise LookupError(f"it has no {name}")
    return weights[name]


MODELS: Registry[System] = Registry("model", "relgrounding.models")
register_model = MODELS.register
"""Decorator that registers a `System` under the name that `model.name` selects it by."""
