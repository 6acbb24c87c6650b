"""Interface and registry of training objectives."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from relgrounding._registry import Registry
from relgrounding.modalities import Batch
from relgrounding.models import Plan, System


class Objective(ABC):
    """The loss of a training step; each objective is defined and registered in one file.

    Args:
        model: the trained model; the whole `Committee` in a stage that adds a member to it.
        settings: sections of the configuration by name: its own, those in `requires`, and `eval`.
        generator: source of all randomness, on the CPU.
    """

    Config: ClassVar[type]
    """Dataclass of its section of the configuration, which has the name of the objective."""
    name: ClassVar[str]
    """Given by `register_objective`."""
    label: ClassVar[str] = ""
    """Appended to the name of a model trained with it, in tables."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Other objectives whose settings it reads."""
    follows: ClassVar[bool] = False
    """Whether it is a separate stage after that of `train.objectives`. Its settings then have `epochs`, `learning_rate`
    and `start_from` (folder of a run whose best.pt it starts from, or empty)."""
    per_piece: ClassVar[tuple[str, ...]] = ()
    """Attributes that each piece of a batch has for itself where batches are cut (`modalities.Cut`); `state_dict` then
    holds those of the piece in hand, and nothing else."""

    def __init__(self, model: System, settings: Mapping[str, Any], generator: torch.Generator) -> None:
        self.model, self.settings, self.generator = model, settings, generator
        self.config = settings[self.name]

    @abstractmethod
    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, on the device of the batch, and values to log."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return what is trained besides the model: in `state_dict`, on the device of the model."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, besides the weights."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most have no state)
        """Restore the state from a checkpoint."""

    def split(self, count: int) -> None:
        """Keep `per_piece` apart for so many pieces, which `select` changes between."""
        self._kept = [{name: copy.deepcopy(getattr(self, name)) for name in self.per_piece} for _ in range(count)]
        self._piece = 0

    def select(self, piece: int) -> None:
        """Take a piece in hand, from 0; see `split`."""
        if self.per_piece:
            self._kept[self._piece] = {name: getattr(self, name) for name in self.per_piece}
            for name, value in self._kept[piece].items():
                setattr(self, name, value)
            self._piece = piece

    @classmethod
    def dealt(cls, states: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
        """Return the states (`state_dict`) of `count` pieces, made of those of another number of pieces."""
        return [states[0]] * count

    @classmethod  # noqa: B027 (most have nothing to check)
    def check(cls, settings: Mapping[str, Any], model: Any, system: type[System]) -> None:
        """Reject contradictory settings.

        Args:
            settings: as for the class.
            model: settings of the system.
            system: class of the trained model.

        Raises:
            ConfigError: they contradict each other.
        """

    @classmethod
    def committee(cls, settings: Mapping[str, Any], model: Any) -> Plan | None:
        """Return the plan of the committee that it trains, one stage per member but the first; None: its one stage goes
        on with the model.

        Args:
            settings: as for the class.
            model: settings of the system.
        """
        return None

    @classmethod
    def tells(cls, config: Any) -> bool:
        """Whether tables show its label, given its settings."""
        return bool(cls.label)

    @classmethod
    def needs_negatives(cls, config: Any) -> bool:
        """Whether it learns nothing from a batch without negatives."""
        return True

    @classmethod
    def gathers(cls, config: Any) -> bool:
        """Whether it follows `Batch.counts`: the mean of what processes compute, weighted by their numbers of items, is
        the loss of all items together."""
        return False

    @classmethod
    def needs_blocks(cls, config: Any) -> bool:
        """Whether it draws negatives from the blocks that `data.block_by` makes."""
        return False


OBJECTIVES: Registry[Objective] = Registry("objective", "relgrounding.objectives", base=Objective)
register_objective = OBJECTIVES.register
"""Decorator that registers an `Objective` under the name that `train.objectives` refers to."""
