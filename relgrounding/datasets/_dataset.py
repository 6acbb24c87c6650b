"""What a data set is to the rest of the library, and the registry of all of them."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from relgrounding._registry import Registry
from relgrounding._settings import ConfigError, number
from relgrounding._urls import is_url, masked
from relgrounding.features.vocabulary import LARGEST_OFFSET
from relgrounding.io._errors import Problems
from relgrounding.io._remote import fetched, local_path


@dataclass
class DataConfig:
    """Annotations, features and batches: what every data set has."""

    dataset: str = "demo"
    """Name of the data set, or package.module:Name of your own."""
    root: str = ""
    """Folder of charades_sta/, activitynet_captions/, refcoco/, flickr30k_entities/, word_vectors/, or the URL of one;
    empty: the variable RELGROUNDING_DATA."""
    on_error: Literal["stop", "skip"] = "stop"
    """Queries that cannot be used, or whose features cannot: stop at the first, or leave them out, counted and
    logged."""
    features: str = ""
    """HDF5 file of features, or folder of shards, as given or below `root`; or a URL, such as
    s3://bucket/features.h5."""
    word_vectors: str = ""
    """Vectors in GloVe's text format, as given or below `root`; empty: word vectors are trained from scratch."""
    word_offset: float = number(0.0, least=0, most=LARGEST_OFFSET)
    """Added to the vector of each word, so that words with the same vector differ: numbers drawn by the word, with this
    times the standard deviation of the vector's; 0: the vectors of the file."""
    test_splits: list[str] = field(default_factory=lambda: ["test"])
    """Splits of the final table, read once, after model selection."""
    validation: float = number(0.06, above=0, below=1)
    """Share of the training videos or images held out for model selection."""
    train_queries: int = number(0, least=0)
    """Use so many training queries only, drawn from the seed; 0: all."""
    max_words: int = number(20, least=1, most=10_000)
    """Words of a sentence that are read."""
    batch_size: int = number(64, least=2, most=1_000_000)
    """Queries per batch; negatives need two or more."""
    block_by: Literal["", "category", "sentence"] = ""
    """Batches are made of blocks of similar queries, the source of `mil.hard_negatives`: of images with the same most
    frequent category of regions, or of sentences that share a content word; empty: without blocks."""
    block_size: int = number(16, least=2, most=1_000_000)
    """Queries per block; `batch_size` should be a multiple of it."""
    workers: int = number(0, least=0, most=1024)
    """Processes that load batches; 0: the main one."""


@dataclass(frozen=True, slots=True)
class Query:
    """A sentence, the video or image it is about, and what it refers to.

    Args:
        id: names the query; no two queries of a split share it.
        item: id of the video or image, the key of its features.
        text: the sentence or phrase as written by the annotator.
        targets: right answers: segments (start, end) in seconds, or boxes (x1, y1, x2, y2) in pixels.
        kind: what sort of query it is, for tables by kind; empty where the data set has no sorts.
        group: queries of one non-empty group meet in one batch; empty for none.
    """

    id: str
    item: str
    text: str
    targets: tuple[tuple[float, ...], ...]
    kind: str = ""
    group: str = ""


class Annotations(NamedTuple):
    """Queries of a split.

    Args:
        queries: in the order of the file; not always in memory.
        durations: seconds of the videos; empty for images.
        sizes: (width, height) of the images where the annotations themselves say so.
        store: features by item, where they come with the annotations; else None, and they are in a file.
        boxes: (n, 4) x1, y1, x2, y2 of all annotated objects by image, where more is annotated than the queries refer
            to; else None.
        reach: (x, y) of the right and lower ends of the boxes of each image whose size was not known when they were
            read, to be compared with the size that its features state; else None.
    """

    queries: Sequence[Query]
    durations: dict[str, float]
    sizes: dict[str, tuple[int, int]]
    store: Any = None
    boxes: Mapping[str, Any] | None = None
    reach: Mapping[str, tuple[float, float]] | None = None


class Published(NamedTuple):
    """Sizes of a data set, as published.

    Args:
        queries: sentences per split; 0: not published.
        items: videos or images per split, where published or counted on the official files.
        objects: different objects referred to in all splits; 0: not published.
        images: of all splits together; 0: not published.
        train: splits that are learnt from.
    """

    queries: dict[str, int]
    items: dict[str, int]
    objects: int = 0
    images: int = 0
    train: tuple[str, ...] = ("train",)


class Check(NamedTuple):
    """A line of the table of `verify`.

    Args:
        check: what was looked at.
        expected: by the publishers, or by reason.
        found: in the files.
        status: "ok", "note" (odd, but known or harmless) or "DIFFERS".
        meaning: what a difference means.
    """

    check: str
    expected: str
    found: str
    status: str
    meaning: str = ""


class Dataset(ABC):
    """A data set: one file per data set defines one and registers it with `register_dataset`.

    Args:
        config: the section `data` of a configuration, an instance of `Config`.
        seed: of the run.
        item: what a query is about, "video" or "image": the modality's word, for data sets that have either.
    """

    Config: ClassVar[type[DataConfig]] = DataConfig
    """Its settings: `DataConfig` and what it adds."""
    name: ClassVar[str]
    """Given by `register_dataset`."""
    modality: ClassVar[str | None] = None
    """Registered name of the modality; None: that of the model."""
    published: ClassVar[Published | None] = None
    """Its sizes; None: nothing was published."""
    known: ClassVar[dict[tuple[str, str, int], str]] = {}
    """(split, check, count): why a count that is not the published one is as it should be."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Splits that many copies lack; `verify` misses them only where `data.test_splits` names them."""
    remedy: ClassVar[str] = "relgrounding prepare features makes one from the formats in docs/data.md"
    """How its features are made, for the error about a missing file."""
    generated: ClassVar[bool] = False
    """Whether it is generated from the seed: `read` returns the features, and no file can be missing or change."""
    by_kind: ClassVar[bool] = False
    """Whether results about images are reported for each kind of query, too."""

    def __init__(self, config: Any, seed: int = 0, item: str = "") -> None:
        self.config, self.seed, self.item = config, seed, item

    @abstractmethod
    def read(self, split: str, problems: Problems | None = None) -> Annotations:
        """Read a split.

        Args:
            split: its name.
            problems: what becomes of bad records; None: as `data.on_error` says.

        Raises:
            ConfigError: the folder of the annotations or a file is not given, or there is no such split.
            DataError: the annotations cannot be used; see its kinds.
        """

    def splits(self) -> list[str] | None:
        """Return the names of the splits, where they are known without reading anything."""
        return list(self.published.queries) if self.published else None

    def check_splits(self, names: Sequence[str]) -> None:
        """Raise ConfigError or DataError where there is no such split; annotations are read if nothing else tells."""
        known = self.splits()
        for name in names:
            if known is None:
                self.read(name, Problems("skip"))
            elif name not in known:
                raise ConfigError(f"data.test_splits: {self.name} has no split {name!r}; it has {', '.join(known)}")

    def protocols(self) -> list[str] | None:
        """Return the names of the protocols of its results; None: the modality's default.

        For images they are readings of several right boxes (`relgrounding.evaluation.ImageEvaluator`), the one that
        selects the epoch first.
        """
        return None

    def sizes(self) -> Published | None:
        """Return the published sizes that hold for these settings."""
        return self.published

    def objects(self, item: str) -> list[tuple[str, tuple[float, ...]]]:
        """Return the name and the box (x1, y1, x2, y2) in pixels of each annotated object of an image, for figures.

        Empty where the annotations name no objects.

        Raises:
            ConfigError: the folder of the annotations is not given.
            DataError: the annotations cannot be used.
        """
        return []

    def feature_file(self) -> Path:
        """Return the file of the features, or the folder of their shards.

        Raises:
            ConfigError: none is named, or there is none; the message says how to make it.
        """
        return find_file(self.config, self.config.features, "data.features", self.remedy, folders=True)

    def checks(self, found: dict[str, Annotations]) -> Iterator[Check]:
        """Yield what `verify` is to check of this data set alone, after all splits were read."""
        yield from ()


NOT_VISUAL = "annotation-derived, not visual features: results on them must not be compared with published ones"
"""What the file says of features made from annotations, which stand in for perfect recognition."""

DATASETS: Registry[Dataset] = Registry("data set", "relgrounding.datasets", base=Dataset)
register_dataset = DATASETS.register
"""Decorator that registers a `Dataset` under the name that `data.dataset` selects it by."""


def data_root(config: DataConfig) -> Path:
    """Return the folder of the annotations.

    Raises:
        ConfigError: neither `data.root` nor the variable RELGROUNDING_DATA is set, or the folder is missing.
    """
    root = _root(config)
    if is_url(root):
        raise ConfigError(f"data.root is {masked(root)}, a URL; data_folder fetches a folder of it")
    path = Path(root)
    if not os.path.isdir(path):  # which, unlike Path's, does not mind a name that is too long
        raise ConfigError(f"data.root: {path} is not a directory")
    return path


def data_folder(config: DataConfig, name: str) -> Path:
    """Return a folder below that of the annotations; where `data.root` is a URL, its copy in the cache.

    Raises:
        ConfigError: as `data_root`.
        DataError: it cannot be fetched.
    """
    root = _root(config)
    return fetched(f"{root.rstrip('/')}/{name}") if is_url(root) else data_root(config) / name


def _root(config: DataConfig) -> str:
    root = config.root or os.environ.get("RELGROUNDING_DATA", "")
    if not root:
        raise ConfigError(
            f"data.root is empty and RELGROUNDING_DATA is not set: name the folder that holds the annotations of "
            f"{config.dataset}, for example data.root=/data"
        )
    return root


def find_file(config: DataConfig, name: str, key: str, remedy: str, folders: bool = False) -> Path:
    """Return a file that is given as a path of its own or below the root; the copy of one that a URL names.

    Args:
        config: the section `data`.
        name: what is looked for.
        key: of the setting that names it.
        remedy: how it is made.
        folders: whether it may be a folder of files.

    Raises:
        ConfigError: it is in neither of the two; the message names both and `remedy`.
    """
    if not name:
        raise ConfigError(f"{key} is empty; {remedy}")
    own = local_path(name)
    if _is_named(own, folders):
        return own
    below = data_folder(config, name)
    if _is_named(below, folders):
        return below
    raise ConfigError(f"{key}: neither {own} nor {below} exists; {remedy}")


def _is_named(path: Path, folders: bool) -> bool:
    """Whether there is something that its reader takes, or refuses for what it is: a FIFO is there, too."""
    return os.path.exists(path) and (folders or not os.path.isdir(path))
