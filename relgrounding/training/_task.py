"""What a configuration trains and tests on."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding import features, io
from relgrounding._cache import cache_folder
from relgrounding._printing import get_logger
from relgrounding.config import Config, ConfigError, find_file, with_settings
from relgrounding.datasets import Query
from relgrounding.datasets._annotations import Annotations, read_annotations
from relgrounding.datasets._fingerprint import file_digest, queries_digest
from relgrounding.datasets.demo import make_scenes
from relgrounding.evaluation import ConstantSegments
from relgrounding.io._ids import did_you_mean
from relgrounding.modalities._batches import ClipStore, ImageCollator, RegionStore, VideoCollator
from relgrounding.modalities._facts import disagreement, remedy
from relgrounding.models import IGN, VGN
from relgrounding.nn import WordEmbedding, trained_embedding
from relgrounding.ops import available_backends
from relgrounding.training._negatives import check_negatives
from relgrounding.training._runs import RunFolder

logger = get_logger("relgrounding.training")

UNREAD = {
    "word_vectors": "the vectors are in the checkpoint",
    "validation": "it is about training",
    "train_queries": "it is about training",
    "batch_size": "it is about training; eval.batch_size is the run's",
}
"""Settings of the section data that an evaluation does not read, and why."""
PREPARE = {
    "charades_sta": "python tools/prepare.py charades-actions makes one",
    "activitynet_captions": "docs/data.md says where to download it",
    "flickr30k": "docs/data.md describes the file",
    "own": "python tools/prepare.py features makes one from the formats in docs/data.md",
}


@dataclass
class Split:
    """Queries and the features of what they are asked of."""

    queries: list[Query]
    store: ClipStore | RegionStore
    durations: dict[str, float] = field(default_factory=dict)


@dataclass
class Task:
    """Training and validation queries, vocabulary, word vectors.

    Attributes:
        train: what is learnt from; its targets are never looked at, except by the constant-segment floor.
        validation: held out of the training split, by video or image; chooses the epoch.
        vocabulary: words of `train`.
        vectors: (words, dim) pretrained vectors; None: they are trained from scratch.
        durations: seconds of each video.
        constants: what answers every query alike, fitted on `train` when it is first asked for.
    """

    config: Config
    train: Split
    validation: Split
    vocabulary: features.Vocabulary
    vectors: Float[Tensor, "words dim"] | None = None
    durations: dict[str, float] = field(default_factory=dict)
    constants: ConstantSegments | None = None

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
        found = _read_split(self.config, split, self.train.store)
        self.durations.update(found.durations)
        return found

    def fingerprint(self) -> dict[str, str]:
        """Return digests of what is learnt from, which another machine shares; none of the embedded scenes.

        Returns:
            "features" (of the file), "annotations" (training and held-out queries, durations) and, where there are
            pretrained vectors, "word vectors" (of the words in use): each changes with what training would see.
        """
        if self.config.data.dataset == "demo":
            return {}
        queries = [*self.train.queries, *self.validation.queries]
        found = {"annotations": queries_digest(queries, self.durations)}
        if isinstance(path := getattr(self.train.store, "path", None), Path):
            found["features"] = file_digest(path)
        if self.vectors is not None:
            # Without the row of unknown words: a mean, whose last bit depends on the machine.
            table = self.vectors[2:].contiguous()
            content = [repr(self.vocabulary.to_list()).encode(), table.numpy().tobytes()]
            found["word vectors"] = hashlib.sha256(b"".join(content)).hexdigest()
        return found

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
        ConfigError: files that are missing, or queries without negatives, with what to do about it.
    """
    settings = config.data
    store = None if settings.dataset == "demo" else _open_store(config)
    learnt, held = read_training(config, store)
    train, validation = learnt.queries, held.queries
    check_negatives(train, validation, config)
    known = (
        features.Vocabulary.from_list(vocabulary)
        if vocabulary
        else features.Vocabulary.from_texts([q.text for q in train])
    )
    vectors = None
    if settings.word_vectors:
        path = find_file(settings, settings.word_vectors, "data.word_vectors", "leave it empty to train word vectors")
        known, vectors = features.load_word_vectors(path, known, cache=cache_folder())
    return Task(config, learnt, held, known, vectors, dict(learnt.durations))


def make_test_task(config: Config, folder: RunFolder) -> Task:
    """Read what a trained run is evaluated with: all but the features is in its checkpoint; no training data is read.

    Args:
        config: of the run, or with the data of another (`with_data`).
        folder: of the run, with best.pt.

    Raises:
        ConfigError: no feature file, or features of another width than the run was trained on.
        RunError: no checkpoint, or that of another model.
    """
    saved = folder.load("best.pt")
    demo = config.data.dataset == "demo"
    store = make_scenes("test", 1, config.seed)[1] if demo else _open_store(config)
    try:
        width = feature_dim(config, saved["model"])
    except LookupError as error:
        raise folder.another_model("best.pt", error.args[0]) from None
    if store.dim != width:
        raise ConfigError(
            f"{getattr(store, 'path', 'the embedded scenes')}: features of width {store.dim}, but the run was trained "
            f"on width {width}; take the features from the same extractor"
        )
    empty = Split([], store)
    words = features.Vocabulary.from_list(saved["vocabulary"])
    return Task(config, empty, empty, words, saved["model"].get("embedding.vectors"))


def with_data(config: Config, changes: Sequence[str]) -> Config:
    """Return the configuration of a run that is to be evaluated on other data.

    Args:
        config: of the run.
        changes: settings of the section `data`, such as `root=/data`.

    Raises:
        ConfigError: a setting that there is not or that an evaluation does not read, or data that the model of the
            run is not for.
    """
    for change in changes:
        key = change.partition("=")[0]
        if key in UNREAD:
            raise ConfigError(f"--data {change}: an evaluation does not read data.{key}: {UNREAD[key]}")
        if "=" not in change or key not in (known := [f.name for f in dataclasses.fields(config.data)]):
            raise ConfigError(f"--data {change}: give KEY=VALUE, where KEY is one of {', '.join(known)}")
    return with_settings(config, [f"data.{change}" for change in changes])


def read_training(config: Config, store: ClipStore | RegionStore | None) -> tuple[Split, Split]:
    """Read the training split; return what is learnt from and what is held out of it."""
    settings = config.data
    whole = _read_split(config, "train", store)
    train, validation = hold_out(whole.queries, settings.validation, config.seed)
    if settings.train_queries and settings.train_queries < len(train):
        generator = torch.Generator().manual_seed(config.seed)
        keep = torch.randperm(len(train), generator=generator)[: settings.train_queries]
        train = [train[i] for i in sorted(keep.tolist())]
    return Split(train, whole.store, whole.durations), Split(validation, whole.store, whole.durations)


def feature_dim(config: Config, weights: Mapping[str, Tensor]) -> int:
    """Return the width of a clip's or a region's feature, which no file of a run but the weights tells.

    Raises:
        LookupError: the weights are those of another model.
    """
    linear = config.model.clip_encoder == "linear"
    name = "clip_encoder.weight" if linear else "clip_encoder.gru.weight_ih_l0"
    places = 0
    if config.model.name == "ign":
        name, places = "attention.proposal.weight", 4
    if name not in weights:
        raise LookupError(f"it has no {name}")
    return weights[name].shape[1] - places


def usable_device(name: str, fall_back: bool = False) -> torch.device:
    """Return the device of a run, or the CPU where it is not here and `fall_back`.

    Raises:
        ConfigError: it is not here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if not fall_back:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device is {name}, which is not available here ({reason}); use device=cpu") from None
    logger.warning("device is %s, which is not available here; the CPU is used", name)
    return torch.device("cpu")


def check_backend(config: Config) -> None:
    """Raise ConfigError where the message-passing kernels of a run cannot run here."""
    if config.backend != "auto" and config.model.relation != "none":
        reason = available_backends()[config.backend]
        if reason:
            raise ConfigError(f"backend is {config.backend}, which cannot run here: {reason}; use backend=auto")


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


def hold_out(queries: list[Query], share: float, seed: int) -> tuple[list[Query], list[Query]]:
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


def _open_store(config: Config) -> ClipStore | RegionStore:
    settings = config.data
    remedy = PREPARE.get(
        settings.dataset, f"python tools/prepare.py coco-categories --name {settings.dataset} makes one"
    )
    path = find_file(settings, settings.features, "data.features", remedy)
    return features.ClipFeatures(path) if config.model.name == "vgn" else features.RegionFeatures(path)


def _read_split(config: Config, split: str, store: ClipStore | RegionStore | None) -> Split:
    settings = config.data
    if settings.dataset == "demo":
        if split not in ("train", "test"):
            raise ConfigError(f"data.test_splits: '{split}' is no split of the embedded scenes; they have test")
        pairs = settings.demo_pairs if split == "train" else max(1, settings.demo_pairs // 10)
        queries, scenes = make_scenes(split, pairs, config.seed, settings.demo_noise)
        return Split(queries, scenes)
    if store is None:
        raise ConfigError("data.features is empty; name the HDF5 file of the features")
    problems = io.Problems(settings.on_error)
    found = read_annotations(settings, split, config.model.name == "vgn", problems)
    queries = usable(found, store, config.model.name == "vgn", problems)
    if problems.total:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(problems.counts.items()))
        logger.warning("%s %s: %d queries left, skipped %s", settings.dataset, split, len(queries), kinds)
    cut = sum(len(features.tokenize(query.text)) > settings.max_words for query in queries)
    if cut:
        logger.warning(
            "%s %s: of %d of %d sentences (%.1f %%) only the first data.max_words=%d words are read",
            *(settings.dataset, split, cut, len(queries), 100 * cut / len(queries), settings.max_words),
        )
    if not queries:
        raise ConfigError(f"{settings.dataset} {split}: no query can be used; tools/prepare.py verify says why")
    return Split(queries, store, found.durations)


def usable(found: Annotations, store: ClipStore | RegionStore, video: bool, problems: io.Problems) -> list[Query]:
    """Return the queries that hold a word and whose item has features.

    Where bad ones are skipped, the features of every item are read once: a batch cannot do without one of its items.

    Args:
        found: queries of a split, and the durations of its videos.
        store: features by item.
        video: whether items are videos.
        problems: what becomes of the others.
    """
    fine: dict[str, bool] = {}
    kept = []
    for query in found.queries:
        with problems:
            if query.item not in fine:
                fine[query.item] = False
                if problems.on_error == "skip":
                    store[query.item]
                elif query.item not in store:  # type: ignore[operator]
                    near = did_you_mean(query.item, getattr(store, "ids", []))
                    raise io.MissingFeatures(
                        f"no features of {query.item!r}, which query {query.id!r} asks about{near}; "
                        "tools/prepare.py verify lists all such, data.on_error=skip leaves them out"
                    )
                if differs := disagreement(query.item, found, store):
                    raise _disagreeing(differs, found, store, video, problems)
                if video and query.item not in found.durations:
                    raise io.BadAnnotation(f"no duration of video {query.item!r}; complete the annotations")
                fine[query.item] = True
            if not features.tokenize(query.text):
                raise io.BadAnnotation(f"query {query.id!r}: {query.text[:40]!r} holds no word; drop it")
            if fine[query.item]:
                kept.append(query)
    return kept


def _disagreeing(
    first: str, found: Annotations, store: ClipStore | RegionStore, video: bool, problems: io.Problems
) -> io.BadFeatures:
    """Return the error about an item of another length or size; one that stops the run says how many there are."""
    if problems.on_error == "skip":
        return io.BadFeatures(first)
    items = {query.item for query in found.queries if query.item in store}  # type: ignore[operator]
    count = sum(bool(disagreement(item, found, store)) for item in items)
    return io.BadFeatures(
        f"{getattr(store, 'path', 'the features')} and the annotations disagree about {count} of {len(items)} "
        f"{'videos' if video else 'images'}: {first}; {remedy(video)} (data.on_error=skip leaves such items out)"
    )
