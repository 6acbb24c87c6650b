"""VGN and IGN written straight from their equations: the plain eager rendering that `benchmarks.step` compares with.

What a researcher would write in PyTorch without kernels of their own: the proposals of a batch stand in one padded
tensor, the proposal-to-word attention broadcasts to (items, proposals, words, width), a window is pooled by slicing the
clips of all videos at once, messages go edge by edge through gather and scatter, and autograd does the rest. Parameters
have the names of `relgrounding.models`, so that both load the same weights.

Where PyTorch offers two plain ways, the faster one on a CPU is taken (`index_select`, whose gradient is cheaper than
that of indexing). All items of a batch have the same number of proposals, and all videos the same windows: no padding
of proposals has to be masked here, which is to the advantage of this rendering.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from relgrounding.config import ModelConfig
from relgrounding.modalities._batches import ImageBatch, VideoBatch


class EagerGRU(nn.Module):
    """Packed bidirectional GRU."""

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_dim, hidden_dim, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return (items, length, 2 x hidden) of x (items, length, input)."""
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class EagerPooling(nn.Module):
    """Maximum over each window, one window after another, of all videos at once."""

    def forward(self, clips: Tensor, windows: list[list[int]]) -> Tensor:
        """Return (items, windows, dim) of clips (items, clips, dim)."""
        return torch.stack([clips[:, start:end].max(1).values for start, end in windows], 1)


class EagerAttention(nn.Module):
    """Additive attention of proposals (items, proposals, P) over words (items, words, W)."""

    def __init__(self, proposal_dim: int, word_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.proposal = nn.Linear(proposal_dim, hidden_dim)
        self.word = nn.Linear(word_dim, hidden_dim, bias=False)
        self.score = nn.Linear(hidden_dim, 1, bias=False)

    def forward(self, proposals: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """Return contexts (items, proposals, W)."""
        pairs = torch.tanh(self.proposal(proposals).unsqueeze(2) + self.word(words).unsqueeze(1))
        padding = torch.arange(words.shape[1], device=words.device) >= lengths.unsqueeze(1)
        logits = self.score(pairs).squeeze(-1).masked_fill(padding.unsqueeze(1), -torch.inf)
        return torch.softmax(logits, -1) @ words


class EagerFusion(nn.Module):
    """Gated fusion."""

    def __init__(self, proposal_dim: int, context_dim: int) -> None:
        super().__init__()
        self.proposal_gate = nn.Linear(proposal_dim, context_dim)
        self.context_gate = nn.Linear(context_dim, proposal_dim)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Return [h * sigmoid(W_s c + b_s); c * sigmoid(W_v h + b_v)]."""
        return torch.cat([h * torch.sigmoid(self.context_gate(c)), c * torch.sigmoid(self.proposal_gate(h))], -1)


class EagerGraphAttention(nn.Module):
    """Multi-head graph attention, edge by edge."""

    def __init__(self, in_dim: int, out_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.attention = nn.Parameter(torch.empty(2, heads, out_dim // heads))
        self.bias = nn.Parameter(torch.empty(out_dim))

    def forward(self, src: Tensor, dst: Tensor, x: Tensor) -> Tensor:
        """Return (nodes, out_dim) of x (nodes, in_dim)."""
        feat = self.linear(x).view(len(x), self.heads, -1)
        score_src, score_dst = ((feat * a).sum(-1) for a in self.attention)
        logits = nn.functional.leaky_relu(score_src.index_select(0, src) + score_dst.index_select(0, dst), 0.2)
        index = dst.unsqueeze(1).expand_as(logits)
        with torch.no_grad():
            largest = torch.full_like(score_dst, -torch.inf).scatter_reduce(0, index, logits, "amax")
        weight = torch.exp(logits - largest.index_select(0, dst))
        total = torch.zeros_like(score_dst).index_add(0, dst, weight)
        alpha = weight / total.index_select(0, dst)
        messages = alpha.unsqueeze(-1) * feat.index_select(0, src)
        return torch.zeros_like(feat).index_add(0, dst, messages).flatten(1) + self.bias


class EagerGatedMessages(nn.Module):
    """One direction of the edge-gated convolution, edge by edge."""

    def __init__(self, in_dim: int, out_dim: int, num_types: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.gate = nn.Linear(in_dim, 1, bias=False)
        self.gate_bias = nn.Parameter(torch.empty(num_types))
        self.type_bias = nn.Parameter(torch.empty(num_types, out_dim))

    def forward(self, src: Tensor, dst: Tensor, etype: Tensor, x: Tensor) -> Tensor:
        """Return (nodes, out_dim) of x (nodes, in_dim)."""
        feat, gate = self.linear(x), self.gate(x)
        open_ = torch.sigmoid(gate.index_select(0, src) + self.gate_bias.index_select(0, etype).unsqueeze(1))
        messages = open_ * (feat.index_select(0, src) + self.type_bias.index_select(0, etype))
        return torch.zeros_like(feat).index_add(0, dst, messages)


class EagerEdgeGatedGCN(nn.Module):
    """Messages along both directions of the edges and the node itself."""

    def __init__(self, in_dim: int, out_dim: int, num_types: int) -> None:
        super().__init__()
        self.in_edges = EagerGatedMessages(in_dim, out_dim, num_types)
        self.out_edges = EagerGatedMessages(in_dim, out_dim, num_types)
        self.self_loop = nn.Linear(in_dim, out_dim)

    def forward(self, src: Tensor, dst: Tensor, etype: Tensor, x: Tensor) -> Tensor:
        """Return (nodes, out_dim) of x (nodes, in_dim)."""
        return torch.relu(self.in_edges(src, dst, etype, x) + self.out_edges(dst, src, etype, x) + self.self_loop(x))


def eager_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors of one of our models, weights or gradients, as the eager rendering does.

    `EdgeGatedGCN` keeps the weights of both directions in one tensor each, W_in, W_out, W_self, w_in, w_out.
    """
    named = {}
    for name, value in tensors.items():
        layer, _, part = name.rpartition(".")
        if not (layer.startswith("relation.") and f"{layer}.type_bias" in tensors):
            named[name] = value
        elif part == "weight":
            width = tensors[f"{layer}.bias"].shape[0]
            places = ("in_edges.linear", "out_edges.linear", "self_loop", "in_edges.gate", "out_edges.gate")
            named |= {f"{layer}.{k}.weight": v for k, v in zip(places, value.split([width] * 3 + [1, 1]), strict=True)}
        elif part == "bias":
            named[f"{layer}.self_loop.bias"] = value
        else:
            named |= {f"{layer}.{k}.{part}": v for k, v in zip(("in_edges", "out_edges"), value, strict=True)}
    return named


class EagerTopR(nn.Module):
    """Mean of the R highest scores of each item (items, proposals)."""

    def __init__(self, r: int) -> None:
        super().__init__()
        self.r = r

    def forward(self, scores: Tensor) -> Tensor:
        """Return (items,)."""
        return scores.topk(min(self.r, scores.shape[1]), 1).values.mean(1)


class EagerVGN(nn.Module):
    """See `relgrounding.models.VGN`."""

    def __init__(self, config: ModelConfig, feature_dim: int, embedding: nn.Module, word_dim: int) -> None:
        super().__init__()
        width = 2 * config.hidden
        self.embedding = embedding
        self.clip_encoder = EagerGRU(feature_dim, config.hidden)
        self.word_encoder = EagerGRU(word_dim, config.hidden)
        self.pooling = EagerPooling()
        self.attention = EagerAttention(width, width, config.attention_dim)
        self.fusion = EagerFusion(width, width)
        widths = [2 * width] + [config.relation_dim] * config.relation_layers
        self.relation = nn.ModuleList(EagerGraphAttention(m, n, config.heads) for m, n in pairwise(widths))
        self.score = nn.Linear(config.relation_dim, 1)
        self.aggregate = EagerTopR(config.top_r)

    def forward(self, batch: VideoBatch, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Return the alignment of each video with its own sentence and with those of `negatives`."""
        windows = batch.spans[: len(batch.spans) // len(batch)].tolist()
        proposals = self.pooling(self.clip_encoder(batch.clips, batch.clip_lengths), windows)
        words = self.word_encoder(self.embedding(batch.words), batch.word_lengths)
        wrong = [self.align(batch, proposals, words[row], batch.word_lengths[row]) for row in negatives]
        return self.align(batch, proposals, words, batch.word_lengths), torch.stack(wrong)

    def align(self, batch: VideoBatch, h: Tensor, words: Tensor, word_lengths: Tensor) -> Tensor:
        """Return K (items,) of the proposals h (items, proposals, width)."""
        p = self.fusion(h, self.attention(h, words, word_lengths)).flatten(0, 1)
        for layer in self.relation:
            p = nn.functional.elu(layer(batch.structure.indices, batch.structure.destinations, p))
        return self.aggregate(torch.sigmoid(self.score(p)).view(len(h), -1))


class EagerIGN(nn.Module):
    """See `relgrounding.models.IGN`."""

    def __init__(self, config: ModelConfig, feature_dim: int, embedding: nn.Module, word_dim: int, types: int) -> None:
        super().__init__()
        region_dim, sentence_dim = feature_dim + 4, 2 * config.hidden
        self.embedding = embedding
        self.word_encoder = EagerGRU(word_dim, config.hidden)
        self.attention = EagerAttention(region_dim, sentence_dim, config.attention_dim)
        self.fusion = nn.Linear(region_dim + sentence_dim, config.fusion_dim)
        widths = [config.fusion_dim] + [config.relation_dim] * config.relation_layers
        self.relation = nn.ModuleList(EagerEdgeGatedGCN(m, n, types) for m, n in pairwise(widths))
        self.position = nn.Linear(4, config.position_dim)
        self.score = nn.Linear(config.relation_dim + config.position_dim, 1)
        self.aggregate = EagerTopR(config.top_r)

    def forward(self, batch: ImageBatch, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Return the alignment of each image with its own sentence and with those of `negatives`."""
        regions = torch.cat([batch.regions, batch.places], -1).view(len(batch), -1, batch.regions.shape[1] + 4)
        words = self.word_encoder(self.embedding(batch.words), batch.word_lengths)
        wrong = [self.align(batch, regions, words[row], batch.word_lengths[row]) for row in negatives]
        return self.align(batch, regions, words, batch.word_lengths), torch.stack(wrong)

    def align(self, batch: ImageBatch, h: Tensor, words: Tensor, word_lengths: Tensor) -> Tensor:
        """Return K (items,) of the regions h (items, regions, width)."""
        structure = batch.structure
        x = self.fusion(torch.cat([h, self.attention(h, words, word_lengths)], -1)).flatten(0, 1)
        for layer in self.relation:
            x = layer(structure.indices, structure.destinations, structure.etype, x)
        p = torch.cat([x, self.position(batch.places)], -1)
        return self.aggregate(torch.sigmoid(self.score(p)).view(len(h), -1))
