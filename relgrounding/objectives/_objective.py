"""What an objective is to the rest of the library, and the registry of all of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from relgrounding._registry import Registry
from relgrounding.modalities import Batch
from relgrounding.models import System


class Objective(ABC):
    """The loss of a training step; one file per objective defines and registers one.

    Args:
        model: that is trained.
        settings: sections of the configuration by name: its own, and those that `requires` names.
        generator: source of all randomness, on the CPU.
    """

    Config: ClassVar[type]
    """Its settings: a section of the configuration with the objective's name."""
    name: ClassVar[str]
    """Given by `register_objective`."""
    label: ClassVar[str] = ""
    """What tables add to the name of a model that was trained with it."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Other objectives whose settings it reads."""
    follows: ClassVar[bool] = False
    """Whether it is a stage of its own, after that of `train.objectives`. Its settings then have `epochs`,
    `learning_rate` and `start_from` (the folder of a run whose best.pt it starts from, or nothing)."""

    def __init__(self, model: System, settings: Mapping[str, Any], generator: torch.Generator) -> None:
        self.model, self.settings, self.generator = model, settings, generator
        self.config = settings[self.name]

    @abstractmethod
    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, on the device that holds it, and what to log."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the weights."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most keep nothing)
        """Take over what a checkpoint kept."""

    @classmethod  # noqa: B027 (most agree)
    def check(cls, settings: Mapping[str, Any], model: Any, system: type[System]) -> None:
        """Refuse settings that contradict each other.

        Args:
            settings: as for the class.
            model: settings of the system.
            system: that is trained.

        Raises:
            ConfigError: they do.
        """

    @classmethod
    def tells(cls, config: Any) -> bool:
        """Whether tables name it, with these settings."""
        return bool(cls.label)

    @classmethod
    def needs_negatives(cls, config: Any) -> bool:
        """Whether a batch without negatives teaches it nothing."""
        return True


OBJECTIVES: Registry[Objective] = Registry("objective", "relgrounding.objectives")
register_objective = OBJECTIVES.register
"""Decorator that registers an `Objective` under the name that `train.objectives` selects it by."""
