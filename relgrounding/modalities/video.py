"""Videos: the candidates are windows of clips, the edges connect windows that overlap in time."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import on_host
from relgrounding._printing import brief
from relgrounding._settings import ConfigError, number
from relgrounding.datasets import Annotations, Query
from relgrounding.evaluation import (
    ConstantSegments,
    VideoEvaluator,
    fit_constant_segments,
    select_by_score,
    select_by_vote,
    video_floors,
    video_oracle,
)
from relgrounding.evaluation._selection import unchecked_votes
from relgrounding.features import ClipFeatures, Vocabulary, open_features
from relgrounding.graphs import (
    GraphStructure,
    ending_windows,
    temporal_relation_structure,
    temporal_structure,
    window_proposals,
)
from relgrounding.io._values import LONGEST, SHORTEST
from relgrounding.modalities._batches import Batch, Texts
from relgrounding.modalities._inputs import Stores, as_array, checked, load_array, of_many
from relgrounding.modalities._modality import TOP, Modality, Scored, register_modality

# Readers reject moments that end before they start, except those that an official protocol counts.
MOMENTS = VideoEvaluator(reversed_targets=True)
SECONDS = 2.0
SHARE_OF_SHORT, SHARE_OF_LONG = 1 / 4, 1 / 100
"""Tolerances for the length of a video: two seconds, less in videos under 8 s, more in videos over 200 s.

Correct sources differ, too: of the 6,672 videos of Charades-STA, 1,572 have an annotated end after the length stated in
the release, by up to 1.54 s and 14 %. One percent more than covers 29.97 frames per second taken for 30. Errors that
must be found differ by more: half the frame rate, another video, a part of the video.
"""


def _differ(said: float, seconds: float) -> bool:
    return abs(seconds - said) > max(min(SECONDS, SHARE_OF_SHORT * said), SHARE_OF_LONG * said)


@dataclasses.dataclass
class VideoData:
    """Candidate moments."""

    max_clips: int = number(128, least=1, most=100_000)
    """Longer videos are average-pooled to this number of clips."""
    widths: list[int] = number([4, 8, 12, 16, 20, 24, 28, 32], least=1, most=100_000)
    """Widths of the candidate windows, in clips; read by systems without windows of their own (`model.windows`)."""
    stride: float = number(1.0, above=0, most=100_000)
    """Step between windows of one width: 1 or more, in whole clips; below 1, as a share of the width."""

    def __post_init__(self) -> None:
        """Refuse a step between two clips."""
        if self.stride > 1 and self.stride != self.stride // 1:
            raise ConfigError(f"data.stride is {self.stride}; from 1 on it must be a whole number of clips")


@dataclasses.dataclass
class VideoEval:
    """Selection of moments."""

    nms: float = number(0.55, least=0, most=1)
    """Moments whose IoU with a better one is higher are dropped."""
    select: list[str] = dataclasses.field(default_factory=lambda: ["score", "vote"])
    """Selection methods, score and vote; the metric of the last one selects the epoch."""
    vote_temperature: float = number(2.0, least=0)
    """Votes are weighted by softmax(temperature * standardised score)."""
    vote_prior: float = number(0.0, least=0, most=1)
    """Share of the votes under equal weights that is subtracted: long moments get more votes than short ones, whatever
    the scores."""
    vote_by: Literal["score", "odds"] = "score"
    """What is standardised: scores, or their log-odds, which still differ if all scores are close to 1."""

    def __post_init__(self) -> None:
        """Reject unknown selection methods."""
        if set(self.select) - set(Video.selections):
            raise ConfigError(f"eval.select is {self.select}; it is a list of 'score' and 'vote'")


@dataclasses.dataclass
class VideoBatch(Batch):
    """Pairs of a video and a sentence.

    Attributes:
        clips: (items, clips, dim) features, zeros at padding.
        clip_lengths: (items,) number of clips of each video.
        spans: (nodes, 2) start and end (exclusive) of each proposal, in clips.
    """

    clips: Float[Tensor, "items clips dim"]
    clip_lengths: Int[Tensor, " items"]
    spans: Int[Tensor, "nodes 2"]


@runtime_checkable
class ClipStore(Protocol):
    """Clip features by video id; `relgrounding.features.ClipFeatures` is one."""

    @property
    def dim(self) -> int:
        """Width of a feature."""

    def __getitem__(self, item: str) -> np.ndarray:
        """Return the (clips, dim) features of a video."""


class _Candidates:
    """Proposals of videos: they depend only on the number of clips, so spans and graph are built once per number."""

    def __init__(
        self,
        widths: Sequence[int],
        stride: int | float,
        iou_threshold: float | None,
        shares: int | None,
        related: bool,
        nearest: int | None,
    ) -> None:
        self._made_of = widths, stride, iou_threshold, shares, related, nearest

        def graph(clips: int) -> GraphStructure:
            spans = self.spans(clips)
            if related:
                return temporal_relation_structure(spans, nearest)
            if iou_threshold is None:
                return GraphStructure.of_nodes((), torch.tensor([len(spans)]))
            return temporal_structure(spans, iou_threshold)

        self.spans = lru_cache(maxsize=None)(
            lambda n: ending_windows(n, shares) if shares else window_proposals(n, widths, stride)
        )
        self._graph = lru_cache(maxsize=None)(graph)
        self.batched = lru_cache(maxsize=8)(
            lambda lengths: (
                torch.cat([self.spans(n) for n in lengths]),
                GraphStructure.batch([self._graph(n) for n in lengths]),
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _Candidates, self._made_of


_candidates = lru_cache(maxsize=4)(_Candidates)
"""Shared by the collators of all splits and all calls of a `Grounder`."""


class VideoCollator:
    """Make batches of video-sentence pairs.

    Args:
        queries: of a split.
        store: clip features by video id.
        vocabulary: maps words to ids.
        widths: candidate windows, see `relgrounding.graphs.window_proposals`.
        stride: likewise.
        iou_threshold: see `relgrounding.graphs.temporal_graph`; None: no edges, and no pair of windows is compared.
        max_clips: longer videos are average-pooled to this number of clips.
        max_words: longer sentences are truncated.
        shares: K; candidates are those of `relgrounding.graphs.ending_windows`, not of `widths` and `stride`.
        related: whether edges are those of `relgrounding.graphs.temporal_relation_graph` instead.
        nearest: see there.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        store: ClipStore,
        vocabulary: Vocabulary,
        widths: Sequence[int],
        stride: float,
        iou_threshold: float | None = 0.3,
        max_clips: int = 128,
        max_words: int = 20,
        shares: int | None = None,
        related: bool = False,
        nearest: int | None = None,
    ) -> None:
        self.queries, self.store = queries, store
        self.max_clips = max_clips
        self._texts = Texts(queries, vocabulary, max_words)
        self.group = self._texts.group
        self._candidates = _candidates(tuple(widths), stride, iou_threshold, shares, related, nearest)

    @property
    def proposals(self) -> Callable[[int], Int[Tensor, "windows 2"]]:
        """The candidate windows of a video, given its number of clips."""
        return self._candidates.spans

    def clips(self, item: str) -> Float[Tensor, "clips dim"]:
        """Return the features of a video, at most `max_clips` of them."""
        features = torch.from_numpy(np.asarray(self.store[item], dtype=np.float32))
        if len(features) > self.max_clips:
            features = torch.nn.functional.adaptive_avg_pool1d(features.T, self.max_clips).T
        return features

    def __call__(self, indices: Sequence[int]) -> VideoBatch:
        """Return the batch of the queries with these indices."""
        queries = [self.queries[i] for i in indices]
        clips = [self.clips(query.item) for query in queries]
        lengths = tuple(len(c) for c in clips)
        spans, structure = self._candidates.batched(lengths)
        return VideoBatch(
            structure=structure,
            clips=torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
            clip_lengths=torch.tensor(lengths),
            spans=spans,
            **self._texts.batch(queries, indices),
        )


def _ballots(scores: Tensor, settings: VideoEval) -> Tensor:
    return torch.logit(scores, 1e-6) if settings.vote_by == "odds" else scores


def _vote_options(settings: VideoEval) -> tuple[float, float]:
    return settings.vote_temperature, settings.vote_prior


@register_modality("video")
class Video(Modality):
    """Moments (start, end) of videos, in seconds."""

    item, answer, layout = "video", "moment", "clips"
    metric = "R@1,IoU=0.5"
    selections = ("score", "vote")
    has_misses = fits_floors = True
    DataConfig, EvalConfig = VideoData, VideoEval
    remedy = "extract the features from the videos that were annotated, or correct the durations"

    def open_store(self, path: Path, in_memory: bool = True) -> ClipFeatures:
        return open_features(path, "clips", in_memory)

    def collator(
        self, queries: Sequence[Query], store: Any, vocabulary: Vocabulary, data: Any, **graph: Any
    ) -> VideoCollator:
        candidates = {"widths": data.widths, "stride": data.stride, "max_clips": data.max_clips}
        return VideoCollator(queries, store, vocabulary, max_words=data.max_words, **candidates, **graph)

    def candidates(self, batch: Batch, seconds: Sequence[float]) -> tuple[list[Tensor], list[Tensor]]:
        assert isinstance(batch, VideoBatch)  # narrows the type for mypy
        counts, item = batch.structure.batch_num_nodes.tolist(), batch.structure.node_item
        lengths = torch.tensor([seconds[i] for i in batch.queries], dtype=torch.float64)
        proposals = batch.spans * lengths[item, None] / batch.clip_lengths[item, None]
        return list(proposals.split(counts)), list(batch.spans.split(counts))

    def seconds(self, queries: Sequence[Query], durations: Mapping[str, float]) -> list[float]:
        return [durations[query.item] for query in queries]

    def select(self, scored: Scored, variant: str, settings: Any) -> list[list[int]]:
        # Overlaps do not depend on the unit of time: videos with the same number of clips share their candidates.
        same: dict[bytes, list[int]] = {}
        for i, spans in enumerate(scored.candidates):
            same.setdefault(spans.numpy().tobytes(), []).append(i)
        top: list[list[int]] = [[] for _ in scored.scores]
        for indices in same.values():
            spans = scored.candidates[indices[0]].to(torch.float32)
            scores = torch.stack([scored.scores[i] for i in indices])
            if variant == "vote":
                chosen = select_by_vote(spans, _ballots(scores, settings), settings.nms, TOP, *_vote_options(settings))
            else:
                chosen = select_by_score(spans, scores, settings.nms, TOP)
            for i, row in zip(indices, chosen.tolist(), strict=True):
                top[i] = [k for k in row if k >= 0]
        return top

    def ranked_by(
        self, batch: Batch, scores: Float[Tensor, " nodes"], selection: str, settings: Any
    ) -> Float[Tensor, " nodes"]:
        if selection != "vote":
            return scores
        assert isinstance(batch, VideoBatch)  # narrows the type for mypy
        counts = on_host(batch.structure.batch_num_nodes).tolist()
        ranked, spans = list(scores.split(counts)), on_host(batch.spans).split(counts)
        same: dict[int, list[int]] = {}
        for i, length in enumerate(on_host(batch.clip_lengths).tolist()):
            same.setdefault(length, []).append(i)
        for indices in same.values():
            ballots = _ballots(torch.stack([ranked[i] for i in indices]), settings)
            found = unchecked_votes(spans[indices[0]], ballots, *_vote_options(settings)).clamp(0, 1)
            for i, row in zip(indices, found.to(scores.dtype), strict=True):
                ranked[i] = row
        return torch.cat(ranked)

    def default_selection(self, settings: Any) -> str:
        return settings.select[-1]

    def protocols(self, names: Sequence[str] | None, dataset: str, settings: Any) -> dict[str, str]:
        return {f"{name}, select={s}": s for name in names or [dataset] for s in settings.select}

    def main_protocol(self, protocols: Sequence[str], settings: Any) -> str:
        ending = f"select={settings.select[-1]}"
        return next((name for name in protocols if name.endswith(ending)), protocols[-1])

    def frame(self, item: str, durations: Mapping[str, float], store: Any) -> dict[str, Any]:
        return {"duration": durations[item]}

    def metrics(
        self, chosen: Sequence[Any], targets: Sequence[Any], variant: str, kinds: Sequence[str] | None
    ) -> dict[str, float]:
        return MOMENTS(chosen, targets)

    def metric_names(self, variant: str) -> Sequence[str]:
        return MOMENTS.metric_names

    def fit_floors(self, queries: Sequence[Query], durations: Mapping[str, float]) -> ConstantSegments:
        return fit_constant_segments(MOMENTS, [q.targets for q in queries], self.seconds(queries, durations))

    def floors_to_json(self, fitted: ConstantSegments | None) -> dict[str, Any] | None:
        return None if fitted is None else {"constant": fitted.fractions}

    def floors_from_json(self, kept: Any) -> ConstantSegments:
        found = kept["constant"].items()
        constants = ConstantSegments(
            {name: tuple((float(s), float(e)) for s, e in segments) for name, segments in found}
        )
        video_floors(VideoEvaluator(), [[(0.0, 1.0)]], [(0.0, 1.0)], [1.0], constants)  # raises if a metric is missing
        return constants

    def floors(
        self, scored: Scored, queries: Sequence[Query], seconds: Sequence[float], variant: str, fitted: Any, kinds: Any
    ) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        segments, targets = [p.numpy() for p in scored.proposals], [q.targets for q in queries]
        constants = fitted or fit_constant_segments(MOMENTS, targets, seconds)
        floors = video_floors(MOMENTS, segments, targets, seconds, constants)
        if fitted is None:  # fitted on the test answers: not a floor
            del floors["constant"]
        return floors, video_oracle(MOMENTS, segments, targets)

    def comparable(self, item: str, annotations: Annotations, store: Any) -> bool:
        stated = isinstance(store, ClipFeatures) and item in annotations.durations
        return stated and store.duration(item) is not None

    def disagreement(self, item: str, annotations: Annotations, store: Any) -> str:
        if not self.comparable(item, annotations, store):
            return ""
        said, seconds = annotations.durations[item], store.duration(item)
        if not _differ(said, seconds):
            return ""
        return f"{item!r} is {seconds:g} s long in the features and {said:g} s in the annotations"

    def missing_fact(self, item: str, annotations: Annotations) -> str:
        return "" if item in annotations.durations else f"no duration of video {item!r}; complete the annotations"

    def read_item(
        self, features: object, item: str | None, stores: Stores, dim: int, **facts: object
    ) -> tuple[np.ndarray, dict[str, float]]:
        where, content = "the features", features
        if isinstance(features, (str, os.PathLike)):
            path = Path(features)
            where = str(path)
            content = stores.read(path, item) if of_many(path) else load_array(path)
        clips = checked(as_array(content, where), dim, where, "clips")
        duration: Any = facts.get("duration")
        stated = stores.duration(features, item)
        if duration is None:
            duration = stated
        if duration is None:
            raise ValueError(
                "a video needs its duration in seconds: duration=31.2 "
                "(files that `relgrounding extract` and `prepare features` make may hold it)"
            )
        if isinstance(duration, str) or not SHORTEST <= duration <= LONGEST:
            raise ValueError(
                f"duration is {brief(duration)}; give the length of the video in seconds, {SHORTEST} to {LONGEST:.0f}"
            )
        if stated is not None and _differ(float(duration), stated):
            raise ValueError(
                f"the video is {float(duration):g} s long as given, but {stated:g} s in {features}; leave the duration "
                "out, or correct it"
            )
        return clips, {"item": float(duration)}
