"""One step of stage 2: the MIL loss, and counterfactual copies of the batch with their losses."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relgrounding.config import CCLConfig, TrainConfig
from relgrounding.graphs import GraphStructure
from relgrounding.modalities._batches import Batch
from relgrounding.models import IGN, VGN, Encoded
from relgrounding.objectives import (
    MemoryBank,
    consistency_loss,
    destroy_edges,
    gradient_importance,
    ranking_loss,
    replace_rows,
    split_proposals,
)
from relgrounding.training._step import align_pairings, copies_at_once, draw_messages, draw_pairings, pairing_loss


class Copy(NamedTuple):
    """What one transformed copy of a batch enters the relation module with."""

    structure: GraphStructure
    proposals: Float[Tensor, "nodes proposal_dim"]
    fused: Float[Tensor, "nodes fused_dim"]


class CounterfactualStep:
    """Loss of stage 2; holds the memory banks.

        L = w_mil L_MIL + sum over levels of  w_level (w_rank L_rank + w_cons L_cons)

    Both transformations of all levels and draws are copies of one batch, which share everything before the place where
    they differ: the encoders; attention over words and fusion, which run again for replaced proposals only.

    Args:
        model: VGN or IGN.
        config: settings of stage 2.
        train: those of MIL.
        generator: source of all randomness, on the CPU.
    """

    def __init__(self, model: VGN | IGN, config: CCLConfig, train: TrainConfig, generator: torch.Generator) -> None:
        self.model, self.config, self.train, self.generator = model, config, train, generator
        weight = next(model.parameters())
        widths = model.attention.proposal.in_features, model.attention.word.in_features
        self.features, self.language = (
            MemoryBank(config.bank_size, width, weight.device, weight.dtype) for width in widths
        )

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and what to log of it."""
        model, config, structure = self.model, self.config, batch.structure
        messages = draw_messages(model, self.train, self.generator)
        encoded = model.encode(batch)  # type: ignore[arg-type]
        # Regions come from outside; the importance of a region is a gradient with respect to it all the same.
        tracked = encoded.proposals
        if not tracked.requires_grad:
            tracked = tracked.detach().requires_grad_(config.selection != "score" and bool(config.levels))
        contexts = model.interact(tracked, encoded.words, batch.word_lengths, structure.node_item)
        fused = model.fuse(tracked, contexts)
        scores = model.reason(structure, tracked, fused, messages)
        own = model.align(structure, scores)
        loss = own.new_zeros(())
        if config.mil_weight:
            negatives = draw_pairings(batch, self.train, self.generator)
            wrong = align_pairings(model, batch, negatives, messages, encoded)
            loss = config.mil_weight * pairing_loss(batch, own, wrong, negatives, self.train)
        if not config.levels:
            return loss, {}
        self._push(batch, encoded.proposals, contexts)
        if not (self.features.ready and self.language.ready):
            return loss, {}
        by_score = config.selection == "score"
        importance = scores if by_score else gradient_importance(own, tracked, config.selection == "gradient_input")
        shares = config.critical, config.inessential
        critical, inessential = split_proposals(importance, scores, structure.batch_num_nodes, *shares)
        log: dict[str, Tensor] = {}
        for level, weight in config.levels.items():
            copies = self._copies(level, batch, encoded, contexts, fused, critical, inessential)
            level_loss, values = self._level_loss(structure, scores, self._scores(copies, messages))
            loss = loss + weight * level_loss
            log |= {f"ccl/{level}/{name}": value for name, value in values.items()}
        return loss, log

    def _push(self, batch: Batch, proposals: Tensor, contexts: Tensor) -> None:
        """Put some proposals of each item into the banks, drawn with replacement."""
        counts = batch.structure.batch_num_nodes
        share = torch.rand(self.config.bank_push, len(counts), generator=self.generator).to(counts.device)
        places = ((share * counts).long().clamp(max=counts - 1) + counts.cumsum(0) - counts).flatten()
        self.features.push(proposals[places], batch.item.repeat(self.config.bank_push))
        self.language.push(contexts[places], batch.text.repeat(self.config.bank_push))

    def _copies(
        self,
        level: str,
        batch: Batch,
        encoded: Encoded,
        contexts: Tensor,
        fused: Tensor,
        critical: Bool[Tensor, " nodes"],
        inessential: Bool[Tensor, " nodes"],
    ) -> list[Copy]:
        """Return the destructive copies of a level, then as many robust ones."""
        structure, proposals = batch.structure, encoded.proposals
        if level == "relation":
            # Without chance in it, one draw says all.
            draws = 1 if self.config.edges == "removed" else self.config.draws
            masks = [critical] * draws + [inessential] * draws
            changed = [destroy_edges(structure, mask, self.config.edges, self.generator) for mask in masks]
            return [Copy(graph, proposals, fused) for graph in changed]
        masks = [critical] * self.config.draws + [inessential] * self.config.draws
        return self._replaced(level, batch, encoded, contexts, fused, masks)

    def _replaced(
        self,
        level: str,
        batch: Batch,
        encoded: Encoded,
        contexts: Tensor,
        fused: Tensor,
        masks: Sequence[Bool[Tensor, " nodes"]],
    ) -> list[Copy]:
        """Return copies in which the masked proposals have other features, or hear of another sentence."""
        structure, proposals, item = batch.structure, encoded.proposals, batch.structure.node_item
        if level == "feature":
            owners, bank = batch.item[item], self.features
            replaced = [replace_rows(proposals, mask, bank, owners, self.generator) for mask in masks]
        else:
            owners, bank = batch.text[item], self.language
            replaced = [replace_rows(contexts, mask, bank, owners, self.generator) for mask in masks]
        places = [mask.nonzero().squeeze(1) for mask in masks]
        rows, place = torch.cat([x.detach()[at] for x, at in zip(replaced, places, strict=True)]), torch.cat(places)
        if level == "feature":
            # A replaced proposal attends to the words anew.
            fresh = self.model.fuse(rows, self.model.interact(rows, encoded.words, batch.word_lengths, item[place]))
        else:
            # Not `proposals[place]`: see `align_pairings`.
            fresh = self.model.fuse(proposals.index_select(0, place), rows)
        parts = fresh.split([len(at) for at in places])
        changed_fused = [fused.index_copy(0, at, part) for at, part in zip(places, parts, strict=True)]
        if level == "feature":
            return [Copy(structure, h, x) for h, x in zip(replaced, changed_fused, strict=True)]
        return [Copy(structure, proposals, x) for x in changed_fused]

    def _scores(self, copies: Sequence[Copy], messages: Sequence[bool]) -> Float[Tensor, "copies nodes"]:
        """Score all copies, as many at once as fit the cache."""
        at_once = copies_at_once(copies[0].structure.num_nodes)
        parts = []
        for start in range(0, len(copies), at_once):
            some = copies[start : start + at_once]
            graph = GraphStructure.batch([copy.structure for copy in some])
            proposals = torch.cat([copy.proposals for copy in some])
            fused = torch.cat([copy.fused for copy in some])
            parts.append(self.model.reason(graph, proposals, fused, messages).view(len(some), -1))
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

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps: the banks."""
        return {"features": self.features.state_dict(), "language": self.language.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take over the banks of a checkpoint."""
        self.features.load_state_dict(state["features"])
        self.language.load_state_dict(state["language"])
