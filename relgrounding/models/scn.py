"""SCN: semantic completion network, which grounds a sentence by completing it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from relgrounding._settings import ConfigError, number
from relgrounding.features.vocabulary import UNKNOWN
from relgrounding.modalities import VideoBatch
from relgrounding.models._system import WIDEST, System, first_weight, register_model
from relgrounding.nn import DecoderStack, ProposalPooling, sinusoidal_positions
from relgrounding.nn._precision import precise_linear, widened


@dataclass
class SCNConfig:
    """Settings of SCN; the defaults are those of its paper."""

    relation: ClassVar[str] = ""

    name: str = "scn"
    """Name of the system."""
    word_dim: int = number(300, least=1, most=WIDEST)
    """Width of word vectors trained from scratch; pretrained vectors keep theirs."""
    width: int = number(256, least=2, most=WIDEST)
    """Width of both stacks of decoder layers; even, and a multiple of `heads`."""
    layers: int = number(3, least=1, most=1000)
    """Decoder layers of each stack."""
    heads: int = number(4, least=1, most=WIDEST)
    """Attention heads of a layer."""
    feed_forward: int = number(512, least=1, most=WIDEST)
    """Hidden units of a layer's feed-forward part."""
    dropout: float = number(0.1, least=0, below=1)
    """Share of the features set to zero in training."""
    windows: int = number(8, least=1, most=1000)
    """K: the candidates are the windows that end with each clip, of widths i/K of the video, i = 1 to K; `data.widths`
    and `data.stride` are not read."""
    window_clips: int = number(16, least=1, most=100_000)
    """Clips sampled evenly from a window from which a sentence is completed."""
    parts: int = number(0, least=0, most=10_000)
    """How windows are compared. 0: by completion from each, as in the paper. Otherwise by completion from this many
    parts of the video, see `SCN.part_losses`; for videos of 32 clips, 15 parts have 4 clips each."""
    part_clips: int = number(4, least=1, most=100_000)
    """With parts: clips sampled evenly from each."""
    contrast: float = number(0.3, least=0, most=1)
    """With parts: c, the share of the loss around a window that is subtracted from the loss inside. With 0 the shortest
    windows are best; the higher c, the longer are the best ones."""
    context: float = number(0.5, above=0, most=100)
    """With parts: how far the surroundings extend on each side, as a share of the width of the window."""
    answer_by: Literal["score", "completion"] = "score"
    """What answers are chosen by. score: the score that is learned from rewards, as in the paper; completion: how well
    the sentence, no word of it masked, can be completed from the parts."""


@register_model("scn")
class SCN(System):
    """Score windows of videos for sentences, and complete masked sentences from windows.

    Two stacks of decoder layers, W of words and V of clips (`relgrounding.nn.DecoderStack`), work in both directions
    with the same weights. With e_0 a learned start vector, e_n word vectors and pos_n sinusoidal positions,

        ground:    s = W(W_s e_0..N + pos),   h = V(W_v clips; s),   k_ti = sigmoid(W_k h_t + b_k)_i
        complete:  u = V(W_v clips of a window),   g = W(W_s e'_0..N-1 + pos; u),   logits of word n: W_p g_n-1 + b_p

    where k_ti scores the window of width i/K of the video that ends with clip t, and e' has a learned vector in the
    place of masked words. Both stacks are causal: position t sees positions up to t of its own sequence.

    Args:
        config: sizes.
        feature_dim: width of a clip feature.
        embedding: maps word ids to vectors.
        word_dim: width of the word vectors.
        backend: not read, there are no messages to pass.

    Paper: Lin et al., Weakly-Supervised Video Moment Retrieval via Semantic Completion Network, AAAI 2020.
    """

    Config = SCNConfig
    modality = "video"
    pieces = ("ground", "complete")

    def __init__(
        self, config: SCNConfig, feature_dim: int, embedding: nn.Module, word_dim: int, backend: str = "auto"
    ) -> None:
        super().__init__()
        width = config.width
        self.embedding = embedding
        self.windows, self.window_clips = config.windows, config.window_clips
        self.start, self.mask = nn.Parameter(torch.zeros(word_dim)), nn.Parameter(torch.zeros(word_dim))
        self.clip, self.word = nn.Linear(feature_dim, width), nn.Linear(word_dim, width)
        sizes = config.layers, width, config.heads, config.feed_forward, config.dropout
        self.clip_stack, self.word_stack = DecoderStack(*sizes), DecoderStack(*sizes)
        self.score = nn.Linear(width, config.windows)
        self.predict = nn.Linear(width, embedding.num_embeddings)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(config.dropout)
        self.parts, self.part_clips, self.answer_by = config.parts, config.part_clips, config.answer_by
        self.pooling = ProposalPooling("mean", config.contrast, config.context)

    @classmethod
    def check(cls, config: SCNConfig) -> None:
        if config.answer_by == "completion" and not config.parts:
            raise ConfigError("model.answer_by=completion needs parts to complete sentences from; give model.parts=15")
        if config.parts == 1:
            raise ConfigError("model.parts is 1, and all windows are alike in one part; give 2 or more, or 0")
        if config.width % config.heads or config.width % 2:
            raise ConfigError(
                f"model.width ({config.width}) must be even and a multiple of model.heads ({config.heads})"
            )

    @classmethod
    def graph_options(cls, config: SCNConfig) -> dict[str, Any]:
        return {"shares": config.windows, "iou_threshold": None}

    @classmethod
    def feature_dim(cls, config: SCNConfig, weights: Mapping[str, Tensor]) -> int:
        return first_weight(weights, "clip.weight").shape[1]

    def forward(self, batch: VideoBatch) -> Float[Tensor, " nodes"]:
        """Return the score by which answers are chosen, of every window for the sentence of its video.

        By completion, it is sigmoid(-loss) with the loss of `part_losses`.
        """
        if self.answer_by == "score":
            return self.ground(batch)
        masked = torch.zeros_like(batch.words, dtype=torch.bool)
        return torch.sigmoid(-self.part_losses(batch, batch.spans, batch.structure.node_item, masked))

    def ground(self, batch: VideoBatch) -> Float[Tensor, " nodes"]:
        """Return the score k_ti of every window for the sentence of its video."""
        clips = self.encode_clips(batch)
        words = self.word_stack(self.encode_words(batch))
        # With the start token, a sentence of n words has n + 1 positions.
        there = torch.arange(words.shape[1], device=words.device) <= batch.word_lengths[:, None]
        scores_BTK = torch.sigmoid(precise_linear(self.score, self.clip_stack(clips, words, there)))
        item, (start, end) = batch.structure.node_item, batch.spans.unbind(1)
        # Widths are floor(i T / K): i is K width / T, rounded up.
        column = -(-self.windows * (end - start) // batch.clip_lengths[item]) - 1
        slot = (item * scores_BTK.shape[1] + end - 1) * self.windows + column
        return scores_BTK.flatten().index_select(0, slot)

    def encode_clips(self, batch: VideoBatch) -> Float[Tensor, "items clips width"]:
        """Return what the stack of clips reads."""
        return self.dropout(self.clip(self.dropout(batch.clips)))

    def encode_words(
        self, batch: VideoBatch, masked: Bool[Tensor, "items length"] | None = None
    ) -> Float[Tensor, "items length_plus_one width"]:
        """Return what the stack of words reads: the start token, then the words, some of them masked."""
        vectors = self.embedding(batch.words)
        if masked is not None:
            vectors = torch.where(masked.unsqueeze(2), self.mask, vectors)
        vectors = torch.cat([self.start.expand(len(vectors), 1, -1), vectors], 1)
        mapped = self.word(self.dropout(vectors))
        return self.dropout(mapped + sinusoidal_positions(*mapped.shape[1:]).to(mapped))

    def complete(
        self,
        batch: VideoBatch,
        spans: Int[Tensor, "items windows 2"],
        masked: Bool[Tensor, "items length"],
        count: int | None = None,
    ) -> Float[Tensor, "items windows length width"]:
        """Return what each word is predicted from, for each of some windows; `predict` maps it to logits of words.

        Args:
            batch: videos and sentences.
            spans: (B, K, 2) windows of each video, start and end in clips.
            masked: (B, N), True where a word is hidden.
            count: clips sampled from each window; None: `model.window_clips`.
        """
        items, windows = spans.shape[:2]
        count = self.window_clips if count is None else count
        clips = self.encode_clips(batch)
        rows = sample_clips(spans, count).flatten(1)
        seen = clips.gather(1, rows.unsqueeze(2).expand(-1, -1, clips.shape[2]))
        seen = self.clip_stack(seen.view(items * windows, count, -1))
        words = self.encode_words(batch, masked)[:, :-1].repeat_interleave(windows, 0)
        return self.word_stack(words, seen).view(items, windows, *words.shape[1:])

    def completion_losses(
        self,
        batch: VideoBatch,
        spans: Int[Tensor, "items windows 2"],
        masked: Bool[Tensor, "items length"],
        smoothing: float = 0.0,
        count: int | None = None,
    ) -> Float[Tensor, "items windows"]:
        """Return the mean over the words of the cross-entropy of completing a sentence from each of some windows.

        Args:
            batch: videos and sentences.
            spans: (B, K, 2) windows of each video, start and end in clips.
            masked: (B, N), True where a word is hidden.
            smoothing: share of the target that is spread evenly over the vocabulary.
            count: clips sampled from each window; None: `model.window_clips`.
        """
        hidden = self.complete(batch, spans, masked, count)
        length = torch.arange(masked.shape[1], device=masked.device)
        words = (length < batch.word_lengths[:, None]).unsqueeze(1).expand(hidden.shape[:3])
        # Padding is not predicted: over a large vocabulary that is most of the work.
        logits, target = widened(self.predict(hidden[words])), batch.words.unsqueeze(1).expand_as(words)[words]
        # Words of which only a vector was learned since training, as `Grounder` does, are predicted as unknown ones.
        target = target.masked_fill(target >= logits.shape[1], UNKNOWN)
        each = nn.functional.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
        losses = each.new_zeros(words.shape).masked_scatter(words, each)
        return losses.sum(2) / batch.word_lengths[:, None]

    def part_losses(
        self,
        batch: VideoBatch,
        spans: Int[Tensor, "nodes 2"],
        item: Int[Tensor, " nodes"],
        masked: Bool[Tensor, "items length"],
    ) -> Float[Tensor, " nodes"]:
        """Return the loss of completing sentences from windows, part by part, against what is around them.

        Completion finds the words wherever in a window they happen: windows inside an event and those that are longer
        complete its sentence about as well as the event's own. Here the sentence is completed from each of `parts`
        short windows (`video_parts`) instead. A clip has the mean loss of the parts over it, less that of all clips of
        the video; a window has the mean of its clips minus `contrast` times that of the clips around it
        (`relgrounding.nn.ProposalPooling`).

        Args:
            batch: videos and sentences.
            spans: (N, 2) windows, start and end in clips.
            item: (N,) video of each.
            masked: (B, N), True where a word is hidden.
        """
        parts = video_parts(batch.clip_lengths, self.parts)
        losses = self.completion_losses(batch, parts, masked, count=self.part_clips)
        clips = clip_losses(losses, parts, batch.clip_lengths).unsqueeze(2)
        return self.pooling(clips, spans, item, batch.clip_lengths).squeeze(1)


def sample_clips(spans: Int[Tensor, "*windows 2"], count: int) -> Int[Tensor, "*windows clips"]:
    """Return the clips in the middle of `count` equal parts of windows; those of short windows repeat.

    >>> sample_clips(torch.tensor([[0, 8], [5, 7]]), 4).tolist()
    [[1, 3, 5, 7], [5, 5, 6, 6]]
    """
    start, end = spans.unbind(-1)
    part = 2 * torch.arange(count, device=spans.device) + 1
    return start.unsqueeze(-1) + part * (end - start).unsqueeze(-1) // (2 * count)


def video_parts(lengths: Int[Tensor, " items"], count: int) -> Int[Tensor, "items parts 2"]:
    """Return windows of one width, spread evenly over each video, that overlap by about half.

    In a video of T clips, each of the M parts has ceil(2 T / (M + 1)) clips; no clip is left out.

    Args:
        lengths: T, clips of each video.
        count: M.

    >>> video_parts(torch.tensor([8, 2]), 3).tolist()
    [[[0, 4], [2, 6], [4, 8]], [[0, 1], [0, 1], [1, 2]]]
    """
    width = -(-2 * lengths // (count + 1))
    start = torch.arange(count, device=lengths.device) * (lengths - width)[:, None] // max(1, count - 1)
    return torch.stack([start, start + width[:, None]], 2)


def clip_losses(
    losses: Float[Tensor, "items parts"], parts: Int[Tensor, "items parts 2"], lengths: Int[Tensor, " items"]
) -> Float[Tensor, "items clips"]:
    """Return the mean loss of the parts over each clip, less the mean of the video's clips; 0 at padding.

    Args:
        losses: of the completions from the parts.
        parts: start and end of each, in clips; each clip of a video is in a part.
        lengths: clips of each video.
    """
    clip = torch.arange(int(lengths.max()), device=lengths.device)
    start, end = parts[:, None].unbind(3)
    over = ((start <= clip[:, None]) & (clip[:, None] < end)).to(losses)
    means = (over * losses.unsqueeze(1)).sum(2) / over.sum(2).clamp_min(1)
    there = clip < lengths[:, None]
    return (means - means.sum(1, keepdim=True) / lengths[:, None]) * there
