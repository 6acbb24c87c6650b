"""What a configuration trains and tests on."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding import data
from relgrounding.config import Config, ConfigError, data_root, find_file
from relgrounding.data.batches import ClipStore, ImageCollator, RegionStore, VideoCollator
from relgrounding.data.scenes import make_scenes
from relgrounding.models import IGN, VGN
from relgrounding.nn import WordEmbedding, trained_embedding

PREPARE = {
    "charades_sta": "python tools/prepare.py charades-actions makes one",
    "flickr30k": "docs/features.md describes the file",
}


@dataclass
class Split:
    """Queries and the features of what they are asked of."""

    queries: list[data.Query]
    store: ClipStore | RegionStore


@dataclass
class Task:
    """Training and validation queries, vocabulary, word vectors.

    Attributes:
        train: what is learnt from; its targets are never looked at, except by the constant-segment floor.
        validation: held out of the training split, by video or image; chooses the epoch.
        vocabulary: words of `train`.
        vectors: (words, dim) pretrained vectors; None: they are trained from scratch.
        durations: seconds of each video.
    """

    config: Config
    train: Split
    validation: Split
    vocabulary: data.Vocabulary
    vectors: Float[Tensor, "words dim"] | None = None
    durations: dict[str, float] = field(default_factory=dict)

    @property
    def video(self) -> bool:
        """Whether items are videos."""
        return self.config.model.name == "vgn"

    @property
    def feature_dim(self) -> int:
        """Width of a clip's or a region's feature."""
        return self.train.store.dim

    def test(self, split: str) -> Split:
        """Read a test split."""
        return _read_split(self.config, split, self.train.store)

    def collator(self, split: Split) -> VideoCollator | ImageCollator:
        """Return what makes batches of a split."""
        settings = self.config.data
        if self.video:
            return VideoCollator(
                split.queries,
                split.store,  # type: ignore[arg-type]
                self.vocabulary,
                widths=settings.widths,
                stride=settings.stride,
                iou_threshold=self.config.model.iou_threshold,
                max_clips=settings.max_clips,
                max_words=settings.max_words,
            )
        return ImageCollator(split.queries, split.store, self.vocabulary, settings.max_words)  # type: ignore[arg-type]


def make_task(config: Config, vocabulary: list[str] | None = None) -> Task:
    """Read what a configuration trains on.

    Args:
        config: see `relgrounding.config.Config`.
        vocabulary: words of a checkpoint, in their order; None: those of the training queries.

    Raises:
        ConfigError: files that are missing, with what to do about it.
    """
    settings = config.data
    store = None if settings.dataset == "demo" else _open_store(config)
    whole = _read_split(config, "train", store)
    train, validation = hold_out(whole.queries, settings.validation, config.seed)
    if settings.train_queries and settings.train_queries < len(train):
        generator = torch.Generator().manual_seed(config.seed)
        keep = torch.randperm(len(train), generator=generator)[: settings.train_queries]
        train = [train[i] for i in sorted(keep.tolist())]
    known = data.Vocabulary.from_list(vocabulary) if vocabulary else data.Vocabulary.from_texts([q.text for q in train])
    vectors = None
    if settings.word_vectors:
        path = find_file(settings, settings.word_vectors, "data.word_vectors", "leave it empty to train word vectors")
        known, vectors = data.load_word_vectors(path, known, cache=_cache_folder())
    durations = data.load_durations(data_root(settings) / "charades_sta") if settings.dataset == "charades_sta" else {}
    return Task(config, Split(train, whole.store), Split(validation, whole.store), known, vectors, durations)


def build_model(task: Task) -> VGN | IGN:
    """Return the untrained model of a task."""
    config = task.config
    if task.vectors is None:
        embedding: torch.nn.Module = trained_embedding(len(task.vocabulary), config.model.word_dim)
        word_dim = config.model.word_dim
    else:
        embedding, word_dim = WordEmbedding(task.vectors), task.vectors.shape[1]
    kind = VGN if task.video else IGN
    return kind(config.model, task.feature_dim, embedding, word_dim, config.backend)


def hold_out(queries: list[data.Query], share: float, seed: int) -> tuple[list[data.Query], list[data.Query]]:
    """Split queries in two by item (or by group, where there are groups): no item has queries on both sides.

    Args:
        queries: of the training split.
        share: of the items that are held out, at least one.
        seed: of the draw.

    Returns:
        The queries to train on and those held out.
    """
    units = sorted({q.group or q.item for q in queries})
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed)).tolist()
    held = {units[i] for i in order[: max(1, round(share * len(units)))]}
    train = [q for q in queries if (q.group or q.item) not in held]
    return train, [q for q in queries if (q.group or q.item) in held]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relgrounding"


def _open_store(config: Config) -> ClipStore | RegionStore:
    settings = config.data
    remedy = PREPARE.get(
        settings.dataset, f"python tools/prepare.py coco-categories --name {settings.dataset} makes one"
    )
    path = find_file(settings, settings.features, "data.features", remedy)
    return data.ClipFeatures(path) if config.model.name == "vgn" else data.RegionFeatures(path)


def _read_split(config: Config, split: str, store: ClipStore | RegionStore | None) -> Split:
    settings = config.data
    if settings.dataset == "demo":
        if split not in ("train", "test"):
            raise ConfigError(f"data.test_splits: '{split}' is no split of the embedded scenes; they have test")
        pairs = settings.demo_pairs if split == "train" else max(1, settings.demo_pairs // 10)
        queries, scenes = make_scenes(split, pairs, config.seed, settings.demo_noise)
        return Split(queries, scenes)
    root = data_root(settings)
    if settings.dataset == "charades_sta":
        queries = data.load_charades(root / "charades_sta", split, settings.protocol)
    elif settings.dataset == "flickr30k":
        queries = data.load_flickr30k(root / "flickr30k_entities", split)
    else:
        queries = data.load_refcoco(root / "refcoco", settings.dataset, split)
    if store is None:
        raise ConfigError("data.features is empty; name the HDF5 file of the features")
    return Split(queries, store)
