"""Counterfactual contrastive learning: settings, losses and the training step on transformed copies of a batch.

Source: Zhang, Zhao, Lin, Zhu, He, Counterfactual Contrastive Learning for Weakly-Supervised Vision-Language Grounding,
NeurIPS 2020.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relgrounding._host import on_host, to_device
from relgrounding._settings import ConfigError, number
from relgrounding.graphs import GraphStructure
from relgrounding.modalities import Batch
from relgrounding.models import Encoded, GroundingModel, System
from relgrounding.nn import pad_nodes
from relgrounding.objectives._bank import MemoryBank, deal_rows
from relgrounding.objectives._counterfactual import destroy_edges, remove_edges, replace_at
from relgrounding.objectives._objective import Objective, register_objective
from relgrounding.objectives._pairings import align_pairings, copies_at_once
from relgrounding.objectives._selection import gradient_importance, split_counts, split_proposals
from relgrounding.objectives.mil import MIL

Bound = Literal["uniform", "complement", "none"]
_SMALLEST = 1e-6


@dataclass
class CCLConfig:
    """Counterfactual contrastive learning: stage 2, after MIL. The paper gives no margins, weights or set sizes."""

    epochs: int = number(0, least=0)
    """Epochs of stage 2; 0: MIL only."""
    start_from: str = ""
    """Folder of a run whose best.pt stage 2 starts from; empty: train stage 1 first, for `train.epochs`."""
    learning_rate: float = number(5e-4, above=0)
    """Highest learning rate of stage 2; it rises and falls as that of stage 1."""
    mil_weight: float = number(1.0, least=0)
    """Weight of the MIL loss in stage 2; 0 disables it."""
    feature_weight: float = number(2.0, least=0)
    """Weight of the feature level: h replaced by that of another sample; 0 disables a level."""
    interaction_weight: float = number(2.0, least=0)
    """Weight of the interaction level: the language feature c replaced by that of another sample."""
    relation_weight: float = number(2.0, least=0)
    """Weight of the relation level: edges destroyed."""
    ranking_weight: float = number(1.0, least=0)
    """Weight of the ranking loss within each level."""
    consistency_weight: float = number(0.1, least=0)
    """Weight of the consistency loss within each level."""
    margin: float = number(0.5, least=0)
    """Of the ranking loss, in units of the alignment score (0 to 1)."""
    bound: Bound = "uniform"
    """Lower bound of the consistency loss, see `objectives.consistency_loss`."""
    draws: int = number(1, least=1, most=1000)
    """J: number of transformed copies per kind and level."""
    selection: Literal["gradient", "gradient_input", "score"] = "gradient"
    """Importance that separates critical from inessential proposals: the norm of the gradient of the alignment, that
    gradient times the feature, or the score."""
    critical: float = number(0.2, above=0, most=1)
    """Share of the proposals of an item that the destructive transformation changes."""
    inessential: float = number(0.5, least=0, most=1)
    """Share of the proposals of an item that the robust transformation changes, among those that are not critical."""
    edges: Literal["removed", "rewired", "retyped"] = "removed"
    """Relation level: change of the edges of the chosen proposals."""
    bank_size: int = number(4096, least=2, most=10_000_000)
    """Rows of each memory bank."""
    bank_push: int = number(8, least=1, most=100_000)
    """Proposals of each item that are pushed to the banks per step."""

    @property
    def levels(self) -> dict[str, float]:
        """Weight of each active level."""
        weights = {
            "feature": self.feature_weight,
            "interaction": self.interaction_weight,
            "relation": self.relation_weight,
        }
        return {level: weight for level, weight in weights.items() if weight}


def ranking_loss(
    robust: Float[Tensor, "draws items"], destructive: Float[Tensor, "draws items"], margin: float
) -> Float[Tensor, ""]:
    """Hinge: copies with the critical proposals intact align better than copies without them.

        L = mean over items of  [margin - mean_J K(RCT) + mean_J K(DCT)]_+

    Args:
        robust: K after the robust transformation, from 0 to 1.
        destructive: K after the destructive one.
        margin: from 0 to 1.
    """
    return (margin - robust.mean(0) + destructive.mean(0)).clamp_min(0).mean()


def consistency_loss(
    original: Float[Tensor, " nodes"],
    robust: Float[Tensor, "draws nodes"],
    destructive: Float[Tensor, "draws nodes"],
    batch_num_nodes: Int[Tensor, " items"],
    bound: Bound = "uniform",
) -> Float[Tensor, ""]:
    """Scores are to stay the same under the robust transformation and to change under the destructive one.

        p_t = k_t / sum of k over the item,  H(p, q) = - sum_t p_t log q_t
        L = mean over draws and items of  H(p, q_RCT) - B(p, q_DCT)

    With B = H the loss has no lower bound: it keeps falling as critical scores approach 0. B is therefore bounded:

        uniform:     B = min(H(p, q_DCT), log n), n proposals: nothing is gained beyond the cross-entropy of a uniform
                     distribution
        complement:  -B = - sum_t p_t log(1 - q_t): at least 0, reached when q has no weight on the proposals of p
        none:        B = H, for ablation

    Args:
        original: k without transformation, from 0 to 1; a target without gradient.
        robust: k after the robust transformation.
        destructive: k after the destructive one.
        batch_num_nodes: (B,) number of proposals of each item.
        bound: see above.

    Raises:
        ValueError: an unknown bound.
    """
    if bound not in get_args(Bound):
        raise ValueError(f"bound is {bound!r}; it is one of {', '.join(get_args(Bound))}")
    p, mask = _shares(original.detach().unsqueeze(1), batch_num_nodes)
    q_robust, _ = _shares(robust.T, batch_num_nodes)
    q_destructive, _ = _shares(destructive.T, batch_num_nodes)

    def cross_entropy(q: Tensor) -> Tensor:
        return -(p * q.clamp_min(_SMALLEST).log() * mask.unsqueeze(2)).sum(1)

    if bound == "complement":
        away = (p * (1 - q_destructive).clamp_min(_SMALLEST).log() * mask.unsqueeze(2)).sum(1)
    else:
        away = cross_entropy(q_destructive)
        if bound == "uniform":
            away = torch.minimum(away, mask.sum(1).to(away.dtype).log().unsqueeze(1))
    return (cross_entropy(q_robust) - away).mean()


def _shares(scores_ND: Tensor, batch_num_nodes: Tensor) -> tuple[Tensor, Tensor]:
    """(items, max proposals, draws) scores of each item, normalised to sum 1, and the mask of proposals."""
    padded, mask = pad_nodes(scores_ND, batch_num_nodes)
    return padded / padded.sum(1, keepdim=True).clamp_min(_SMALLEST), mask


class Copy(NamedTuple):
    """Inputs of the relation module for one transformed copy of a batch."""

    structure: GraphStructure
    proposals: Float[Tensor, "nodes proposal_dim"]
    fused: Float[Tensor, "nodes fused_dim"]


class Chosen(NamedTuple):
    """Proposals that a transformation changes.

    Attributes:
        mask: which of all.
        indices: their numbers, ascending.
        item: item of each, on the host.
    """

    mask: Bool[Tensor, " nodes"]
    indices: Int[Tensor, " chosen"]
    item: Int[Tensor, " chosen"]

    @classmethod
    def of(cls, mask: Bool[Tensor, " nodes"], counts: Int[Tensor, " items"]) -> "Chosen":
        """Return those of a mask that marks so many proposals of each item."""
        item = torch.arange(len(counts)).repeat_interleave(counts)
        return cls(mask, torch.nonzero_static(mask, size=len(item)).squeeze(1), item)


@register_objective("ccl")
class CCL(Objective):
    """Loss of stage 2, with the memory banks.

        L = w_mil L_MIL + sum over levels of  w_level (w_rank L_rank + w_cons L_cons)

    The transformed copies of a batch share all computation before they differ: the encoders, and attention over words
    and fusion except for replaced proposals.

    Args:
        model: the trained model.
        settings: sections "ccl" and "mil", whose loss is added.
        generator: source of all randomness, on the CPU.
    """

    Config = CCLConfig
    label = "CCL"
    requires = ("mil",)
    follows = True
    per_piece = ("features", "language")
    model: GroundingModel
    config: CCLConfig

    def __init__(self, model: GroundingModel, settings: Mapping[str, Any], generator: torch.Generator) -> None:
        super().__init__(model, settings, generator)
        config = self.config
        self.mil = MIL(model, settings, generator)
        weight = next(model.parameters())
        widths = model.proposal_dim, model.language_dim
        self.features, self.language = (
            MemoryBank(config.bank_size, width, weight.device, weight.dtype) for width in widths
        )

    @classmethod
    def check(cls, settings: Mapping[str, Any], model: Any, system: type[System]) -> None:
        ccl = settings["ccl"]
        if not ccl.epochs:
            return
        if not issubclass(system, GroundingModel):
            raise ConfigError(f"ccl.epochs needs a GroundingModel, and {system.name} is not one; set it to 0")
        if not ccl.levels and not ccl.mil_weight:
            raise ConfigError("ccl: every weight is 0; give ccl.mil_weight or a level's weight a value")
        if ccl.relation_weight and not system.reads_graph(model):
            edges = "a relation module" if model.relation == "none" else "edges"
            without = "relation" if model.relation == "none" else "relation_edges"
            raise ConfigError(f"ccl.relation_weight needs {edges}; set it to 0 where model.{without}=none")
        if ccl.relation_weight and ccl.edges == "retyped" and system.edge_types == 1:
            raise ConfigError(f"ccl.edges=retyped needs edges of several types; {system.name} has one type")

    @classmethod
    def tells(cls, config: CCLConfig) -> bool:
        return bool(config.epochs and config.levels)

    @classmethod
    def needs_negatives(cls, config: CCLConfig) -> bool:
        return bool(config.mil_weight)

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and values to log."""
        with self.model.relation.passing(self.mil.draw_messages()):
            return self._loss(batch)

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        model, config, structure = self.model, self.config, batch.structure
        encoded = model.encode(batch)
        # Region features are inputs without gradient, but their importance is a gradient with respect to them.
        tracked = encoded.proposals
        if not tracked.requires_grad:
            tracked = tracked.detach().requires_grad_(config.selection != "score" and bool(config.levels))
        contexts = model.interact(tracked, encoded.words, batch.word_lengths, structure.node_item)
        fused = model.fuse(tracked, contexts)
        scores = model.reason(structure, tracked, fused)
        own = model.align(structure, scores)
        loss = own.new_zeros(())
        if config.mil_weight:
            negatives = self.mil.draw_negatives(batch)
            wrong = align_pairings(model, batch, negatives, encoded)
            loss = config.mil_weight * self.mil.pairing_loss(batch, own, wrong, negatives)
        if not config.levels:
            return loss, {}
        self._push(batch, encoded.proposals, contexts)
        if not (self.features.ready and self.language.ready):
            return loss, {}
        by_score = config.selection == "score"
        importance = scores if by_score else gradient_importance(own, tracked, config.selection == "gradient_input")
        shares = config.critical, config.inessential
        counts = structure.batch_num_nodes
        marked = zip(split_proposals(importance, scores, counts, *shares), split_counts(counts, *shares), strict=True)
        critical, inessential = (Chosen.of(mask, number) for mask, number in marked)
        log: dict[str, Tensor] = {}
        for level, weight in config.levels.items():
            copies = self._copies(level, batch, encoded, contexts, fused, critical, inessential)
            level_loss, values = self._level_loss(structure, scores, self._scores(copies))
            loss = loss + weight * level_loss
            log |= {f"ccl/{level}/{name}": value for name, value in values.items()}
        return loss, log

    def _push(self, batch: Batch, proposals: Tensor, contexts: Tensor) -> None:
        """Push random proposals of each item, drawn with replacement, to the banks."""
        counts, times = on_host(batch.structure.batch_num_nodes), self.config.bank_push
        share = torch.rand(times, len(counts), generator=self.generator)
        indices = ((share * counts).long().clamp(max=counts - 1) + counts.cumsum(0) - counts).flatten()
        indices = to_device(indices, proposals.device)
        self.features.push(proposals[indices], on_host(batch.item).repeat(times))
        self.language.push(contexts[indices], on_host(batch.text).repeat(times))

    def _copies(
        self,
        level: str,
        batch: Batch,
        encoded: Encoded,
        contexts: Tensor,
        fused: Tensor,
        critical: Chosen,
        inessential: Chosen,
    ) -> list[Copy]:
        """Return the destructive copies of a level, followed by as many robust ones."""
        structure, proposals = batch.structure, encoded.proposals
        if level == "relation":
            if self.config.edges == "removed":
                # Deterministic: further draws would be identical.
                changed = remove_edges(structure, [critical.mask, inessential.mask])
            else:
                masks = [critical.mask] * self.config.draws + [inessential.mask] * self.config.draws
                changed = [destroy_edges(structure, mask, self.config.edges, self.generator) for mask in masks]
            return [Copy(graph, proposals, fused) for graph in changed]
        chosen = [critical] * self.config.draws + [inessential] * self.config.draws
        return self._replaced(level, batch, encoded, contexts, fused, chosen)

    def _replaced(
        self,
        level: str,
        batch: Batch,
        encoded: Encoded,
        contexts: Tensor,
        fused: Tensor,
        chosen: Sequence[Chosen],
    ) -> list[Copy]:
        """Return copies in which the chosen proposals have other proposal features or other language features."""
        structure, proposals = batch.structure, encoded.proposals
        features, owner, bank = (
            (proposals, batch.item, self.features) if level == "feature" else (contexts, batch.text, self.language)
        )
        owners = [on_host(owner)[some.item] for some in chosen]
        indices = [some.indices for some in chosen]
        replaced = [
            replace_at(features, at, bank, whose, self.generator) for at, whose in zip(indices, owners, strict=True)
        ]
        rows, index = torch.cat([x.detach()[at] for x, at in zip(replaced, indices, strict=True)]), torch.cat(indices)
        if level == "feature":
            # Replaced proposals attend to the words again.
            item = to_device(torch.cat([some.item for some in chosen]), rows.device)
            changed = self.model.fuse(rows, self.model.interact(rows, encoded.words, batch.word_lengths, item))
        else:
            # Not `proposals[index]`: see `align_pairings`.
            changed = self.model.fuse(proposals.index_select(0, index), rows)
        parts = changed.split([len(at) for at in indices])
        changed_fused = [fused.index_copy(0, at, part) for at, part in zip(indices, parts, strict=True)]
        if level == "feature":
            return [Copy(structure, h, x) for h, x in zip(replaced, changed_fused, strict=True)]
        return [Copy(structure, proposals, x) for x in changed_fused]

    def _scores(self, copies: Sequence[Copy]) -> Float[Tensor, "copies nodes"]:
        """Score all copies, as many at a time as fit the cache."""
        at_once = copies_at_once(copies[0].structure.num_nodes)
        parts = []
        for start in range(0, len(copies), at_once):
            some = copies[start : start + at_once]
            graph = GraphStructure.batch([copy.structure for copy in some])
            proposals = torch.cat([copy.proposals for copy in some])
            fused = torch.cat([copy.fused for copy in some])
            parts.append(self.model.reason(graph, proposals, fused).view(len(some), -1))
        return torch.cat(parts)

    def _level_loss(
        self, structure: GraphStructure, original: Float[Tensor, " nodes"], scores: Float[Tensor, "copies nodes"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        aligned = torch.stack([self.model.align(structure, k) for k in scores])
        destructive, robust = aligned.chunk(2)
        ranking = ranking_loss(robust, destructive, config.margin)
        scores_destructive, scores_robust = scores.chunk(2)
        counts = structure.batch_num_nodes
        consistency = consistency_loss(original, scores_robust, scores_destructive, counts, config.bound)
        log = {
            "ranking": ranking,
            "consistency": consistency,
            "robust": robust.mean(),
            "destructive": destructive.mean(),
        }
        loss = config.ranking_weight * ranking + config.consistency_weight * consistency
        return loss, {name: value.detach() for name, value in log.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both banks."""
        return {"features": self.features.state_dict(), "language": self.language.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both banks from a checkpoint."""
        self.features.load_state_dict(state["features"])
        self.language.load_state_dict(state["language"])

    @classmethod
    def dealt(cls, states: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
        """Share out the rows of all banks."""
        banks = {name: deal_rows([state[name] for state in states], count) for name in cls.per_piece}
        return [{name: banks[name][piece] for name in banks} for piece in range(count)]
