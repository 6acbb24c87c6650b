"""Interface and registry of modalities."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._registry import Registry
from relgrounding.datasets import Annotations, Query
from relgrounding.features import Vocabulary
from relgrounding.modalities._batches import Batch, Collator

TOP = 5
"""Maximum number of answers per query."""


@dataclass
class NoSettings:
    """A modality without settings of its own."""


@dataclass
class Scored:
    """The candidates of each query with the model's scores.

    Attributes:
        proposals: for each query (P, 2) seconds in float64 or (P, 4) x1 y1 x2 y2 in pixels.
        scores: for each query (P,), from 0 to 1.
        candidates: what selection compares, for each query: (P, 2) spans in clips, or the boxes.
    """

    proposals: list[Float[Tensor, "_proposals ends"]] = field(default_factory=list)
    scores: list[Float[Tensor, " _proposals"]] = field(default_factory=list)
    candidates: list[Tensor] = field(default_factory=list)

    def take(self, indices: Sequence[int]) -> "Scored":
        """Return the queries with these indices."""
        return Scored(*([values[i] for i in indices] for values in (self.proposals, self.scores, self.candidates)))

    def extend(self, other: "Scored") -> None:
        """Add the queries of another."""
        self.proposals += other.proposals
        self.scores += other.scores
        self.candidates += other.candidates

    def __getstate__(self) -> list[Any]:
        # Tensors of queries are parts of one of a batch, and each would be pickled with the whole.
        parts = (self.proposals, self.scores, self.candidates)
        return [[len(scores) for scores in self.scores], *(torch.cat(part) if part else None for part in parts)]

    def __setstate__(self, state: list[Any]) -> None:
        counts, *whole = state
        self.proposals, self.scores, self.candidates = (
            [] if part is None else list(part.split(counts)) for part in whole
        )


class Modality(ABC):
    """Candidates, collation, selection, evaluation, floors and facts about the items of videos or images."""

    name: ClassVar[str]
    """Given by `register_modality`."""
    item: ClassVar[str]
    """Word for the item of a query, such as "video"."""
    answer: ClassVar[str]
    """Word for what a query refers to, such as "moment"."""
    layout: ClassVar[str]
    """Word for the rows of its features in `relgrounding.features.convert`."""
    metric: ClassVar[str]
    """Metric that selects the epoch if `train.select_metric` is empty."""
    selections: ClassVar[tuple[str, ...]] = ("score",)
    """Selection methods: names of the ways to select answers from scored candidates."""
    DataConfig: ClassVar[type] = NoSettings
    """Fields added to the section `data` of a configuration."""
    EvalConfig: ClassVar[type] = NoSettings
    """Fields added to the section `eval`."""

    @abstractmethod
    def open_store(self, path: Path, in_memory: bool = True) -> Any:
        """Return the features in an HDF5 file, or in a folder of shards, by item.

        Raises:
            DataError: they cannot be used.
        """

    def is_own(self, path: Path) -> bool:
        """Whether an HDF5 file has the layout that `open_store` reads, rather than one to convert."""
        return True

    @abstractmethod
    def collator(
        self, queries: Sequence[Query], store: Any, vocabulary: Vocabulary, data: Any, **graph: Any
    ) -> Collator:
        """Return the collator of queries.

        Args:
            queries: of a split.
            store: their features, by item.
            vocabulary: maps words to ids.
            data: the section `data`.
            graph: see `System.graph_options`.
        """

    @abstractmethod
    def candidates(self, batch: Batch, seconds: Sequence[float]) -> tuple[list[Tensor], list[Tensor]]:
        """Return `proposals` and `candidates` of `Scored` for each query of a batch.

        Args:
            batch: on the CPU.
            seconds: length of each query's video; empty for images.
        """

    def categories(self, queries: Sequence[Query], store: Any, data: Any) -> Int[Tensor, " queries"]:
        """Return the most frequent category among the candidates of each query's item; -1 where it is not known.

        Args:
            queries: of a split.
            store: features of their items.
            data: the section `data`.
        """
        return torch.full((len(queries),), -1)

    def counter(self, store: Any) -> Callable[[str], int] | None:
        """Return a function from the id of an item to the number of its proposals; None: it takes reading the features.

        Args:
            store: features by item.
        """
        return None

    def seconds(self, queries: Sequence[Query], durations: Mapping[str, float]) -> list[float]:
        """Return the length of each query's video; nothing for images."""
        return []

    def check_selection(self, selection: str) -> str:
        """Return a selection method, or raise ValueError if it is unknown."""
        if selection not in self.selections:
            known = " or ".join(map(repr, self.selections))
            raise ValueError(f"select is {selection!r}; it is {known}")
        return selection

    @abstractmethod
    def select(self, scored: Scored, variant: str, settings: Any) -> list[list[int]]:
        """Return for each query the indices of its best candidates, best first, at most `TOP`.

        Args:
            scored: candidates and scores.
            variant: the value that `protocols` gives for the protocol: a selection method or a reading.
            settings: the section `eval`.
        """

    def ranked_by(
        self, batch: Batch, scores: Float[Tensor, " nodes"], selection: str, settings: Any
    ) -> Float[Tensor, " nodes"]:
        """Return what a selection method compares the proposals of each item by, from 0 to 1.

        Args:
            batch: with the proposals.
            scores: of the model.
            selection: the method.
            settings: the section `eval`.
        """
        return scores

    def default_selection(self, settings: Any) -> str:
        """Return the selection method that selects the epoch."""
        return self.selections[0]

    @abstractmethod
    def protocols(self, names: Sequence[str] | None, dataset: str, settings: Any) -> dict[str, str]:
        """Return for each protocol of the results its selection method (videos) or its reading (images).

        Args:
            names: protocols of the data set; None: it defines none.
            dataset: its name.
            settings: the section `eval`.
        """

    @abstractmethod
    def main_protocol(self, protocols: Sequence[str], settings: Any) -> str:
        """Return the protocol of a run that selects the epoch; `settings` is the section `eval`."""

    @abstractmethod
    def frame(self, item: str, durations: Mapping[str, float], store: Any) -> dict[str, Any]:
        """Return the facts about an item that drawing its answers needs, for predictions.jsonl."""

    @abstractmethod
    def metrics(
        self, chosen: Sequence[Any], targets: Sequence[Any], variant: str, kinds: Sequence[str] | None
    ) -> dict[str, float]:
        """Return the metrics of a protocol.

        Args:
            chosen: for each query its answers (k, 2) or (k, 4), best first.
            targets: for each query its right answers.
            variant: as for `select`.
            kinds: kind of each query, to report metrics by kind; None: without.
        """

    def metric_names(self, variant: str) -> Sequence[str]:
        """Return the names of the metrics of a protocol, without those of kinds; empty: not known before there are any.

        Args:
            variant: as for `select`.
        """
        return ()

    has_misses: ClassVar[bool] = False
    """Whether `relgrounding.evaluation.name_misses` applies to its answers."""
    fits_floors: ClassVar[bool] = False
    """Whether some floor is fitted on the answers of training queries."""

    def fit_floors(self, queries: Sequence[Query], durations: Mapping[str, float]) -> Any:
        """Return what the floors fit on the answers of training queries; None: nothing."""
        return None

    def floors_to_json(self, fitted: Any) -> dict[str, Any] | None:
        """Return the result of `fit_floors` as JSON values; None: nothing to keep."""
        return None

    def floors_from_json(self, kept: Any) -> Any:
        """Invert `floors_to_json`.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: `kept` is damaged.
        """
        return None

    @abstractmethod
    def floors(
        self, scored: Scored, queries: Sequence[Query], seconds: Sequence[float], variant: str, fitted: Any, kinds: Any
    ) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """Return the metrics of query-agnostic floors by name, and those of the proposal oracle.

        Args:
            scored: candidates.
            queries: each with right answers.
            seconds: length of each query's video; empty for images.
            variant: see `metrics`.
            fitted: result of `fit_floors`; None: floors that need it are left out.
            kinds: see `metrics`.
        """

    @abstractmethod
    def comparable(self, item: str, annotations: Annotations, store: Any) -> bool:
        """Whether features and annotations both state the length or size of an item."""

    @abstractmethod
    def disagreement(self, item: str, annotations: Annotations, store: Any) -> str:
        """Return a sentence on how the features of an item contradict its annotations; empty if they agree.

        Raises:
            MissingFeatures: the store does not hold the item.
            BadFeatures: its features of the item cannot be used.
        """

    def outside(self, annotations: Annotations, items: Collection[str], store: Any) -> Iterator[tuple[int, str]]:
        """Yield each query with a right answer outside of its item, where the features alone state its size.

        Args:
            annotations: of a split.
            items: those with features that can be used.
            store: features by item.

        Yields:
            Index of the query, and a sentence on what is wrong with it.
        """
        yield from ()

    remedy: ClassVar[str]
    """What to do if features and annotations disagree."""

    def missing_fact(self, item: str, annotations: Annotations) -> str:
        """Return a sentence on what the annotations of an item lack; empty if nothing is missing."""
        return ""

    @abstractmethod
    def read_item(
        self, features: object, item: str | None, stores: Any, dim: int, **facts: object
    ) -> tuple[Any, dict[str, float]]:
        """Return the features of one item from arrays or files, and its duration under the id "item".

        Args:
            features: see `relgrounding.Grounder.ground`.
            item: id in a file or folder of several items.
            stores: the open files.
            dim: feature width of the model.
            facts: `duration`, `boxes`, `image_size`; None if not given.

        Raises:
            ValueError: they cannot be used.
        """


MODALITIES: Registry[Modality] = Registry("modality", "relgrounding.modalities", base=Modality)
register_modality = MODALITIES.register
"""Decorator that registers a `Modality` under the name that `System.modality` refers to."""
