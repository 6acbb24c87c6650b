"""Alignment of items with sentences other than their own, also those of other processes; the messages of a step."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from relgrounding._host import on_host, to_device
from relgrounding._ranks import all_rows, rank, sum_rows
from relgrounding.modalities import Batch
from relgrounding.models import Encoded, GroundingModel

MOST_NODES = 8192
"""Maximum number of proposals per pass through the model: more would not fit the processor's cache."""


def align_pairings(
    model: GroundingModel,
    batch: Batch,
    sentences: Int[torch.Tensor, "pairings items"],
    encoded: Encoded | None = None,
    word_lengths: Int[torch.Tensor, " sentences"] | None = None,
) -> Float[torch.Tensor, "pairings items"]:
    """Return the alignment of each item with its sentence in each pairing.

    Args:
        model: any grounding model.
        batch: items and sentences.
        sentences: row k: index of the sentence that each item is paired with.
        encoded: encodings of the batch, if already computed; its sentences may be others.
        word_lengths: numbers of words of the encoded sentences; None: those of the batch.
    """
    lengths = batch.word_lengths if word_lengths is None else word_lengths
    prepared = model.prepare(encoded or model.encode(batch))
    graph = batch.structure if model.relation.has_graph else batch.structure.without_edges()
    device, sentences = graph.device, on_host(sentences)
    flat = sentences.flatten()
    # Pairs are sorted by sentence, so that all items of a sentence attend to its words at once.
    order = flat.argsort(stable=True)
    parts = []
    for pairs in order.split(copies_at_once(batch.structure.num_nodes) * len(batch)):
        items = pairs % len(batch)
        structure, nodes = graph.select_with_nodes(items)
        sentence = flat[pairs].repeat_interleave(on_host(structure.batch_num_nodes))
        taken = prepared.take(nodes)
        scores = model.score_pairs(structure, taken, lengths, to_device(sentence, device))
        parts.append(model.align(structure, scores))
    return torch.cat(parts).index_select(0, to_device(order.argsort(), device)).view(sentences.shape)


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


@dataclass
class Whole:
    """The items of a batch, or of the batches of all processes where `Batch.counts` says so.

    Attributes:
        item: id of the image or video of each, see `Batch`.
        text: likewise.
        group: likewise.
        block: likewise.
        word_lengths: likewise.
        own: which of them are those of this process.
    """

    item: Int[torch.Tensor, " items"]
    text: Int[torch.Tensor, " items"]
    group: Int[torch.Tensor, " items"]
    block: Int[torch.Tensor, " items"]
    word_lengths: Int[torch.Tensor, " items"]
    own: slice

    @classmethod
    def of(cls, batch: Batch) -> "Whole":
        """Return the items that negatives of a batch come from."""
        device = batch.item.device
        facts = [batch.item, batch.text, batch.group.to(device), batch.block.to(device), batch.word_lengths]
        start = 0
        if batch.counts:
            facts = list(all_rows(torch.stack(facts, 1), batch.counts).unbind(1))
            start = sum(batch.counts[: rank()])
        item, text, group, block, lengths = facts
        return cls(item, text, group, block, lengths, slice(start, start + len(batch)))

    def __len__(self) -> int:
        return len(self.item)


def align_whole(
    model: GroundingModel, batch: Batch, whole: Whole, sentences: Int[torch.Tensor, "pairings items"]
) -> Float[torch.Tensor, "pairings items"]:
    """Return the alignment of each item of all processes with its sentence in each pairing, as `align_pairings`.

    A process encodes its own sentences and aligns its own items; sentences and alignments travel, with their gradients.

    Args:
        model: any grounding model.
        batch: items and sentences of this process.
        whole: those of all.
        sentences: row k: index of the sentence that each item is paired with, equal in all processes.
    """
    if not batch.counts:
        return align_pairings(model, batch, sentences)
    proposals, words = model.encode(batch)
    padding = int(whole.word_lengths.max()) - words.shape[1]
    words = _Gathered.apply(torch.nn.functional.pad(words, (0, 0, 0, padding)), batch.counts)
    encoded = Encoded(proposals, words)
    aligned = align_pairings(model, batch, sentences[:, whole.own], encoded, whole.word_lengths)
    return _Gathered.apply(aligned.T.contiguous(), batch.counts).T


class _Gathered(torch.autograd.Function):
    """Rows of all processes by rank; the gradient of each row is the sum of those in all processes."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: tuple[int, ...]) -> torch.Tensor:
        ctx.start, ctx.count = sum(counts[: rank()]), len(rows)
        return all_rows(rows, counts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return sum_rows(gradient)[ctx.start : ctx.start + ctx.count], None
