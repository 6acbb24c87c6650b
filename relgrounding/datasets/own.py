"""Your own videos or images: queries in a JSON lines file, with or without ground truth."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from relgrounding._printing import brief, printable
from relgrounding._settings import ConfigError
from relgrounding.datasets._dataset import Annotations, DataConfig, Dataset, Query, find_file, register_dataset
from relgrounding.io._errors import BadAnnotation, Problems, check_id
from relgrounding.io._regular import existing, read_text
from relgrounding.io._values import LARGEST, check_seconds, check_text, is_number, parse_json

__all__ = ["Own", "OwnQueries", "load_own"]

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
    """JSON lines file of the queries, as given or below `root`; `{split}` in it stands for the split."""


@register_dataset("own")
class Own(Dataset):
    """Your own videos or images."""

    Config = OwnConfig

    def read(self, split: str, problems: Problems | None = None) -> Annotations:
        """Read `data.queries`; see `load_own`."""
        name = self.config.queries
        if not name:
            raise ConfigError(f"data.queries is empty; name the JSON lines file of your queries: {REMEDY}")
        # The name may hold {split}, so it is looked for with the split filled in and read with the split left open.
        path = find_file(self.config, name.replace("{split}", split), "data.queries", REMEDY)
        only = None if "{split}" in name else split
        return Annotations(*load_own(path, self.item, only, problems or Problems(self.config.on_error)))

    def check_splits(self, names: Sequence[str]) -> None:
        name = self.config.queries
        paths = [find_file(self.config, name.replace("{split}", split), "data.queries", REMEDY) for split in names]
        if "{split}" in name:
            return
        found = set()
        for line in read_text(paths[0]).split("\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # `read` says what is wrong with a line
                found.add(str(json.loads(line)["split"]))
        for split in names:
            if found and split not in found:
                known = ", ".join(sorted(found))[:200]
                raise ConfigError(f"data.test_splits: {paths[0]} has no line of split {split!r}; it has {known}")


class OwnQueries(NamedTuple):
    """Queries of your own.

    Args:
        queries: in the order of the file; without targets where a line gives none.
        durations: seconds of each video.
        sizes: (width, height) in pixels of each image whose lines give one.
    """

    queries: list[Query]
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
    problems = problems or Problems()
    in_name = "{split}" in str(path)
    path = Path(str(path).replace("{split}", split or "")) if in_name else Path(path)
    existing(path, REMEDY)
    result = OwnQueries([], {}, {})
    ids: set[str] = set()
    cut = 0
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        with problems:
            where = f"{path}, line {number}"
            entry = _parse(line, where)
            if split is not None and not in_name and _split(entry, split, where) != split:
                continue
            cut += _add(result, _query(entry, item, number, where), entry, where, ids)
    problems.note("segments cut at the end of their video", cut, path)
    return result


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
            f'{where}: which split? give every line a "split", or one file a split and "{{split}}" in data.queries'
        )
    return value


def _query(entry: dict[str, Any], item: str, number: int, where: str) -> Query:
    if item not in entry:
        raise BadAnnotation(f"{where}: no '{item}'; name the {item} that the query is about")
    text = check_text(entry.get("query"), "query", where)
    one, several, length = TARGETS[item]
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


def _add(result: OwnQueries, query: Query, entry: dict[str, Any], where: str, ids: set[str]) -> int:
    """Take a query in, after what it says about its item was found to agree with the lines before.

    Returns:
        How many of its segments were cut at the end of the video.
    """
    if query.id in ids:
        raise BadAnnotation(f"{where}: id {query.id!r} comes twice; give each query its own")
    known: dict[str, Any] = result.durations if "video" in entry else result.sizes
    value = _duration(entry, where) if "video" in entry else _size(entry, where)
    if value is not None and known.setdefault(query.item, value) != value:
        raise BadAnnotation(f"{where}: {query.item!r} is {value} here and {known[query.item]} before; which is right?")
    targets, limits = query.targets, value or (LARGEST, LARGEST)
    for target in targets:
        if isinstance(limits, float):
            outside = target[0] >= limits or target[1] > limits + OVERHANG
        else:
            outside = any(end > limit + 1 for end, limit in zip(target[2:], limits, strict=True))
        if outside:
            raise BadAnnotation(f"{where}: {list(target)} lies outside {limits}; is it in seconds or pixels?")
    if isinstance(value, float):
        query = replace(query, targets=tuple((start, min(end, value)) for start, end in targets))
    ids.add(query.id)
    result.queries.append(query)
    return sum(before != after for before, after in zip(targets, query.targets, strict=True))


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
