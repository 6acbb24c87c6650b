"""From queries and features to batches of tensors and graph structures."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._signals import ignore_signals
from relgrounding.datasets import Query
from relgrounding.features._stores import Regions
from relgrounding.features.vocabulary import Vocabulary
from relgrounding.graphs import GraphStructure, spatial_structure, temporal_structure, window_proposals

B = TypeVar("B", bound="Batch")


@dataclasses.dataclass
class Batch:
    """What every batch holds; all tensors move together.

    Attributes:
        structure: proposal graphs of all items.
        words: (items, length) word ids, 0 at padding.
        word_lengths: (items,) from 1.
        item: (items,) equal numbers where the image or video is the same.
        text: (items,) equal numbers where the sentence is the same.
        group: (items,) equal numbers where queries belong together, -1 for none.
        queries: place of each query in its dataset.
    """

    structure: GraphStructure
    words: Int[Tensor, "items length"]
    word_lengths: Int[Tensor, " items"]
    item: Int[Tensor, " items"]
    text: Int[Tensor, " items"]
    group: Int[Tensor, " items"]
    queries: list[int]

    def _apply(self: B, method: str, *args: Any, **kwargs: Any) -> B:
        moved = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            moved[field.name] = getattr(value, method)(*args, **kwargs) if hasattr(value, method) else value
        return type(self)(**moved)

    def to(self: B, device: torch.device | str) -> B:
        """Return the batch on another device."""
        return self._apply("to", device)

    def pin_memory(self: B) -> B:
        """Return the batch in page-locked memory, from which it travels to a GPU faster."""
        return self._apply("pin_memory")

    def __len__(self) -> int:
        return len(self.queries)


@dataclasses.dataclass
class VideoBatch(Batch):
    """Pairs of video and sentence.

    Attributes:
        clips: (items, clips, dim) features, zeros at padding.
        clip_lengths: (items,) clips of each video.
        spans: (nodes, 2) start and end (exclusive) of each proposal, in clips.
    """

    clips: Float[Tensor, "items clips dim"]
    clip_lengths: Int[Tensor, " items"]
    spans: Int[Tensor, "nodes 2"]


@dataclasses.dataclass
class ImageBatch(Batch):
    """Pairs of image and sentence.

    Attributes:
        regions: (nodes, dim) features.
        places: (nodes, 4) x, y, width and height of each box, as shares of the image.
        boxes: (nodes, 4) the same boxes as x1, y1, x2, y2 in pixels.
    """

    regions: Float[Tensor, "nodes dim"]
    places: Float[Tensor, "nodes 4"]
    boxes: Float[Tensor, "nodes 4"]


@runtime_checkable
class ClipStore(Protocol):
    """Clip features by video id; `relgrounding.features.ClipFeatures` is one."""

    @property
    def dim(self) -> int:
        """Width of a feature."""

    def __getitem__(self, item: str) -> np.ndarray:
        """Return the (clips, dim) features of a video."""


@runtime_checkable
class RegionStore(Protocol):
    """Regions by image id; `relgrounding.features.RegionFeatures` is one."""

    @property
    def dim(self) -> int:
        """Width of a feature."""

    def __getitem__(self, item: str) -> Regions:
        """Return the regions of an image."""


class _Texts:
    """Token ids and identity numbers of queries, computed once."""

    def __init__(self, queries: Sequence[Query], vocabulary: Vocabulary, max_words: int) -> None:
        self.tokens = [torch.tensor(vocabulary.encode(q.text)[:max_words]) for q in queries]
        self.item, self.text, self.group = identities(queries)

    def batch(self, places: Sequence[int]) -> dict[str, Any]:
        """Return the fields of `Batch` that do not depend on the item."""
        tokens = [self.tokens[i] for i in places]
        index = torch.tensor(places)
        return {
            "words": torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
            "word_lengths": torch.tensor([len(t) for t in tokens]),
            "item": self.item[index],
            "text": self.text[index],
            "group": self.group[index],
            "queries": list(places),
        }


def identities(queries: Sequence[Query]) -> tuple[Int[Tensor, " queries"], ...]:
    """Return the numbers `item`, `text` and `group` of `Batch` for each query."""
    group = _numbers([q.group for q in queries])
    group[[not q.group for q in queries]] = -1
    return _numbers([q.item for q in queries]), _numbers([q.text.lower() for q in queries]), group


def _numbers(names: Sequence[str]) -> Int[Tensor, " names"]:
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names], dtype=torch.int64)


class _Candidates:
    """Proposals of videos, which depend on the number of clips alone: each number's spans and graph are built once."""

    def __init__(self, widths: Sequence[int], stride: int | float, iou_threshold: float) -> None:
        self.spans = lru_cache(maxsize=None)(lambda n: window_proposals(n, widths, stride))
        self._graph = lru_cache(maxsize=None)(lambda n: temporal_structure(self.spans(n), iou_threshold))
        self.batched = lru_cache(maxsize=8)(
            lambda lengths: (
                torch.cat([self.spans(n) for n in lengths]),
                GraphStructure.batch([self._graph(n) for n in lengths]),
            )
        )


_candidates = lru_cache(maxsize=4)(_Candidates)
"""Shared by the collators of all splits, and by all questions that a trained run is asked."""


class VideoCollator:
    """Make batches of videos and sentences.

    Args:
        queries: the dataset.
        store: clip features by video id.
        vocabulary: from words to ids.
        widths: candidate windows, see `relgrounding.graphs.window_proposals`.
        stride: the same.
        iou_threshold: see `relgrounding.graphs.temporal_graph`.
        max_clips: longer videos are averaged down to so many clips.
        max_words: longer sentences are cut.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        store: ClipStore,
        vocabulary: Vocabulary,
        widths: Sequence[int],
        stride: float,
        iou_threshold: float = 0.3,
        max_clips: int = 128,
        max_words: int = 20,
    ) -> None:
        self.queries, self.store = queries, store
        self.max_clips = max_clips
        self._texts = _Texts(queries, vocabulary, max_words)
        self.group = self._texts.group
        step = int(stride) if stride >= 1 else stride
        self._candidates = _candidates(tuple(widths), step, iou_threshold)
        self.proposals = self._candidates.spans

    def clips(self, item: str) -> Float[Tensor, "clips dim"]:
        """Return the features of a video, at most `max_clips` of them."""
        features = torch.from_numpy(np.asarray(self.store[item], dtype=np.float32))
        if len(features) > self.max_clips:
            features = torch.nn.functional.adaptive_avg_pool1d(features.T, self.max_clips).T
        return features

    def __call__(self, places: Sequence[int]) -> VideoBatch:
        """Return the batch of the queries at these places."""
        clips = [self.clips(self.queries[i].item) for i in places]
        lengths = tuple(len(c) for c in clips)
        spans, structure = self._candidates.batched(lengths)
        return VideoBatch(
            structure=structure,
            clips=torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
            clip_lengths=torch.tensor(lengths),
            spans=spans,
            **self._texts.batch(places),
        )


class ImageCollator:
    """Make batches of images and sentences.

    Args:
        queries: the dataset.
        store: regions by image id.
        vocabulary: from words to ids.
        max_words: longer sentences are cut.
    """

    def __init__(
        self, queries: Sequence[Query], store: RegionStore, vocabulary: Vocabulary, max_words: int = 20
    ) -> None:
        self.queries, self.store = queries, store
        self._texts = _Texts(queries, vocabulary, max_words)
        self.group = self._texts.group

    def __call__(self, places: Sequence[int]) -> ImageBatch:
        """Return the batch of the queries at these places."""
        images = [self.store[self.queries[i].item] for i in places]
        boxes = [torch.from_numpy(np.asarray(image.boxes, dtype=np.float32)) for image in images]
        sizes = torch.tensor([tuple(image.size) for image in images], dtype=torch.float32)
        structure = spatial_structure(boxes, sizes)
        flat = torch.cat(boxes)
        scale = sizes[structure.node_item]
        corner, extent = flat[:, :2] / scale, (flat[:, 2:] - flat[:, :2]) / scale
        return ImageBatch(
            structure=structure,
            regions=torch.from_numpy(np.concatenate([np.asarray(i.features, dtype=np.float32) for i in images])),
            places=torch.cat([corner, extent], -1),
            boxes=flat,
            **self._texts.batch(places),
        )


class BatchSampler:
    """Shuffled batches in which the queries of one group stand together.

    The order depends on the seed and the epoch alone, so that a resumed run sees what an uninterrupted one would.

    Args:
        groups: (queries,) equal numbers for queries that must meet, -1 for none.
        batch_size: queries a batch; the last one of an epoch may be smaller, but never a single query.
        seed: of the whole run.
    """

    def __init__(self, groups: Int[Tensor, " queries"], batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.epoch = 0
        self.start = 0
        alone = torch.arange(len(groups)) + (groups.max().clamp_min(0) + 1 if len(groups) else 0)
        _, self._unit = torch.unique(torch.where(groups >= 0, groups, alone), return_inverse=True)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        rank = torch.randperm(int(self._unit.max()) + 1, generator=generator)
        order = torch.argsort(rank[self._unit], stable=True)
        batches = [b.tolist() for b in order.split(self.batch_size) if len(b) > 1]
        return iter(batches[self.start :])

    def __len__(self) -> int:
        full, rest = divmod(len(self._unit), self.batch_size)
        return full + (rest > 1) - self.start


class OrderedBatches:
    """Batches in the order of the dataset, for evaluation."""

    def __init__(self, size: int, batch_size: int) -> None:
        self.size, self.batch_size = size, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.size, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.size)))

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)


class _Places(torch.utils.data.Dataset):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> int:
        return place


def make_loader(
    collator: VideoCollator | ImageCollator, batches: BatchSampler | OrderedBatches, workers: int = 0
) -> torch.utils.data.DataLoader:
    """Return a loader of batches, in page-locked memory where there is a GPU.

    Args:
        collator: makes a batch.
        batches: which queries make one.
        workers: processes; 0: this one.
    """
    return torch.utils.data.DataLoader(
        _Places(len(collator.queries)),
        batch_sampler=batches,
        collate_fn=collator,
        num_workers=workers,
        worker_init_fn=ignore_signals,
        pin_memory=torch.cuda.is_available(),
        # Without a generator of its own every pass would draw from the global one, and a resumed run would differ.
        generator=torch.Generator(),
    )
