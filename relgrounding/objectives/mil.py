"""Multiple-instance learning from pairs, with in-batch negative items and sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relgrounding._host import on_host, to_device
from relgrounding._printing import get_logger
from relgrounding._settings import ConfigError, number
from relgrounding.modalities import Batch
from relgrounding.models import GroundingModel, System
from relgrounding.nn._precision import widened
from relgrounding.objectives._objective import Objective, register_objective
from relgrounding.objectives._pairings import Whole, align_whole, draw_messages

logger = get_logger("relgrounding.objectives")


@dataclass
class MILConfig:
    """Settings of multiple-instance learning."""

    loss: Literal["hinge", "contrastive"] = "hinge"
    """The paper's hinge loss against each negative, or the cross-entropy of the right pair among all negatives."""
    margin: float = number(0.2, least=0)
    """Margin of the hinge loss, in units of the alignment score (0 to 1)."""
    temperature: float = number(1.0, above=0)
    """Temperature of the cross-entropy."""
    negatives: int = number(1, least=1, most=100_000)
    """Number of negatives from the batch for each query and for each item."""
    hard_negatives: int = number(0, least=0, most=100_000)
    """How many of `negatives` come from the query's own block (`data.block_by`); the others then come from elsewhere in
    the batch."""
    message_dropout: float = number(0.0, least=0, below=1)
    """Share of the steps in which a relation layer passes no messages, drawn independently per layer. Scores then stay
    local to a proposal and its direct neighbours; otherwise all proposals share the same evidence and score alike."""


@register_objective("mil")
class MIL(Objective):
    """Contrast the alignment of an item and its sentence with those of wrong pairs; see `mil_loss`."""

    Config = MILConfig
    model: GroundingModel

    def __init__(self, model: GroundingModel, settings: Mapping[str, Any], generator: torch.Generator) -> None:
        super().__init__(model, settings, generator)
        loud = [type(layer).__name__ for layer in getattr(model, "relation", ()) if not hasattr(layer, "silent")]
        if self.config.message_dropout and loud:
            logger.warning("mil.message_dropout does nothing to %s, which has no method `silent`", loud[0])

    @classmethod
    def check(cls, settings: Mapping[str, Any], model: Any, system: type[System]) -> None:
        if not issubclass(system, GroundingModel):
            raise ConfigError(
                f"mil pairs items with other sentences, which needs a GroundingModel; {system.name} is not one"
            )
        mil = settings["mil"]
        if mil.hard_negatives > mil.negatives:
            raise ConfigError(
                f"mil.hard_negatives is {mil.hard_negatives}, but mil.negatives, which includes them, {mil.negatives}"
            )

    @classmethod
    def gathers(cls, config: MILConfig) -> bool:
        return True

    @classmethod
    def needs_blocks(cls, config: MILConfig) -> bool:
        return bool(config.hard_negatives)

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and no values to log.

        With `Batch.counts` it is that of the items of all processes, divided by this one's share of them times their
        number: the mean over processes, weighted by their items, is the loss of all items.
        """
        whole = Whole.of(batch)
        negatives = self.draw_negatives(whole)
        sentences = torch.cat([torch.arange(len(whole))[None], on_host(negatives)])
        with self.model.relation.passing(self.draw_messages()):
            alignment = align_whole(self.model, batch, whole, sentences)
        loss = self.pairing_loss(whole, alignment[0], alignment[1:], negatives)
        return (loss * (len(whole) / (len(batch) * len(batch.counts))) if batch.counts else loss), {}

    def draw_negatives(self, batch: Batch | Whole) -> Int[Tensor, "pairings items"]:
        """Draw the negative sentences of each item."""
        config, group, block = self.config, on_host(batch.group), on_host(batch.block)
        drawn = draw_negatives(len(batch), config.negatives, group, self.generator, block, config.hard_negatives)
        return to_device(drawn, batch.item.device)

    def draw_messages(self) -> list[bool]:
        """Draw which relation layers pass messages, independently per layer."""
        return draw_messages(self.model, self.config.message_dropout, self.generator)

    def pairing_loss(
        self,
        batch: Batch | Whole,
        own: Float[Tensor, " items"],
        wrong: Float[Tensor, "pairings items"],
        negatives: Int[Tensor, "pairings items"],
    ) -> Tensor:
        """Return the loss of the alignments with the right and the wrong sentences."""
        valid = (batch.item[negatives] != batch.item) & (batch.text[negatives] != batch.text)
        own, wrong = widened(own), widened(wrong)
        if self.config.loss == "hinge":
            return mil_loss(own, wrong, negatives, valid, self.config.margin)
        return contrastive_loss(own, wrong, negatives, valid, self.config.temperature)


def draw_negatives(
    batch_size: int,
    count: int,
    group: Int[Tensor, " items"],
    generator: torch.Generator | None = None,
    block: Int[Tensor, " items"] | None = None,
    hard: int = 0,
) -> Int[Tensor, "draws items"]:
    """Draw `count` permutations that pair every item of a batch with the sentence of another item.

    If a batch holds groups of two (minimal pairs), the first permutation swaps the two. The next `hard` are cyclic
    shifts within each block of similar items, by random distances that differ from row to row. All others are cyclic
    shifts of the batch by distinct random distances; with `hard`, those that pair the fewest items of the same block.
    A permutation gives both kinds of negatives at once: a wrong sentence for each item and a wrong item for each
    sentence.

    Args:
        batch_size: number of items, 2 or more.
        count: number of permutations, all different; a batch of B has B - 1 shifts, and no more are drawn.
        group: (items,) id of the group of each item, -1 for none.
        generator: source of the randomness, on the CPU.
        block: (items,) id of the block of each item, -1 for none; only read with `hard`.
        hard: number of permutations within blocks, at most `count`.

    Returns:
        (draws, items) int64, row k: index of the sentence of each item. No item keeps its own sentence, except items
        without a partner in the row of swaps, and in rows within blocks items of blocks with fewer others than rows.

    Raises:
        ValueError: fewer than two items.
    """
    if batch_size < 2:
        raise ValueError(f"a batch of {batch_size} has no negatives; use batches of 2 or more")
    index = torch.arange(batch_size)
    block = None if block is None or not hard else block.cpu()
    rows: list[Tensor] = []
    if bool((group >= 0).any()):
        rows.append(_swap_groups(group.cpu(), index))
    if block is not None:
        within = _shift_blocks(block, min(hard, count - len(rows)), generator)
        rows.extend(row for row in within if not any(row.equal(other) for other in rows))
    shifts = torch.randperm(batch_size - 1, generator=generator) + 1
    if block is not None:
        partners = block[(index + shifts[:, None]) % batch_size]
        shifts = shifts[((partners == block) & (partners >= 0)).sum(1).argsort(stable=True)]
    if rows:  # one of them may be a shift of the batch
        is_row = [((shifts[:, None] + index) % batch_size == row).all(1) for row in rows]
        shifts = shifts[~torch.stack(is_row).any(0)]
    shifted = (index + shifts[: max(count - len(rows), 0), None]) % batch_size
    return torch.cat([torch.stack(rows), shifted]) if rows else shifted


def _shift_blocks(block: Int[Tensor, " items"], count: int, generator: torch.Generator | None) -> list[Tensor]:
    """Return cyclic shifts within each block, whose distances differ; items without a block, or another shift, stay."""
    ids, number, size = torch.unique(block, return_inverse=True, return_counts=True)
    others = torch.where(ids < 0, 0, size - 1)
    most = int(others.max())
    draw = torch.rand(len(ids), most, generator=generator)
    beyond = torch.arange(most) >= others[:, None]
    distance = (draw.masked_fill(beyond, 2.0).argsort(1) + 1).masked_fill(beyond, 0)
    order = block.argsort(stable=True)
    first = (size.cumsum(0) - size)[number]
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order))) - first
    return [order[first + (place + shift[number]) % size[number]] for shift in distance.T[:count]]


def _swap_groups(group: Int[Tensor, " items"], index: Int[Tensor, " items"]) -> Int[Tensor, " items"]:
    """Return the cyclic shift within each group; items without a group stay."""
    order = torch.argsort(group, stable=True)
    ordered = group[order]
    first = torch.searchsorted(ordered, ordered, right=False)
    last = torch.searchsorted(ordered, ordered, right=True)
    following = torch.where(index + 1 < last, index + 1, first)
    swapped = torch.empty_like(index)
    swapped[order] = order[following]
    return torch.where(group >= 0, swapped, index)


def mil_loss(
    own: Float[Tensor, " items"],
    wrong: Float[Tensor, "draws items"],
    negatives: Int[Tensor, "draws items"],
    valid: Bool[Tensor, "draws items"],
    margin: float,
) -> Float[Tensor, ""]:
    """Hinge loss of each pair against a wrong sentence and against a wrong item.

        L = mean over valid (k, b) of  [m - K(v_b, s_b) + K(v_b, s_q)]_+  +  [m - K(v_q, s_q) + K(v_b, s_q)]_+

    with q = negatives[k, b]: the first term contrasts sentences for one item, the second items for one sentence.

    Args:
        own: K(v_b, s_b), from 0 to 1.
        wrong: K(v_b, s_q), from 0 to 1.
        negatives: q; see `draw_negatives`.
        valid: False if pair q has the same item or the same sentence as b and is therefore not a negative.
        margin: m, from 0 to 1.

    Returns:
        The loss; 0 (with zero gradient) if no pair is valid.
    """
    for_sentence = (margin - own + wrong).clamp_min(0)
    # Not `own[negatives]`: the order in which its gradient is summed depends on the threads.
    for_item = (margin - own.expand_as(negatives).gather(1, negatives) + wrong).clamp_min(0)
    return ((for_sentence + for_item) * valid).sum() / valid.sum().clamp_min(1)


def contrastive_loss(
    own: Float[Tensor, " items"],
    wrong: Float[Tensor, "draws items"],
    negatives: Int[Tensor, "draws items"],
    valid: Bool[Tensor, "draws items"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of the right pair among the wrong ones, over the sentences of an item and the items of a sentence.

        z(K) = log(K / (1 - K)) / T
        L = - mean over b of  log softmax of z(K(v_b, s_b)) among z(K(v_b, s_q)), all k
            - mean over b of  log softmax of z(K(v_b, s_b)) among z(K(v_a, s_b)), all k

    with q = negatives[k, b] and a the item that draw k pairs with sentence b.

    Args:
        own: K(v_b, s_b), from 0 to 1.
        wrong: K(v_b, s_q), from 0 to 1.
        negatives: q; see `draw_negatives`.
        valid: False if a pair is not a negative: it is left out of the softmax.
        temperature: T, above 0.

    Returns:
        The sum of both terms; 0 if no pair is valid.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, equation 4.
    """
    # In a shorter type, 1 - 1e-6 is 1.
    own, wrong = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (own, wrong))
    right = torch.logit(own, 1e-6) / temperature
    others = (torch.logit(wrong, 1e-6) / temperature).masked_fill(~valid, -torch.inf)
    by_sentence = torch.empty_like(others).scatter(1, negatives, others)
    sentences = torch.logsumexp(torch.cat([right[None], others]), 0) - right
    items = torch.logsumexp(torch.cat([right[None], by_sentence]), 0) - right
    return sentences.mean() + items.mean()
