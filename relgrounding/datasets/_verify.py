"""Whether data is what its publishers say, and whether it fits together: the table of `relgrounding prepare verify`."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from relgrounding._settings import ConfigError
from relgrounding.datasets._dataset import Annotations, Check, Dataset, Published, Query
from relgrounding.datasets._stream import columns
from relgrounding.datasets._verify_features import Facts, feature_checks
from relgrounding.io._errors import DataError, MissingFile, Problems

__all__ = ["format_rows", "verify"]

ROUNDING = 0.011
"""Seconds: annotations are rounded to hundredths."""
OVERHANG = 0.5
"""Pixels."""


def verify(dataset: Dataset, facts: Facts, quiet: bool = True) -> list[Check]:
    """Check the data that a configuration names: annotations always, features where `data.features` is not empty.

    Args:
        dataset: with its settings; bad records are counted, whatever `data.on_error` says.
        facts: the modality, which opens the feature file and compares it with the annotations.
        quiet: without progress bars.

    Raises:
        ConfigError: there is nothing to check, or no folder of annotations.
    """
    if dataset.generated:
        raise ConfigError(f"data.dataset is {dataset.name}: generated data sets have no files to check")
    published, settings = dataset.sizes(), dataset.config
    rows: list[Check] = []
    found: dict[str, Annotations] = {}
    for split in list(published.queries) if published else ["train", *settings.test_splits]:
        problems = Problems("skip")
        try:
            found[split] = dataset.read(split, problems)
        except DataError as error:
            rows.append(_missing(dataset, split, published, error))
            continue
        rows.extend(_counts(dataset, split, found[split], published, problems))
        rows.extend(Check(f"{split}: {what}", "", f"{count:,}", "note") for what, count in problems.notes.items())
        rows.extend(_texts(split, found[split].queries, settings.max_words))
        rows.extend(_segments(dataset, split, found[split]))
    if not found:
        return rows
    rows.extend(_boxes(found))
    rows.extend(_wholes(found, published))
    rows.extend(_shared(found, published.train if published else ("train",)))
    rows.extend(dataset.checks(found))
    whole, items = Annotations([], {}, {}), set[str]()
    for annotations in found.values():
        items.update(columns(annotations.queries).items()[0])
        whole.durations.update(annotations.durations)
        whole.sizes.update(annotations.sizes)
    rows.extend(feature_checks(dataset, found, whole, sorted(items), facts, quiet))
    return rows


def format_rows(rows: Sequence[Check]) -> str:
    """Return the table, and under it how many rows differ."""
    wrong = sum(row.status == "DIFFERS" for row in rows)
    # Long paths have no spaces to break at: they stay whole, so that they can be copied.
    wrapped = [
        row._replace(meaning=textwrap.fill(row.meaning, 60, break_long_words=False, break_on_hyphens=False))
        for row in rows
    ]
    table = tabulate(wrapped, headers=Check._fields, disable_numparse=True)
    return f"{table}\n\n{len(rows)} checks, {wrong} of them differ" + ("" if wrong else ": all as it should be")


def _compare(check: str, expected: int, count: int, meaning: str, known: str = "") -> Check:
    """Return a row of two numbers.

    Args:
        check: what was looked at.
        expected: the number that should be.
        count: the number that is.
        meaning: what a difference means.
        known: why this difference is as it should be; then it is a note.
    """
    if count == expected:
        return Check(check, f"{expected:,}", f"{count:,}", "ok")
    return Check(check, f"{expected:,}", f"{count:,}", "note" if known else "DIFFERS", known or meaning)


def _missing(dataset: Dataset, split: str, published: Published | None, error: DataError) -> Check:
    check = f"{split}: queries"
    if split in dataset.optional and isinstance(error, MissingFile) and split not in dataset.config.test_splits:
        meaning = f"its file is not here, and data.test_splits does not name {split}: nothing reads it"
        return Check(check, "a file", "none", "note", meaning)
    expected = f"{published.queries[split]:,}" if published and published.queries[split] else "a file"
    return Check(check, expected, "none", "DIFFERS", str(error))


def _counts(
    dataset: Dataset, split: str, annotations: Annotations, published: Published | None, problems: Problems
) -> Iterator[Check]:
    queries = annotations.queries
    items = columns(queries).items()[0]
    expected = published.queries[split] if published else 0
    if expected:
        part = f"{len(queries) / expected:.0%} of the expressions"
        alone = "one of each image, " if len(queries) == len(items) > 1 else ""
        meaning = f"the file holds {part}, {alone}so it is not the whole release: results cannot be compared"
        known = dataset.known.get((split, "queries", len(queries)), "")
        yield _compare(f"{split}: queries", expected, len(queries), meaning, known)
    else:
        yield Check(f"{split}: queries", "1 or more", f"{len(queries):,}", "ok" if queries else "DIFFERS")
    if published and split in published.items:
        meaning = f"{dataset.item}s are missing or of another release: download the file again"
        yield _compare(f"{split}: {dataset.item}s", published.items[split], len(items), meaning)
    else:
        yield Check(f"{split}: items", "", f"{len(items):,}", "ok")
    kinds = ", ".join(f"{count} {kind}" for kind, count in problems.counts.items())
    meaning = f"{kinds}: the log above has the first; data.on_error=skip leaves them out"
    yield _compare(f"{split}: bad records", 0, problems.total, meaning)


def _texts(split: str, queries: Sequence[Query], max_words: int) -> Iterator[Check]:
    lengths = columns(queries).lengths()
    empty, cut = int((lengths == 0).sum()), int((lengths > max_words).sum())
    yield _compare(f"{split}: queries without a word", 0, empty, "only signs: data.on_error=skip leaves them out")
    if cut:
        meaning = f"of more than data.max_words={max_words} words, up to {lengths.max()}: the rest of them is not read"
        yield Check(f"{split}: sentences cut", "", f"{cut:,} ({cut / len(queries):.1%})", "note", meaning)
    repeated = len(queries) - _different(query.id for query in queries)
    yield _compare(f"{split}: repeated ids", 0, repeated, "predictions could not be told apart: give each its own")
    same = len(queries) - _different((query.item, query.text, query.targets) for query in queries)
    if same:
        meaning = "same item, words and answer, by several annotators or captions: they count several times"
        yield Check(f"{split}: duplicates", "", f"{same:,}", "note", meaning)


def _different(values: Iterable[Any]) -> int:
    """Return how many values are different, by 64 bits of each."""
    return len(np.unique(np.fromiter(map(hash, values), dtype=np.int64)))


def _segments(dataset: Dataset, split: str, annotations: Annotations) -> Iterator[Check]:
    lengths, items = annotations.durations, columns(annotations.queries).items()[0]
    counts = dict.fromkeys(("segments before 0", "segments without length", "segments after the end"), 0)
    segments = 0
    for query in annotations.queries:
        for start, end in (target for target in query.targets if len(target) == 2):
            segments += 1
            if query.item in lengths:
                counts["segments before 0"] += start < 0
                counts["segments without length"] += start >= end
                counts["segments after the end"] += end > lengths[query.item] + ROUNDING
    if not lengths and not segments:
        return
    lacking = sum(item not in lengths for item in items)
    yield _compare(f"{split}: videos without duration", 0, lacking, "segments cannot be turned into seconds")
    for name, count in counts.items():
        meaning = "no proposal can reach them: are they in seconds, and the durations of this release?"
        yield _compare(f"{split}: {name}", 0, count, meaning, dataset.known.get((split, name, count), ""))


def _boxes(found: dict[str, Annotations]) -> Iterator[Check]:
    for split, (queries, _, sizes, *_) in found.items():
        if not sizes:
            continue
        known = [(t, sizes[q.item]) for q in queries if q.item in sizes for t in q.targets if len(t) == 4]
        outside = sum(
            min(x1, y1) < -OVERHANG or x2 > w + OVERHANG or y2 > h + OVERHANG for (x1, y1, x2, y2), (w, h) in known
        )
        if known:
            yield _compare(f"{split}: boxes outside images", 0, outside, "are they x1 y1 x2 y2 in pixels?")


def _wholes(found: dict[str, Annotations], published: Published | None) -> Iterator[Check]:
    if published is None or not published.objects:
        return
    queries = [query for annotations in found.values() for query in annotations.queries]
    objects, images = len({(q.item, q.targets) for q in queries}), len({q.item for q in queries})
    meaning = "follows from the expressions that are missing"
    if {split: len(annotations.queries) for split, annotations in found.items()} == published.queries:
        meaning = "instances.json and the expressions are not of one release"
    yield _compare("all: objects", published.objects, objects, meaning)
    yield _compare("all: images", published.images, images, meaning)


def _shared(found: dict[str, Annotations], train: Sequence[str]) -> Iterator[Check]:
    learnt = {item for name in train if name in found for item in columns(found[name].queries).items()[0]}
    for split, annotations in found.items():
        if split not in train:
            both = learnt & set(columns(annotations.queries).items()[0])
            meaning = "the same item is learnt from and tested on: results are too good; take it out of one"
            yield _compare(f"train and {split}: shared items", 0, len(both), meaning)
