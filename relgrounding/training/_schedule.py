"""The stages of a run, and its learning rate."""

import math
from typing import NamedTuple

from relgrounding.config import Config
from relgrounding.objectives import OBJECTIVES, Objective


class Stage(NamedTuple):
    """Epochs with one optimizer and one set of objectives.

    Attributes:
        objectives: whose losses are added.
        epochs: maximum number of epochs.
        learning_rate: maximum learning rate.
        start_from: folder of a run whose best.pt it starts from; empty: the best epoch of the previous stage.
        key: name of the setting for the number of epochs.
        member: number of the member of the committee that is trained; 0 for a system alone.
    """

    objectives: tuple[type[Objective], ...]
    epochs: int
    learning_rate: float
    start_from: str
    key: str
    member: int = 0

    @property
    def kept(self) -> str:
        """Name of the file that holds its best epoch when the next stage replaces best.pt."""
        name = "-".join(kind.name for kind in self.objectives)
        return f"{name}-{self.member}.pt" if self.member else f"{name}.pt"


def stages(config: Config) -> list[Stage]:
    """Return the stages of a run: that of `train.objectives`, then those of objectives with `follows` and epochs."""
    train = config.train
    first = tuple(OBJECTIVES.get(name) for name in train.objectives)
    found = [Stage(first, train.epochs, train.learning_rate, "", "train.epochs")]
    for name, kind in config.classes.items():
        settings = config.objectives[name]
        if kind.follows and settings.epochs:
            stage = Stage((kind,), settings.epochs, settings.learning_rate, settings.start_from, f"{name}.epochs")
            plan = kind.committee(config.sections, config.model)
            members = range(1, len(plan.members)) if plan else [found[-1].member]
            for member in members:
                found.append(stage._replace(member=member, start_from=stage.start_from if member == members[0] else ""))
    return found


def planned(config: Config) -> list[Stage]:
    """Return the stages that are trained: a run that starts from another run skips the stages before."""
    every = stages(config)
    start = max((i for i, stage in enumerate(every) if stage.start_from), default=0)
    return every[start:]


def learning_rate_factor(
    step: int, warmup: int, total: int, schedule: str = "cosine", halve_every: int = 8000
) -> float:
    """Return the share of the maximum learning rate at a step of a stage; see `TrainConfig.schedule`.

    Args:
        step: n, from 0.
        warmup: w, steps over which it rises.
        total: N, number of steps of the stage.
        schedule: "cosine", "inverse_sqrt" or "halving".
        halve_every: steps between two halvings.
    """
    if schedule == "halving":
        return min(1.0, (step + 1) / max(1, warmup)) * 0.5 ** (step // halve_every)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / (step + 1))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
