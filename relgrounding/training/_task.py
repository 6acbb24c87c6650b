"""The data of a run: training, validation and test queries, features, vocabulary."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding._cache import cache_folder
from relgrounding._printing import get_logger
from relgrounding.config import Config, ConfigError, with_settings
from relgrounding.datasets import Annotations, Dataset, Query, columns, find_file
from relgrounding.datasets._fingerprint import file_digest, queries_digest
from relgrounding.datasets._stream import first_rows
from relgrounding.features import Vocabulary, load_word_vectors
from relgrounding.features.vocabulary import words_that_share
from relgrounding.io import BadAnnotation, BadFeatures, MissingFeatures, Problems
from relgrounding.io._errors import RecordedProblems
from relgrounding.io._ids import did_you_mean
from relgrounding.modalities import Collator, Modality
from relgrounding.models import System, first_member
from relgrounding.ops import available_backends
from relgrounding.predictor import Predictor, untrained
from relgrounding.runs import RunFolder
from relgrounding.training._negatives import check_negatives
from relgrounding.training._schedule import planned

logger = get_logger("relgrounding.training")

UNREAD = {
    "word_vectors": "the vectors are in the checkpoint",
    "word_offset": "the vectors are in the checkpoint",
    "validation": "it is about training",
    "train_queries": "it is about training",
    "batch_size": "it is about training; eval.batch_size is the run's",
    "block_by": "it is about training",
    "block_size": "it is about training",
}
"""Settings of the section `data` that an evaluation does not read, and the reason."""


@dataclass
class Split:
    """Queries and the features of their items."""

    queries: Sequence[Query]
    store: Any
    durations: dict[str, float] = field(default_factory=dict)


@dataclass
class Task:
    """Training and validation queries, vocabulary, word vectors.

    Attributes:
        train: training queries; only the floors read their targets.
        validation: held out of the training split, by video or image; selects the epoch.
        vocabulary: words of `train`.
        vectors: (words, dim) pretrained vectors; None: trained from scratch.
        durations: of each video, in seconds.
        floors: query-agnostic floors fitted on `train`, on first use.
    """

    config: Config
    train: Split
    validation: Split
    vocabulary: Vocabulary
    vectors: Float[Tensor, "words dim"] | None = None
    durations: dict[str, float] = field(default_factory=dict)
    floors: Any = None
    width: int = 0
    """Of the features, where they are not read before the splits are; 0: that of the training features."""

    @property
    def modality(self) -> Modality:
        """Modality of the items."""
        return self.config.modality

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.config.dataset

    @property
    def feature_dim(self) -> int:
        """Width of a clip or region feature."""
        return self.width or self.train.store.dim

    def test(self, split: str) -> Split:
        """Read a test split."""
        found = _read_split(self.config, split, self.train.store)
        self.durations.update(found.durations)
        return found

    def predictor(self, model: System) -> Predictor:
        """Return a predictor with a model of this task."""
        return Predictor(self.config, model, self.vocabulary)

    def fingerprint(self) -> dict[str, str]:
        """Return digests of the training data, equal on all machines; empty for generated data.

        Returns:
            "features" (of the file), "annotations" (training and held-out queries, durations) and, where there are
            pretrained vectors, "word vectors" (of the words in use): each changes if training would.
        """
        path = getattr(self.train.store, "path", None)
        if not isinstance(path, Path):
            return {}
        queries = [self.train.queries, self.validation.queries]
        found = {"annotations": queries_digest(queries, self.durations), "features": file_digest(path)}
        if self.vectors is not None:
            # Without the row of unknown words: a mean, whose last bits depend on the machine.
            table = self.vectors[2:].contiguous()
            content = [repr(self.vocabulary.to_list()).encode(), table.numpy().tobytes()]
            found["word vectors"] = hashlib.sha256(b"".join(content)).hexdigest()
        return found

    def collator(self, split: Split) -> Collator:
        """Return the collator of a split."""
        config = self.config
        return self.modality.collator(split.queries, split.store, self.vocabulary, config.data, **config.graph_options)


def make_task(config: Config, vocabulary: list[str] | None = None) -> Task:
    """Read the training data of a configuration.

    Args:
        config: see `relgrounding.config.Config`.
        vocabulary: words of a checkpoint, in order; None: words of the training queries.

    Raises:
        ConfigError: files are missing or no batch has a negative; the message says what to do.
    """
    settings = config.data
    train, validation = read_training(config)
    check_negatives(train.queries, validation.queries, config, train.store)
    known = Vocabulary.from_list(vocabulary or [])
    if not vocabulary:
        known = Vocabulary.from_counts(columns(train.queries).word_counts())
    vectors = None
    if settings.word_vectors:
        path = find_file(settings, settings.word_vectors, "data.word_vectors", "leave it empty to train word vectors")
        known, vectors = load_word_vectors(path, known, cache_folder(), settings.word_offset)
        _tell_shared(known, vectors)
    return Task(config, train, validation, known, vectors, dict(train.durations))


def _tell_shared(words: Vocabulary, vectors: Tensor) -> None:
    """Warn of words that a model cannot tell apart."""
    if groups := words_that_share(words, vectors):
        logger.warning(
            "%d of %d words have the vector of another word, such as %s: to the model they are one word; "
            "data.word_offset=1 tells them apart",
            *(sum(map(len, groups)), len(words.to_list()), " and ".join(groups[0][:2])),
        )


def make_test_task(config: Config, folder: RunFolder) -> Task:
    """Read what evaluating a run needs: its checkpoint and the features, but no training data.

    Args:
        config: of the run, possibly with other data (`with_data`).
        folder: of the run, with best.pt.

    Raises:
        ConfigError: there is no feature file, or its features have another width than in training.
        RunError: there is no checkpoint, or it belongs to another model.
    """
    saved = folder.load("best.pt")
    weights = first_member(saved["model"])
    store = open_store(config)
    try:
        width = config.system.feature_dim(config.model, weights)
    except LookupError as error:
        raise folder.another_model("best.pt", error.args[0]) from None
    if store is not None and store.dim != width:
        raise ConfigError(
            f"{getattr(store, 'path', config.data.dataset)}: features of width {store.dim}, but the run was trained "
            f"on width {width}; take the features from the same extractor"
        )
    empty = Split([], store)
    words = Vocabulary.from_list(saved["vocabulary"])
    return Task(config, empty, empty, words, weights.get("embedding.vectors"), width=width)


def with_data(config: Config, changes: Sequence[str]) -> Config:
    """Return the configuration of a run for evaluation on other data.

    Args:
        config: of the run.
        changes: settings of the section `data`, such as `root=/data`.

    Raises:
        ConfigError: an unknown setting, one that an evaluation does not read, or data that the model does not fit.
    """
    for change in changes:
        key = change.partition("=")[0]
        if key in UNREAD:
            raise ConfigError(f"--data {change}: an evaluation does not read data.{key}: {UNREAD[key]}")
        known = [f.name for f in dataclasses.fields(config.data)]
        if "=" not in change or key not in known:
            raise ConfigError(f"--data {change}: give KEY=VALUE, where KEY is one of {', '.join(known)}")
    changed = with_settings(config, [f"data.{change}" for change in changes])
    for change in changes:
        if changed.dataset.generated and change.partition("=")[0] in ("features", "root"):
            raise ConfigError(f"--data {change}: {changed.data.dataset} is generated, and reads no files")
    return changed


def read_training(config: Config) -> tuple[Split, Split]:
    """Read the training split; return its training part and its held-out part."""
    settings = config.data
    whole = _read_split(config, "train", open_store(config))
    train, validation = hold_out(whole.queries, settings.validation, config.seed)
    if settings.train_queries and settings.train_queries < len(train):
        generator = torch.Generator().manual_seed(config.seed)
        keep = torch.randperm(len(train), generator=generator)[: settings.train_queries]
        train = columns(train).take(keep.sort().values.numpy())
    return Split(train, whole.store, whole.durations), Split(validation, whole.store, whole.durations)


def check_tests(config: Config) -> None:
    """Read the annotations of the test splits, before a model is trained; what is left out is logged by the evaluation.

    Raises:
        ConfigError, DataError: a split is missing, or its annotations cannot be used.
    """
    dataset, splits = config.dataset, config.data.test_splits
    dataset.check_splits(splits)
    for split in () if dataset.generated else splits:
        problems = RecordedProblems(config.data.on_error)
        found = dataset.read(split, problems)
        if found.store is None and not with_words(found.queries, problems):
            raise _no_query(config, split)


def check_backend(config: Config) -> None:
    """Raise ConfigError if the backend of a run is not available."""
    if config.backend != "auto" and any(map(config.system.reads_graph, config.committee.members)):
        reason = available_backends()[config.backend]
        if reason:
            raise ConfigError(f"backend is {config.backend}, which cannot run here: {reason}; use backend=auto")


def build_model(task: Task) -> System:
    """Return the untrained model of a task."""
    return untrained(task.config, task.feature_dim, len(task.vocabulary), task.vectors)


def words_of_start(config: Config, folder: RunFolder, resume: bool) -> list[str] | None:
    """Return the vocabulary of the run that a run starts from; None: it starts from scratch.

    Args:
        config: of the run.
        folder: of the run.
        resume: whether the run is resumed; its own checkpoint then holds the vocabulary.
    """
    start = planned(config)[0].start_from
    if not start:
        return None
    return (folder.load("last.pt") if resume else RunFolder(start).load("best.pt"))["vocabulary"]


def hold_out(queries: Sequence[Query], share: float, seed: int) -> tuple[Sequence[Query], Sequence[Query]]:
    """Split queries in two by item, or by group if they have one: no item has queries on both sides.

    Args:
        queries: of the training split.
        share: share of the held-out items; at least one is held out.
        seed: of the draw.

    Returns:
        The queries to train on and those held out.
    """
    known = columns(queries)
    units, unit = known.units()
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed)).tolist()
    alphabetic = sorted(range(len(units)), key=units.__getitem__)
    held = np.zeros(len(units), dtype=bool)
    held[[alphabetic[i] for i in order[: max(1, round(share * len(units)))]]] = True
    return known.take(np.flatnonzero(~held[unit])), known.take(np.flatnonzero(held[unit]))


def open_store(config: Config) -> Any:
    """Return the feature store of a configuration; None if the data set generates its features."""
    dataset = config.dataset
    return None if dataset.generated else config.modality.open_store(dataset.feature_file())


def _read_split(config: Config, split: str, store: Any) -> Split:
    settings, dataset = config.data, config.dataset
    problems = Problems(settings.on_error)
    found = dataset.read(split, problems)
    if found.store is not None:
        return Split(found.queries, found.store, found.durations)
    found = found._replace(queries=with_words(found.queries, problems))
    queries = usable(found, store, config.modality, problems)
    if problems.total:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(problems.counts.items()))
        logger.warning("%s %s: %d queries left, skipped %s", settings.dataset, split, len(queries), kinds)
    cut = int((columns(queries).lengths() > settings.max_words).sum())
    if cut:
        logger.warning(
            "%s %s: of %d of %d sentences (%.1f %%) only the first data.max_words=%d words are read",
            *(settings.dataset, split, cut, len(queries), 100 * cut / len(queries), settings.max_words),
        )
    if not queries:
        dataset.check_splits([split])  # names the splits that there are
        raise _no_query(config, split)
    return Split(queries, store, found.durations)


def _no_query(config: Config, split: str) -> ConfigError:
    return ConfigError(f"{config.data.dataset} {split}: no query can be used; relgrounding prepare verify says why")


def with_words(queries: Sequence[Query], problems: Problems) -> Sequence[Query]:
    """Return the queries that hold a word; `problems` says what becomes of the others."""
    known = columns(queries)
    wordless = known.lengths() == 0
    for row in np.flatnonzero(wordless).tolist():
        query = queries[row]
        with problems:
            raise BadAnnotation(f"query {query.id!r}: {query.text[:40]!r} holds no word; drop it")
    return known.take(np.flatnonzero(~wordless)) if wordless.any() else queries


def usable(found: Annotations, store: Any, modality: Modality, problems: Problems) -> Sequence[Query]:
    """Return the queries whose item has features and whose right answers lie within it.

    Where bad ones are skipped, the features of every item are read once: a batch cannot do without one of its items.

    Args:
        found: annotations of a split.
        store: features by item.
        modality: what items are.
        problems: what becomes of the others.
    """
    known = columns(found.queries)
    items, item = known.items()
    fine = np.zeros(len(items), dtype=bool)
    for place, row in enumerate(first_rows(item, len(items)).tolist()):
        with problems:
            _check_item(found.queries[row], found, store, modality, problems)
            fine[place] = True
    kept = fine[item]
    for row, text in modality.outside(found, [name for name, has in zip(items, fine, strict=True) if has], store):
        kept[row] = False
        problems.add(BadAnnotation(text))
    return found.queries if kept.all() else known.take(np.flatnonzero(kept))


def _check_item(query: Query, found: Annotations, store: Any, modality: Modality, problems: Problems) -> None:
    """Raise DataError where the item of a query cannot be used."""
    if problems.on_error == "skip":
        store[query.item]
    elif query.item not in store:
        near = did_you_mean(query.item, getattr(store, "ids", []))
        raise MissingFeatures(
            f"no features of {query.item!r}, which query {query.id!r} asks about{near}; "
            "relgrounding prepare verify lists all such, data.on_error=skip leaves them out"
        )
    if differs := modality.disagreement(query.item, found, store):
        raise _disagreeing(differs, found, store, modality, problems)
    if missing := modality.missing_fact(query.item, found):
        raise BadAnnotation(missing)


def _disagreeing(first: str, found: Annotations, store: Any, modality: Modality, problems: Problems) -> BadFeatures:
    """Return the error about an item of another length or size; one that stops the run says how many there are."""
    if problems.on_error == "skip":
        return BadFeatures(first)
    items = [item for item in columns(found.queries).items()[0] if item in store]
    count = sum(bool(modality.disagreement(item, found, store)) for item in items)
    return BadFeatures(
        f"{getattr(store, 'path', 'the features')} and the annotations disagree about {count} of {len(items)} "
        f"{modality.item}s: {first}; {modality.remedy} (data.on_error=skip leaves such items out)"
    )
