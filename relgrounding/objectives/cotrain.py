"""Co-training: fresh systems with other inputs or relations learn the posterior of those trained before them.

The two views are those of Blum and Mitchell, Combining Labeled and Unlabeled Data with Co-Training, COLT 1998; the
posterior with a temperature as target is that of Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._settings import ConfigError, changed, entries, number
from relgrounding.modalities import MODALITIES, Batch
from relgrounding.models import MODELS, Committee, Plan, System, item_log_softmax, log_odds
from relgrounding.objectives._objective import Objective, register_objective


@dataclass
class CoTrainingConfig:
    """Co-training: rounds in which a fresh member learns from those before it, after all other stages. See
    `models.Committee` for what a member learns from and how members answer together."""

    epochs: int = number(0, least=0)
    """Epochs of each round; 0: no co-training."""
    rounds: int = number(2, least=1, most=20)
    """Number of rounds, each of which adds a member."""
    start_from: str = ""
    """Folder of a run whose best.pt is the first member (of a run with co-training, its first member is); empty: the
    stages before are trained first."""
    learning_rate: float = number(1e-3, above=0)
    """Highest learning rate of a round; it rises and falls as that of stage 1."""
    hide: list[str] = entries("geometry")
    """What members do not see (`model.hide`), in all rounds but the last; if there is only one, in that one."""
    student: list[str] = entries("dropout=0.1")
    """Settings of the section `model` that hold for the members of the rounds in place of the run's, such as
    relation=graph."""
    target: str = "score"
    """What stands for the scores of the first member in all rounds: score, or another selection method of the modality;
    vote: the votes of `eval.vote_*`, so that the others learn, and the committee answers, by score what is selected by
    vote."""
    target_eval: list[str] = entries()
    """Settings of the section `eval` that hold for the target in place of the run's, such as vote_temperature=3: scores
    of the committee differ more than those of its first member, and their vote needs another temperature."""
    temperature: float = number(0.5, above=0)
    """Temperature of the posterior of the first member; below 1, it is sharper."""
    teachers: Literal["all", "first"] = "all"
    """Whom a member learns from: all members before it, or the first one alone, so that the others err independently
    of one another."""
    earlier_weight: float = number(0.5, least=0, most=1)
    """The next member learns from what this one learnt from, to this power, times the posterior of this one. With
    `teachers: first` this power only weighs the answers."""


def posterior_loss(
    log_odds: Float[Tensor, " nodes"], target: Float[Tensor, " nodes"], batch_num_nodes: Int[Tensor, " items"]
) -> Float[Tensor, ""]:
    """Cross-entropy of a posterior with that of the committee.

        L = - mean over items of  sum over the proposals of the item of  q_t log softmax(f)_t

    Args:
        log_odds: f, of the scores of the member in training.
        target: q, summing to 1 over the proposals of each item, without gradient.
        batch_num_nodes: (B,) number of proposals of each item.
    """
    return -(target * item_log_softmax(log_odds, batch_num_nodes)).sum() / len(batch_num_nodes)


@register_objective("cotrain")
class CoTraining(Objective):
    """Loss of the member in training against the posterior of the members before it; see `posterior_loss`.

    It needs no negatives: each item is scored with its own sentence alone.

    Args:
        model: the committee.
        settings: section "cotrain".
        generator: not used.
    """

    Config = CoTrainingConfig
    label = "cotrain"
    follows = True
    model: Committee

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and the mean divergence of the member from its target."""
        target = self.model.target(batch)
        loss = posterior_loss(log_odds(self.model.in_training(batch)), target, batch.structure.batch_num_nodes)
        entropy = -(target * target.clamp_min(1e-30).log()).sum() / len(batch)
        return loss, {"cotrain/divergence": loss.detach() - entropy}

    @classmethod
    def check(cls, settings: Mapping[str, Any], model: Any, system: type[System]) -> None:
        config = settings["cotrain"]
        if not config.epochs:
            return
        if config.hide and not hasattr(model, "hide"):
            raise ConfigError(
                f"cotrain.hide is {config.hide}, but {system.name} has no model.hide; set cotrain.hide=[]"
            )
        try:
            MODALITIES.get(system.modality)().check_selection(config.target)
        except ValueError as error:
            raise ConfigError(f"cotrain.target: {error}") from None
        if any(word.partition("=")[0] == "name" for word in config.student):
            raise ConfigError("cotrain.student: members are of one system; leave name=... out")

    @classmethod
    def committee(cls, settings: Mapping[str, Any], model: Any) -> Plan:
        config = settings["cotrain"]
        seeing = changed(model, config.student, "cotrain.student")
        hiding = dataclasses.replace(seeing, hide=config.hide) if config.hide else seeing
        students = [seeing if 1 < number == config.rounds else hiding for number in range(1, config.rounds + 1)]
        evaluation = changed(settings["eval"], config.target_eval, "cotrain.target_eval")
        ranked = None
        if config.target != "score":
            modality = MODALITIES.get(MODELS.get(model.name).modality)()
            ranked = partial(modality.ranked_by, selection=config.target, settings=evaluation)
        first_alone = config.teachers == "first"
        return Plan((model, *students), config.temperature, config.earlier_weight, ranked, first_alone)

    @classmethod
    def tells(cls, config: CoTrainingConfig) -> bool:
        return bool(config.epochs)

    @classmethod
    def needs_negatives(cls, config: CoTrainingConfig) -> bool:
        return False

    @classmethod
    def gathers(cls, config: CoTrainingConfig) -> bool:
        return True  # a mean over items, without draws
