"""Alignment of items with sentences other than their own, and the messages of a step."""

import torch
from jaxtyping import Float, Int

from relgrounding.modalities import Batch
from relgrounding.models import Encoded, GroundingModel

MOST_NODES = 8192
"""Maximum number of proposals per pass through the model: more would not fit the processor's cache."""


def align_pairings(
    model: GroundingModel,
    batch: Batch,
    sentences: Int[torch.Tensor, "pairings items"],
    encoded: Encoded | None = None,
) -> Float[torch.Tensor, "pairings items"]:
    """Return the alignment of each item with its sentence in each pairing.

    Args:
        model: any grounding model.
        batch: items and sentences.
        sentences: row k: index of the sentence that each item is paired with.
        encoded: encodings of the batch, if already computed.
    """
    prepared = model.prepare(encoded or model.encode(batch))
    graph = batch.structure if model.relation.has_graph else batch.structure.without_edges()
    flat = sentences.flatten()
    # Pairs are sorted by sentence, so that all items of a sentence attend to its words at once.
    order = flat.argsort(stable=True)
    parts = []
    for pairs in order.split(copies_at_once(batch.structure.num_nodes) * len(batch)):
        items = pairs % len(batch)
        structure = graph.select(items)
        sentence = flat[pairs].repeat_interleave(structure.batch_num_nodes)
        taken = prepared.take(graph.item_nodes(items))
        scores = model.score_pairs(structure, taken, batch.word_lengths, sentence)
        parts.append(model.align(structure, scores))
    return torch.cat(parts).index_select(0, order.argsort()).view(sentences.shape)


def copies_at_once(nodes: int) -> int:
    """Return the number of copies of a batch of `nodes` proposals per pass through the model."""
    return max(1, MOST_NODES // max(1, nodes))


def draw_messages(model: GroundingModel, dropout: float, generator: torch.Generator) -> list[bool]:
    """Draw which relation layers pass messages in a step, independently per layer.

    Args:
        model: any grounding model.
        dropout: probability that a layer passes none.
        generator: source of the randomness, on the CPU.
    """
    return (torch.rand(len(model.relation), generator=generator) >= dropout).tolist()
