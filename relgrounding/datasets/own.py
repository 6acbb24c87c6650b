"""Your own videos or images: queries in a JSON lines file, with or without ground truth."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from relgrounding._printing import brief, printable, progress
from relgrounding._settings import ConfigError
from relgrounding.datasets._dataset import Annotations, DataConfig, Dataset, Query, find_file, register_dataset
from relgrounding.datasets._stream import IndexedQueries, IndexWriter, SeenIds, open_index
from relgrounding.io._errors import BadAnnotation, Problems, RecordedProblems, check_id
from relgrounding.io._lines import Line, read_lines
from relgrounding.io._regular import existing, read_text
from relgrounding.io._values import LARGEST, check_seconds, check_text, is_number, parse_json

__all__ = ["Own", "OwnQueries", "load_own", "stream_own"]

STREAMED_FROM = 64 * 2**20
"""Bytes of a file from which on `data.stream=auto` does not hold its queries in memory."""
CUT = "segments cut at the end of their video"
OVERHANG = 2.0
"""Seconds: times are rounded, and a video's last second is counted in different ways."""
TARGETS = {"video": ("segment", "segments", 2), "image": ("box", "boxes", 4)}
"""By what a query is about: the keys of one right answer and of several, and how many numbers one has."""
KEYS = ("id", "video", "image", "query", "duration", "size", "segment", "segments", "box", "boxes", "split", "kind")
REMEDY = "write one JSON object per line, see docs/data.md, 'Your own data'"


@dataclass
class OwnConfig(DataConfig):
    """Settings of your own data."""

    queries: str = ""
    """JSON lines file of the queries, as given or below `root`, or a URL; `{split}` in it stands for the split."""
    stream: Literal["auto", "true", "false"] = "auto"
    """Whether queries stay in their file and are read when they are asked for, by an index that is made once and kept
    in the cache, with the same results: true, false, or auto: for files of 64 MB or more."""


@register_dataset("own")
class Own(Dataset):
    """Your own videos or images."""

    Config = OwnConfig
    by_kind = True

    def read(self, split: str, problems: Problems | None = None) -> Annotations:
        """Read `data.queries`; see `load_own`."""
        name = self.config.queries
        if not name:
            raise ConfigError(f"data.queries is empty; name the JSON lines file of your queries: {REMEDY}")
        # The name may hold {split}, so it is looked for with the split filled in and read with the split left open.
        path = find_file(self.config, name.replace("{split}", split), "data.queries", REMEDY)
        only = None if "{split}" in name else split
        stream = self.config.stream == "true" or (self.config.stream == "auto" and path.stat().st_size >= STREAMED_FROM)
        read = _stream if stream else _load
        return read(path, self.item, only, problems or Problems(self.config.on_error))

    def check_splits(self, names: Sequence[str]) -> None:
        name = self.config.queries
        paths = [find_file(self.config, name.replace("{split}", split), "data.queries", REMEDY) for split in names]
        if "{split}" in name:
            return
        found: set[str] = set()
        for line in read_lines(paths[0]):
            # `read` says what is wrong with a line.
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                found.add(str(json.loads(line.text)["split"]))
            if found.issuperset(names):
                return
        for split in names:
            if found and split not in found:
                known = ", ".join(sorted(found))[:200]
                raise ConfigError(
                    f"{paths[0]} has no line of split {split!r}; it has {known} (data.test_splits, --split)"
                )


class OwnQueries(NamedTuple):
    """Queries of your own.

    Args:
        queries: in the order of the file, a list from `load_own`; without targets where a line gives none.
        durations: seconds of each video.
        sizes: (width, height) in pixels of each image whose lines give one.
    """

    queries: Sequence[Query]
    durations: dict[str, float]
    sizes: dict[str, tuple[int, int]]


def load_own(path: str | Path, item: str, split: str | None = None, problems: Problems | None = None) -> OwnQueries:
    """Load queries of your own videos or images, one JSON object per line.

    `{"video": "kitchen", "duration": 31.2, "query": "person opens the door", "segment": [3, 7.5]}` or
    `{"image": "street", "size": [640, 480], "query": "the red car", "box": [10, 20, 200, 120]}`. The right answer
    (`segment`, or `segments` for several; `box`, `boxes`) may be left out. Also known: `id`, `split`, `kind`.
    A segment that ends up to 2 s after its video is cut at the video's end, counted and noted.

    Args:
        path: JSON lines file; `{split}` in its name stands for the split.
        item: "video" or "image".
        split: lines to keep, by their `split`, where the name does not hold it; None: all lines.
        problems: what becomes of a bad line; None: the first one stops.

    Returns:
        The queries. Ids are `id`, or the number of the line from 1. Boxes are x1, y1, x2, y2 in pixels.

    Raises:
        MissingFile: no such file.
        BadAnnotation: a line that is not as above; the message has its number.
    """
    return OwnQueries(*_load(path, item, split, problems or Problems())[:3])


def _load(path: str | Path, item: str, split: str | None, problems: Problems) -> Annotations:
    path, split = _file_of(path, split)
    known = _Known(item, set())
    lines = (Line(number, 0, text) for number, text in enumerate(read_text(path).split("\n"), start=1))
    queries = [query for _, query in _queries(lines, path, split, known, problems)]
    problems.note(CUT, known.cut, path)
    return Annotations(queries, known.durations, known.sizes, reach=known.reach)


def stream_own(path: str | Path, item: str, split: str | None = None, problems: Problems | None = None) -> OwnQueries:
    """Return the same queries as `load_own`, which stay in their file: each is read when it is asked for.

    The lines are validated once, by an index that is kept in the cache for the content of the file. Memory grows with
    the number of videos or images and of different words, not with that of queries.

    Args:
        path: see `load_own`, and the others.
        item: likewise.
        split: likewise.
        problems: likewise.

    Raises:
        MissingFile: as `load_own`.
        BadAnnotation: likewise; the file changed while it was in use.
        OSError: the index cannot be written.
    """
    return OwnQueries(*_stream(path, item, split, problems or Problems())[:3])


def _stream(path: str | Path, item: str, split: str | None, problems: Problems) -> Annotations:
    path, split = _file_of(path, split)
    recorded = RecordedProblems(problems.on_error)
    index = open_index(path, f"own {item} {split!r}", partial(_fill, path, item, split, recorded))
    problems.replay(index.facts["problems"])
    problems.note(CUT, index.facts["cut"], path)
    sizes = {name: (width, height) for name, (width, height) in index.facts["sizes"].items()}
    queries = IndexedQueries(index, partial(_read_again, item))
    return Annotations(queries, index.facts["durations"], sizes, reach=index.facts["reach"])


def _file_of(path: str | Path, split: str | None) -> tuple[Path, str | None]:
    """Return the file, and the split whose lines are kept; None: all lines."""
    if "{split}" in str(path):
        path, split = str(path).replace("{split}", split or ""), None
    return existing(Path(path), REMEDY), split


@dataclass
class _Known:
    """What the lines so far have said."""

    item: str
    ids: Any
    durations: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    reach: dict[str, tuple[float, float]] = field(default_factory=dict)
    cut: int = 0


def _queries(
    lines: Iterable[Line], path: Path, split: str | None, known: _Known, problems: Problems
) -> Iterator[tuple[Line, Query]]:
    """Yield the queries of a split, or of all lines, each with its line."""
    for line in lines:
        if not line.text.strip():
            continue
        query = None
        with problems:
            where = f"{path}, line {line.number}"
            entry = _parse(line.text, where)
            if split is None or _split(entry, split, where) == split:
                query = _checked(_query(entry, known.item, line.number, where), entry, where, known)
        if query is not None:
            yield line, query


def _fill(path: Path, item: str, split: str | None, problems: RecordedProblems, writer: IndexWriter) -> None:
    """Write the index of a file."""
    known = _Known(item, SeenIds())
    bar: Any = progress(desc=f"indexing {path.name}", unit="B", total=path.stat().st_size)
    with bar:
        for line, query in _queries(_counted(read_lines(path), bar), path, split, known, problems):
            writer.add(line.number, line.begin, query)
    writer.facts |= {"cut": known.cut, "problems": problems.recorded}
    writer.facts |= {"durations": known.durations, "sizes": known.sizes, "reach": known.reach}


def _counted(lines: Iterable[Line], bar: Any) -> Iterator[Line]:
    for line in lines:
        if not line.number % 4096:
            bar.update(line.begin - bar.n)
        yield line


def _read_again(item: str, text: str, number: int) -> Query:
    """Return the query of a line that was found to be right when the index was made."""
    entry = json.loads(text)
    one, several, _ = TARGETS[item]
    targets = entry[several] if several in entry else [entry[one]] if one in entry else []
    query = Query(
        str(entry.get("id", number)),
        str(entry[item]),
        entry["query"].strip(),
        tuple(tuple(map(float, target)) for target in targets),
        entry.get("kind", ""),
    )
    return _within(query, float(entry["duration"])) if "video" in entry else query


def _parse(line: str, where: str) -> dict[str, Any]:
    entry = parse_json(line, where, "write one object per line")
    if not isinstance(entry, dict):
        raise BadAnnotation(f"{where}: expected an object such as {{...}}, found {line[:40]!r}")
    unknown = sorted(set(entry) - set(KEYS))
    if unknown:
        raise BadAnnotation(f"{where}: unknown key {unknown[0][:40]!r}; known are {', '.join(KEYS)}")
    return entry


def _split(entry: dict[str, Any], split: str, where: str) -> str:
    value = entry.get("split")
    if not isinstance(value, str) or printable(value) != value:
        raise BadAnnotation(
            f'{where}: no "split"; give it on every line, or make one file per split and write "{{split}}" for its name'
            " in data.queries"
        )
    return value


def _query(entry: dict[str, Any], item: str, number: int, where: str) -> Query:
    if item not in entry:
        raise BadAnnotation(f"{where}: no '{item}'; name the {item} that the query is about")
    text = check_text(entry.get("query"), "query", where)
    one, several, length = TARGETS[item]
    if one in entry and several in entry:
        raise BadAnnotation(f"{where}: both '{one}' and '{several}'; give all right answers in '{several}'")
    for other in (key for kind, keys in TARGETS.items() if kind != item for key in keys[:2] if key in entry):
        raise BadAnnotation(f"{where}: '{other}' does not apply to {item}s; give '{one}' or '{several}'")
    targets = entry[several] if several in entry else [entry[one]] if one in entry else []
    if not isinstance(targets, list):
        raise BadAnnotation(f"{where}: '{several}' is a list of such as [{', '.join('1234'[:length])}]")
    kind = entry.get("kind", "")
    if not isinstance(kind, str) or printable(kind) != kind:
        raise BadAnnotation(f"{where}: 'kind' is {brief(kind)!r}; expected text of one line, no control characters")
    name = check_id(entry.get("id", number), where)
    found = tuple(_target(target, length, where) for target in targets)
    return Query(name, check_id(entry[item], where), text.strip(), found, kind)


def _target(value: Any, length: int, where: str) -> tuple[float, ...]:
    what = "start and end in seconds" if length == 2 else "x1 y1 x2 y2 in pixels"
    half = length // 2
    if not isinstance(value, list) or len(value) != length or not all(map(is_number, value)):
        raise BadAnnotation(f"{where}: expected {what}, found {brief(value, 60)!r}")
    target = tuple(map(float, value))
    if any(low >= high for low, high in zip(target[:half], target[half:], strict=True)) or min(target) < 0:
        wrong = "; is it x y width height? add x to width and y to height" if length == 4 else ""
        raise BadAnnotation(f"{where}: {brief(value, 60)} is empty or below 0; expected {what}{wrong}")
    return target


def _checked(query: Query, entry: dict[str, Any], where: str, known: _Known) -> Query:
    """Return a query after what it says about its item was found to agree with the lines before; segments are cut."""
    if query.id in known.ids:
        raise BadAnnotation(f"{where}: id {query.id!r} comes twice; give each query its own")
    said: dict[str, Any] = known.durations if "video" in entry else known.sizes
    value = _duration(entry, where) if "video" in entry else _size(entry, where)
    if value is not None and said.setdefault(query.item, value) != value:
        raise BadAnnotation(f"{where}: {query.item!r} is {value} here and {said[query.item]} before; which is right?")
    limits = said.get(query.item, (LARGEST, LARGEST))
    for target in query.targets:
        if isinstance(limits, float):
            outside = target[0] >= limits or target[1] > limits + OVERHANG
        else:
            outside = any(end > limit + 1 for end, limit in zip(target[2:], limits, strict=True))
        if outside:
            raise BadAnnotation(f"{where}: {list(target)} lies outside {limits}; is it in seconds or pixels?")
    whole = _within(query, value) if isinstance(value, float) else query
    known.ids.add(query.id)
    if query.item not in said:
        for box in query.targets:
            x, y = known.reach.get(query.item, (0, 0))
            known.reach[query.item] = max(x, box[2]), max(y, box[3])
    known.cut += sum(before != after for before, after in zip(query.targets, whole.targets, strict=True))
    return whole


def _within(query: Query, seconds: float) -> Query:
    """Return a query whose segments end with its video at the latest."""
    if all(end <= seconds for _, end in query.targets):
        return query
    return replace(query, targets=tuple((start, min(end, seconds)) for start, end in query.targets))


def _duration(entry: dict[str, Any], where: str) -> float:
    value = entry.get("duration")
    return check_seconds(value, "duration", where)


def _size(entry: dict[str, Any], where: str) -> tuple[int, int] | None:
    value = entry.get("size")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(is_number(v) and 1 <= v <= LARGEST for v in value):
        raise BadAnnotation(f"{where}: size is {brief(value)}; give width and height in pixels")
    return int(value[0]), int(value[1])
