"""Whether data is what its publishers say, and whether it fits together: the table of `tools/prepare.py verify`."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from relgrounding.config import VIDEO_DATASETS, Config, ConfigError, data_root
from relgrounding.datasets._annotations import Annotations, read_annotations
from relgrounding.datasets._published import KNOWN, PUBLISHED, REDUCED, Published
from relgrounding.datasets._query import Query
from relgrounding.datasets.flickr30k import load_flickr30k
from relgrounding.datasets.refcoco import SPLIT_BY, load_refcoco
from relgrounding.features.vocabulary import tokenize
from relgrounding.io._errors import DataError, MissingFile, Problems, read_text
from relgrounding.training._verify_features import feature_rows

__all__ = ["Row", "format_rows", "verify"]

ROUNDING = 0.011
"""Seconds: annotations are rounded to hundredths."""
OVERHANG = 0.5
"""Pixels."""


class Row(NamedTuple):
    """A line of the table.

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


def verify(config: Config, quiet: bool = True) -> list[Row]:
    """Check the data that a configuration names: annotations always, features where `data.features` is not empty.

    Args:
        config: see `relgrounding.config.Config`; bad records are counted, whatever `data.on_error` says.
        quiet: without progress bars.

    Raises:
        ConfigError: there is nothing to check, or no folder of annotations.
    """
    settings = config.data
    if settings.dataset == "demo":
        raise ConfigError("data.dataset is demo: the embedded scenes have no files to check")
    video = settings.dataset in VIDEO_DATASETS or (settings.dataset == "own" and config.model.name == "vgn")
    published = PUBLISHED.get(settings.dataset)
    names = list(published.queries) if published else ["train", *settings.test_splits]
    rows: list[Row] = []
    found: dict[str, Annotations] = {}
    for split in names:
        problems = Problems("skip")
        try:
            found[split] = read_annotations(settings, split, video, problems)
        except DataError as error:
            rows.append(_missing(config, split, published, error))
            continue
        rows.extend(_counts(config, split, found[split], published, problems))
        rows.extend(Row(f"{split}: {what}", "", f"{count:,}", "note") for what, count in problems.notes.items())
        rows.extend(_texts(split, found[split].queries, settings.max_words))
        if video:
            rows.extend(_segments(settings.dataset, split, found[split]))
    if not found:
        return rows
    if not video:
        rows.extend(_boxes(found))
    rows.extend(_wholes(settings.dataset, found, published))
    rows.extend(_shared(config, found, published.train if published else ("train",)))
    whole = Annotations([], {}, {})
    for annotations in found.values():
        whole.queries.extend(annotations.queries)
        whole.durations.update(annotations.durations)
        whole.sizes.update(annotations.sizes)
    rows.extend(Row(*row) for row in feature_rows(config, whole, video, quiet))
    return rows


def format_rows(rows: Sequence[Row]) -> str:
    """Return the table, and under it how many rows differ."""
    wrong = sum(row.status == "DIFFERS" for row in rows)
    # Long paths have no spaces to break at: they stay whole, so that they can be copied.
    wrapped = [
        row._replace(meaning=textwrap.fill(row.meaning, 60, break_long_words=False, break_on_hyphens=False))
        for row in rows
    ]
    table = tabulate(wrapped, headers=Row._fields, disable_numparse=True)
    return f"{table}\n\n{len(rows)} checks, {wrong} of them differ" + ("" if wrong else ": all as it should be")


def _compare(check: str, expected: int, count: int, meaning: str, known: tuple[str, str, str] | None = None) -> Row:
    """Return a row of two numbers; a difference that is known is a note."""
    if count == expected:
        return Row(check, f"{expected:,}", f"{count:,}", "ok")
    note = KNOWN.get((*known, count)) if known else None
    return Row(check, f"{expected:,}", f"{count:,}", "note" if note else "DIFFERS", note or meaning)


def _missing(config: Config, split: str, published: Published | None, error: DataError) -> Row:
    check, settings = f"{split}: queries", config.data
    # Of this data set people publish results on val, and many copies come without the list of test.
    if (
        settings.dataset == "flickr30k"
        and isinstance(error, MissingFile)
        and split not in ("train", *settings.test_splits)
    ):
        meaning = f"{split}.txt is not here, and data.test_splits does not name {split}: nothing reads it"
        return Row(check, "a file", "none", "note", meaning)
    expected = f"{published.queries[split]:,}" if published and published.queries[split] else "a file"
    return Row(check, expected, "none", "DIFFERS", str(error))


def _counts(
    config: Config, split: str, annotations: Annotations, published: Published | None, problems: Problems
) -> Iterator[Row]:
    settings, queries = config.data, annotations.queries
    items = {query.item for query in queries}
    official = not settings.split_by or settings.split_by == SPLIT_BY.get(settings.dataset, ("",))[0]
    official &= settings.protocol == "official"
    expected = published.queries[split] if published and official else 0
    if settings.protocol == "reduced" and settings.dataset == "charades_sta":
        expected = REDUCED[split]
    if expected:
        part = f"{len(queries) / expected:.0%} of the expressions"
        alone = "one of each image, " if len(queries) == len(items) > 1 else ""
        meaning = f"the file holds {part}, {alone}so it is not the whole release: results cannot be compared"
        yield _compare(f"{split}: queries", expected, len(queries), meaning, (settings.dataset, split, "queries"))
    else:
        yield Row(f"{split}: queries", "1 or more", f"{len(queries):,}", "ok" if queries else "DIFFERS")
    if published and official and split in published.items:
        meaning = "videos are missing or of another release: download the file again"
        yield _compare(f"{split}: videos", published.items[split], len(items), meaning)
    elif settings.dataset == "flickr30k":
        folder = data_root(settings) / "flickr30k_entities"
        listed = read_text(folder / f"{split}.txt").split()
        annotated = {query.item for query in load_flickr30k(folder, split, min_boxes=1, problems=Problems("skip"))}
        meaning = "annotations of the other images are not here: results cannot be compared"
        yield _compare(f"{split}: images of the list", len(listed), len(annotated), meaning)
        meaning = "only these are asked about: where there is one box, every answer is right"
        yield Row(f"{split}: images with two boxes", "", f"{len(items):,}", "note", meaning)
    else:
        yield Row(f"{split}: items", "", f"{len(items):,}", "ok")
    kinds = ", ".join(f"{count} {kind}" for kind, count in problems.counts.items())
    meaning = f"{kinds}: the log above has the first; data.on_error=skip leaves them out"
    yield _compare(f"{split}: bad records", 0, problems.total, meaning)


def _texts(split: str, queries: Sequence[Query], max_words: int) -> Iterator[Row]:
    lengths = [len(tokenize(query.text)) for query in queries]
    empty, cut = lengths.count(0), sum(length > max_words for length in lengths)
    yield _compare(f"{split}: queries without a word", 0, empty, "only signs: data.on_error=skip leaves them out")
    if cut:
        meaning = f"of more than data.max_words={max_words} words, up to {max(lengths)}: the rest of them is not read"
        yield Row(f"{split}: sentences cut", "", f"{cut:,} ({cut / len(queries):.1%})", "note", meaning)
    repeated = len(queries) - len({query.id for query in queries})
    yield _compare(f"{split}: repeated ids", 0, repeated, "predictions could not be told apart: give each its own")
    same = len(queries) - len({(query.item, query.text, query.targets) for query in queries})
    if same:
        meaning = "same item, words and answer, by several annotators or captions: they count several times"
        yield Row(f"{split}: duplicates", "", f"{same:,}", "note", meaning)


def _segments(dataset: str, split: str, annotations: Annotations) -> Iterator[Row]:
    lengths, queries = annotations.durations, annotations.queries
    lacking = {query.item for query in queries if query.item not in lengths}
    yield _compare(f"{split}: videos without duration", 0, len(lacking), "segments cannot be turned into seconds")
    known = [(t, lengths[q.item]) for q in queries if q.item in lengths for t in q.targets]
    counts: dict[str, int] = {
        "segments before 0": sum(start < 0 for (start, _), _ in known),
        "segments without length": sum(start >= end for (start, end), _ in known),
        "segments after the end": sum(end > length + ROUNDING for (_, end), length in known),
    }
    for name, count in counts.items():
        meaning = "no proposal can reach them: are they in seconds, and the durations of this release?"
        yield _compare(f"{split}: {name}", 0, count, meaning, (dataset, split, name))


def _boxes(found: dict[str, Annotations]) -> Iterator[Row]:
    for split, annotations in found.items():
        sizes = annotations.sizes
        known = [(t, sizes[q.item]) for q in annotations.queries if q.item in sizes for t in q.targets]
        outside = sum(
            min(x1, y1) < -OVERHANG or x2 > w + OVERHANG or y2 > h + OVERHANG for (x1, y1, x2, y2), (w, h) in known
        )
        if known:
            yield _compare(f"{split}: boxes outside images", 0, outside, "are they x1 y1 x2 y2 in pixels?")


def _wholes(dataset: str, found: dict[str, Annotations], published: Published | None) -> Iterator[Row]:
    if published is None or not published.objects:
        return
    queries = [query for annotations in found.values() for query in annotations.queries]
    objects, images = len({(q.item, q.targets) for q in queries}), len({q.item for q in queries})
    meaning = "follows from the expressions that are missing"
    if {split: len(annotations.queries) for split, annotations in found.items()} == published.queries:
        meaning = "instances.json and the expressions are not of one release"
    yield _compare("all: objects", published.objects, objects, meaning)
    yield _compare("all: images", published.images, images, meaning)


def _shared(config: Config, found: dict[str, Annotations], train: Sequence[str]) -> Iterator[Row]:
    learnt = {query.item for name in train if name in found for query in found[name].queries}
    for split, annotations in found.items():
        if split not in train:
            both = learnt & {query.item for query in annotations.queries}
            meaning = "the same item is learnt from and tested on: results are too good; take it out of one"
            yield _compare(f"train and {split}: shared items", 0, len(both), meaning)
    dataset = config.data.dataset
    if dataset not in SPLIT_BY or not learnt:
        return
    root: Path = data_root(config.data) / "refcoco"
    for other in SPLIT_BY:
        for split in PUBLISHED[other].queries:
            if other != dataset and split != "train":
                try:
                    tested = {query.item for query in load_refcoco(root, other, split)}
                except DataError:
                    continue
                both = learnt & tested
                meaning = f"train on {dataset} and test on {other} only after taking these out of training"
                status = "note" if both else "ok"
                yield Row(f"train and {other} {split}: shared", "0", f"{len(both):,}", status, meaning if both else "")
