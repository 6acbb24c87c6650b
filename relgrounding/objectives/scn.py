"""Semantic completion: the window from which a sentence can be completed best is rewarded."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relgrounding._settings import ConfigError, number
from relgrounding.graphs import temporal_iou
from relgrounding.modalities import VideoBatch
from relgrounding.models import SCN, System, log_odds
from relgrounding.nn import pad_nodes
from relgrounding.objectives._objective import Objective, register_objective


@dataclass
class CompletionConfig:
    """Settings of semantic completion; the defaults are the paper's."""

    rewards: list[float] = number([1.0, 0.5, 0.0], repeats=True, least=0)
    """Reward of each chosen window, that of the best completion first; as many windows are chosen."""
    completed: int = number(0, least=0)
    """The sentence is completed from so many of the chosen windows, those chosen first; 0: from all. Above 0 it needs
    `model.parts`, by which all of them are ranked."""
    rank_by: Literal["score", "odds"] = "score"
    """What the softmax of the ranking loss is over: scores, as in the paper, or their log-odds. Scores are between 0
    and 1, so that the best of three windows gets 58 % at most; log-odds differ by more."""
    reward_weight: float = number(1.0, least=0)
    """Weight of the ranking loss beside the completion loss."""
    tau: float = number(0.65, above=0, most=1)
    """Only windows whose IoU with all windows chosen before is lower are chosen."""
    explore: float = number(0.5, least=0, most=1)
    """Probability that a choice is random, at the first update; at update u it is explore exp(-u / explore_steps)."""
    explore_steps: float = number(2000.0, above=0)
    """Updates after which the probability of a random choice has fallen to 37 %."""
    masked: float = number(1 / 3, above=0, most=1)
    """Share of the words of a sentence that are masked, rounded down; at least one word is."""
    label_smoothing: float = number(0.1, least=0, below=1)
    """Share of the target that is spread evenly over the vocabulary."""


@register_objective("scn")
class SemanticCompletion(Objective):
    """Complete sentences from chosen windows of their videos, and rank these windows by how well that works.

    Of each video, K windows are chosen (`choose_windows`), and the sentence is completed from each of them; the same
    words are masked in all (`draw_masked`). With l_k the mean over all words of the cross-entropy, and k_k the scores,

        L = mean over videos of  mean_k l_k  +  reward_weight mean_k -R_k log softmax_k(k_k)

    where R_k is the reward of the rank of l_k, the least first. A video with fewer windows than K has means over those.
    With `model.parts`, the rank is that of `SCN.part_losses`, and the first mean is over the first `completed` windows.

    Args:
        model: the trained model.
        settings: section "scn".
        generator: source of all randomness but dropout, on the CPU.

    Paper: Lin et al., Weakly-Supervised Video Moment Retrieval via Semantic Completion Network, AAAI 2020.
    """

    Config = CompletionConfig
    per_piece = ("updates",)
    model: SCN
    config: CompletionConfig

    def __init__(self, model: SCN, settings: Mapping[str, Any], generator: torch.Generator) -> None:
        super().__init__(model, settings, generator)
        self.updates = 0

    @classmethod
    def check(cls, settings: Mapping[str, Any], model: Any, system: type[System]) -> None:
        if not issubclass(system, SCN):
            raise ConfigError(f"scn completes sentences, which {system.name} cannot do; it needs model.name=scn")
        config = settings["scn"]
        if config.completed and not model.parts:
            raise ConfigError(
                "scn.completed: windows are ranked by completion from each of them; give model.parts, or 0"
            )
        if config.completed > len(config.rewards):
            raise ConfigError(f"scn.completed is {config.completed}, but {len(config.rewards)} windows are chosen")

    @classmethod
    def needs_negatives(cls, config: CompletionConfig) -> bool:
        return False

    def __call__(self, batch: VideoBatch) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]  # SCN's batches
        """Return the loss of a batch, and its parts to log."""
        config, counts = self.config, batch.structure.batch_num_nodes
        scores, there = pad_nodes(self.model.ground(batch), counts)
        spans, _ = pad_nodes(batch.spans, counts)
        explored, noise = self._draw_exploration(scores)
        chosen = choose_windows(scores.detach(), spans, there, config.tau, explored, noise)
        valid, index = chosen >= 0, chosen.clamp_min(0)
        spans = spans.gather(1, index.unsqueeze(2).expand(-1, -1, 2))
        masked = draw_masked(batch.importance, batch.word_lengths, config.masked, self.generator)
        first = slice(config.completed or None)
        losses = self.model.completion_losses(batch, spans[:, first], masked, config.label_smoothing)
        completion = ((losses * valid[:, first]).sum(1) / valid[:, first].sum(1)).mean()
        ranked = self._ranked_by(batch, spans, masked) if self.model.parts else losses.detach()
        compared = scores.gather(1, index)
        if config.rank_by == "odds":
            compared = log_odds(compared.flatten()).view_as(compared)
        ranking = reward_loss(compared, ranked, valid, losses.new_tensor(config.rewards))
        self.updates += 1
        log = {"completion": completion.detach(), "ranking": ranking.detach()}
        return completion + config.reward_weight * ranking, log

    @torch.no_grad()
    def _ranked_by(self, batch: VideoBatch, spans: Tensor, masked: Tensor) -> Tensor:
        """Return the losses by parts of the chosen windows."""
        item = torch.arange(len(spans), device=spans.device).repeat_interleave(spans.shape[1])
        return self.model.part_losses(batch, spans.flatten(0, 1), item, masked).view(spans.shape[:2])

    def _draw_exploration(self, scores: Tensor) -> tuple[Bool[Tensor, "items windows"], Tensor]:
        """Draw which choices are random, and an order of the windows for each choice."""
        config, (items, proposals) = self.config, scores.shape
        probability, choices = config.explore * math.exp(-self.updates / config.explore_steps), len(config.rewards)
        explored = torch.rand(items, choices, generator=self.generator) < probability
        noise = torch.rand(items, choices, proposals, generator=self.generator)
        return explored.to(scores.device), noise.to(scores.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates so far."""
        return {"updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the number of updates."""
        self.updates = int(state["updates"])


def choose_windows(
    scores: Float[Tensor, "items proposals"],
    spans: Int[Tensor, "items proposals 2"],
    there: Bool[Tensor, "items proposals"],
    tau: float,
    explored: Bool[Tensor, "items choices"],
    noise: Float[Tensor, "items choices proposals"],
) -> Int[Tensor, "items choices"]:
    """Choose windows one after another: the best one, then the best of those that overlap none of the chosen too much.

    Args:
        scores: of the windows.
        spans: start and end of each window, in any unit.
        there: False at padding.
        tau: a window is dropped once one is chosen with which its IoU is tau or more.
        explored: True where a choice is random: the window of highest noise among those left.
        noise: independent and uniform.

    Returns:
        Index of each chosen window; -1 where no window is left.
    """
    left, row = there.clone(), torch.arange(len(scores), device=scores.device)
    chosen = []
    for k in range(explored.shape[1]):
        keys = torch.where(explored[:, k, None], noise[:, k], scores)
        best = keys.masked_fill(~left, -torch.inf).argmax(1)
        chosen.append(best.where(left.any(1), best.new_tensor(-1)))
        left &= temporal_iou(spans, spans[row, best].unsqueeze(1)).squeeze(2) < tau
    return torch.stack(chosen, 1)


def draw_masked(
    importance: Float[Tensor, "items length"],
    word_lengths: Int[Tensor, " items"],
    share: float,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "items length"]:
    """Draw the words of each sentence that are masked, without replacement, by importance.

    Args:
        importance: weight of each word, above 0.
        word_lengths: number of words of each sentence.
        share: of the words, rounded down; at least one word is masked.
        generator: source of the randomness, on the CPU.

    Returns:
        True where a word is masked.

    Source: Efraimidis and Spirakis, Weighted Random Sampling with a Reservoir, 2006: least of E_n / w_n, E_n ~ Exp(1).
    """
    drawn = torch.empty(importance.shape).exponential_(generator=generator).to(importance.device) / importance
    position = torch.arange(importance.shape[1], device=importance.device)
    drawn = drawn.masked_fill(position >= word_lengths[:, None], torch.inf)
    count = (share * word_lengths + 1e-6).long().clamp_min(1)
    return drawn.argsort(1).argsort(1) < count[:, None]


def reward_loss(
    scores: Float[Tensor, "items choices"],
    losses: Float[Tensor, "items choices"],
    valid: Bool[Tensor, "items choices"],
    rewards: Float[Tensor, " choices"],
) -> Float[Tensor, ""]:
    """Mean over items of the mean over valid choices of -R_k log softmax_k(score_k).

    R_k is the reward of the rank of a choice's loss, the lowest first.

    Args:
        scores: of the chosen windows.
        losses: of the completions from them.
        valid: False where no window was left to choose; the first choice is valid.
        rewards: of the ranks.
    """
    rank = losses.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True).argsort(1)
    chance = scores.masked_fill(~valid, -torch.inf).log_softmax(1).masked_fill(~valid, 0)
    return (-(rewards[rank] * chance).sum(1) / valid.sum(1)).mean()
