"""One training step: pairings, loss, learning rate."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from relgrounding.config import TrainConfig
from relgrounding.data.batches import Batch
from relgrounding.models import IGN, VGN
from relgrounding.objectives import contrastive_loss, draw_negatives, mil_loss

MOST_NODES = 8192
"""Pairings of a batch go through the model together up to so many proposals: more would leave the processor's cache."""


def mil_step(model: VGN | IGN, batch: Batch, config: TrainConfig, generator: torch.Generator) -> torch.Tensor:
    """Return the MIL loss of one batch, on the device that holds it."""
    negatives = draw_negatives(len(batch), config.negatives, batch.group.cpu(), generator).to(batch.words.device)
    own_sentence = torch.arange(len(batch), device=negatives.device)
    # Each layer on its own: what a proposal hears from its neighbours must then be clear after one hop, at itself.
    messages = (torch.rand(len(model.relation), generator=generator) >= config.message_dropout).tolist()
    alignment = align_pairings(model, batch, torch.cat([own_sentence[None], negatives]), messages)
    own, wrong = alignment[0], alignment[1:]
    valid = (batch.item[negatives] != batch.item) & (batch.text[negatives] != batch.text)
    if config.loss == "hinge":
        return mil_loss(own, wrong, negatives, valid, config.margin)
    return contrastive_loss(own, wrong, negatives, valid, config.temperature)


def align_pairings(
    model: VGN | IGN,
    batch: Batch,
    sentences: Int[torch.Tensor, "pairings items"],
    messages: Sequence[bool] | None = None,
) -> Float[torch.Tensor, "pairings items"]:
    """Return the alignment of each item with the sentence that each pairing gives it."""
    proposals, words = model.encode(batch)  # type: ignore[arg-type]
    at_once = max(1, MOST_NODES // max(1, batch.structure.num_nodes))
    parts = []
    for rows in sentences.split(at_once):
        structure = batch.structure
        if len(rows) > 1:
            structure = structure.select(torch.arange(len(batch), device=rows.device).repeat(len(rows)))
        flat = rows.flatten()
        repeated = proposals.repeat(len(rows), 1)
        scores = model.pair(structure, repeated, words[flat], batch.word_lengths[flat], messages)
        parts.append(model.align(structure, scores).view(len(rows), -1))
    return torch.cat(parts)


def learning_rate_factor(step: int, warmup: int, total: int) -> float:
    """Return the share of the learning rate at a step: linear from 0 over the warm-up, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
