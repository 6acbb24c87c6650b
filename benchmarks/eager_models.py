"""VGN and IGN written straight from their equations: the plain eager rendering that `benchmarks.step` compares with.

What a researcher would write in PyTorch without kernels of their own: the proposals of a batch stand in one padded
tensor, the proposal-to-word attention broadcasts to (items, proposals, words, width), a window is pooled by slicing the
clips of all videos at once, messages go edge by edge (the backend `naive`), and autograd does the rest. Each takes its
layers, and with them the names of its parameters, from a model of the library.

All items of a batch have the same number of proposals, and all videos the same windows: no padding of proposals has to
be masked here, which is to the advantage of this rendering.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from relgrounding.modalities import Batch, ImageBatch, VideoBatch
from relgrounding.models import IGN, VGN
from relgrounding.nn import BiGRUEncoder, GatedFusion, ProposalPooling, ProposalToWordAttention


class EagerGRU(nn.Module):
    """Packed bidirectional GRU."""

    def __init__(self, encoder: BiGRUEncoder) -> None:
        super().__init__()
        self.gru = encoder.gru

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return (items, length, 2 x hidden) of x (items, length, input)."""
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class EagerPooling(nn.Module):
    """Maximum over each window, one window after another, of all videos at once."""

    def __init__(self, pooling: ProposalPooling) -> None:
        super().__init__()

    def forward(self, clips: Tensor, windows: list[list[int]]) -> Tensor:
        """Return (items, windows, dim) of clips (items, clips, dim)."""
        return torch.stack([clips[:, start:end].max(1).values for start, end in windows], 1)


class EagerAttention(nn.Module):
    """Additive attention of proposals (items, proposals, P) over words (items, words, W)."""

    def __init__(self, attention: ProposalToWordAttention) -> None:
        super().__init__()
        self.proposal, self.word, self.score = attention.proposal, attention.word, attention.score

    def forward(self, proposals: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """Return contexts (items, proposals, W)."""
        pairs = torch.tanh(self.proposal(proposals).unsqueeze(2) + self.word(words).unsqueeze(1))
        padding = torch.arange(words.shape[1], device=words.device) >= lengths.unsqueeze(1)
        logits = self.score(pairs).squeeze(-1).masked_fill(padding.unsqueeze(1), -torch.inf)
        return torch.softmax(logits, -1) @ words


class EagerFusion(nn.Module):
    """Gated fusion."""

    def __init__(self, fusion: GatedFusion) -> None:
        super().__init__()
        self.proposal_gate, self.context_gate = fusion.proposal_gate, fusion.context_gate

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Return [h * sigmoid(W_s c + b_s); c * sigmoid(W_v h + b_v)]."""
        return torch.cat([h * torch.sigmoid(self.context_gate(c)), c * torch.sigmoid(self.proposal_gate(h))], -1)


EAGER = {
    BiGRUEncoder: EagerGRU,
    ProposalPooling: EagerPooling,
    ProposalToWordAttention: EagerAttention,
    GatedFusion: EagerFusion,
}


class EagerModel(nn.Module):
    """What both have in common.

    Args:
        model: with the backend `naive`; its layers are taken over.
    """

    def __init__(self, model: VGN | IGN) -> None:
        super().__init__()
        for name, part in model.named_children():
            self.add_module(name, EAGER[type(part)](part) if type(part) in EAGER else part)

    def __getattr__(self, name: str) -> Any:  # layers, which the type checker does not know
        return super().__getattr__(name)

    def forward(self, batch: Batch, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Return the alignment of each item with its own sentence and with those of `negatives`."""
        proposals = self.proposals(batch)
        words = self.word_encoder(self.embedding(batch.words), batch.word_lengths)
        wrong = [self.align(batch, proposals, words[row], batch.word_lengths[row]) for row in negatives]
        return self.align(batch, proposals, words, batch.word_lengths), torch.stack(wrong)

    def align(self, batch: Batch, h: Tensor, words: Tensor, word_lengths: Tensor) -> Tensor:
        """Return K (items,) of the proposals h (items, proposals, width)."""
        context = self.attention(h, words, word_lengths)
        reasoned = self.reason(batch, h.flatten(0, 1), context.flatten(0, 1))
        return self.aggregate(torch.sigmoid(self.score(reasoned)).squeeze(-1), batch.structure.batch_num_nodes)

    def proposals(self, batch: Any) -> Tensor:
        """Return (items, proposals, width)."""
        raise NotImplementedError

    def reason(self, batch: Any, h: Tensor, context: Tensor) -> Tensor:
        """Return what is scored of each proposal, from the proposals and their contexts (nodes, width)."""
        raise NotImplementedError


class EagerVGN(EagerModel):
    """See `relgrounding.models.VGN`."""

    def proposals(self, batch: VideoBatch) -> Tensor:
        """See `EagerModel`."""
        windows = batch.spans[: len(batch.spans) // len(batch)].tolist()
        return self.pooling(self.clip_encoder(batch.clips, batch.clip_lengths), windows)

    def reason(self, batch: VideoBatch, h: Tensor, context: Tensor) -> Tensor:
        """See `EagerModel`."""
        p = self.fusion(h, context)
        for layer in self.relation:
            p = nn.functional.elu(layer(batch.structure, p))
        return p


class EagerIGN(EagerModel):
    """See `relgrounding.models.IGN`."""

    def proposals(self, batch: ImageBatch) -> Tensor:
        """See `EagerModel`."""
        return torch.cat([batch.regions, batch.places], -1).unflatten(0, (len(batch), -1))

    def reason(self, batch: ImageBatch, h: Tensor, context: Tensor) -> Tensor:
        """See `EagerModel`."""
        x = self.fusion(torch.cat([h, context], -1))
        for layer in self.relation:
            x = layer(batch.structure, x)
        return torch.cat([x, self.position(batch.places)], -1)
