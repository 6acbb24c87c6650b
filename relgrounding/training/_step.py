"""One training step: pairings, loss, learning rate."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from relgrounding.config import TrainConfig
from relgrounding.modalities._batches import Batch
from relgrounding.models import IGN, VGN, Encoded
from relgrounding.objectives import contrastive_loss, draw_negatives, mil_loss

MOST_NODES = 8192
"""Pairings of a batch go through the model together up to so many proposals: more would leave the processor's cache."""


def mil_step(model: VGN | IGN, batch: Batch, config: TrainConfig, generator: torch.Generator) -> torch.Tensor:
    """Return the MIL loss of one batch, on the device that holds it."""
    own_sentence = torch.arange(len(batch), device=batch.words.device)
    negatives = draw_pairings(batch, config, generator)
    messages = draw_messages(model, config, generator)
    alignment = align_pairings(model, batch, torch.cat([own_sentence[None], negatives]), messages)
    return pairing_loss(batch, alignment[0], alignment[1:], negatives, config)


def draw_pairings(batch: Batch, config: TrainConfig, generator: torch.Generator) -> Int[torch.Tensor, "pairings items"]:
    """Draw the wrong sentences of each item."""
    negatives = draw_negatives(len(batch), config.negatives, batch.group.cpu(), generator)
    return negatives.to(batch.words.device)


def draw_messages(model: VGN | IGN, config: TrainConfig, generator: torch.Generator) -> list[bool]:
    """Draw which relation layers pass messages, each layer on its own.

    What a proposal hears from its neighbours must then be clear after one hop, at itself.
    """
    return (torch.rand(len(model.relation), generator=generator) >= config.message_dropout).tolist()


def pairing_loss(
    batch: Batch,
    own: Float[torch.Tensor, " items"],
    wrong: Float[torch.Tensor, "pairings items"],
    negatives: Int[torch.Tensor, "pairings items"],
    config: TrainConfig,
) -> torch.Tensor:
    """Return the MIL loss of alignments with the right and with the wrong sentences."""
    valid = (batch.item[negatives] != batch.item) & (batch.text[negatives] != batch.text)
    if config.loss == "hinge":
        return mil_loss(own, wrong, negatives, valid, config.margin)
    return contrastive_loss(own, wrong, negatives, valid, config.temperature)


def align_pairings(
    model: VGN | IGN,
    batch: Batch,
    sentences: Int[torch.Tensor, "pairings items"],
    messages: Sequence[bool] | None = None,
    encoded: Encoded | None = None,
) -> Float[torch.Tensor, "pairings items"]:
    """Return the alignment of each item with the sentence that each pairing gives it.

    Args:
        model: VGN or IGN.
        batch: items and sentences.
        sentences: row k: the sentence that each item is paired with.
        messages: see `TrainConfig.message_dropout`; None: all are passed.
        encoded: of the batch, where it is there already.
    """
    prepared = model.prepare(encoded or model.encode(batch))  # type: ignore[arg-type]
    graph = batch.structure if model.has_graph else batch.structure.without_edges()
    flat = sentences.flatten()
    # Pairs of one sentence stand together: its words are attended by all of them at once.
    order = flat.argsort(stable=True)
    parts = []
    for pairs in order.split(copies_at_once(batch.structure.num_nodes) * len(batch)):
        items = pairs % len(batch)
        structure = graph.select(items)
        sentence = flat[pairs].repeat_interleave(structure.batch_num_nodes)
        taken = prepared.take(graph.item_nodes(items))
        scores = model.score_pairs(structure, taken, batch.word_lengths, sentence, messages)
        parts.append(model.align(structure, scores))
    return torch.cat(parts).index_select(0, order.argsort()).view(sentences.shape)


def copies_at_once(nodes: int) -> int:
    """Return how many copies of a batch of so many proposals go through the model together."""
    return max(1, MOST_NODES // max(1, nodes))


def learning_rate_factor(step: int, warmup: int, total: int) -> float:
    """Return the share of the learning rate at a step: linear from 0 over the warm-up, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
