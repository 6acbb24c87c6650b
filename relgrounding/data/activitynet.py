"""ActivityNet Captions: sentences with a moment of a video."""

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

from relgrounding.data._errors import BadAnnotation, MissingFile, Problems, check_id, read_text
from relgrounding.data._query import Query

__all__ = ["load_activitynet", "load_activitynet_durations"]

SPLITS = ("train", "val_1", "val_2")


def load_activitynet(root: str | Path, split: str, problems: Problems | None = None) -> list[Query]:
    """Load the queries of ActivityNet Captions; their targets are the segments as annotated, in seconds.

    Args:
        root: folder with `train.json`, `val_1.json` and `val_2.json`.
        split: "train", "val_1" or "val_2"; the latter two ask about the same videos in other words.
        problems: what becomes of a bad record; None: the first one stops.

    Returns:
        37,421 / 17,505 / 17,031 queries in the order of the file, each sentence stripped of outer spaces. Ids are
        VIDEO-NUMBER with the number of the sentence from 0. Four training segments do not start before they end.

    Raises:
        MissingFile: a file is missing; the message says where it comes from.
        BadAnnotation: unknown split, or a record that is not `{duration, timestamps, sentences}`.
    """
    problems = problems or Problems()
    queries: list[Query] = []
    path, videos = _read(root, split)
    for video, entry in videos.items():
        with problems:
            place = f"{path}, video {video[:80]!r}"
            check_id(video, str(path))
            _duration(entry, place)
            pairs = list(zip(_list(entry, "timestamps", place), _list(entry, "sentences", place), strict=False))
            if not len(pairs) == len(entry["timestamps"]) == len(entry["sentences"]):
                raise BadAnnotation(f"{place}: timestamps and sentences are not equally many; give each sentence one")
            for number, (segment, sentence) in enumerate(pairs):
                with problems:
                    queries.append(_query(f"{video}-{number}", video, segment, sentence, place))
    return queries


def load_activitynet_durations(root: str | Path, split: str) -> dict[str, float]:
    """Load the length in seconds of every video of a split.

    Args:
        root: folder with `train.json`, `val_1.json` and `val_2.json`.
        split: "train", "val_1" or "val_2".

    Raises:
        MissingFile: a file is missing; the message says where it comes from.
        BadAnnotation: unknown split.
    """
    path, videos = _read(root, split)
    durations = {}
    for video, entry in videos.items():
        with Problems("skip"):  # the loader of queries has reported it, and no query asks for it
            durations[video] = _duration(entry, f"{path}, video {video!r}")
    return durations


def _read(root: str | Path, split: str) -> tuple[Path, dict[str, Any]]:
    if split not in SPLITS:
        raise BadAnnotation(f"split {split!r} is not one of ActivityNet Captions': {', '.join(SPLITS)}")
    path = Path(root) / f"{split}.json"
    if not path.exists():
        raise MissingFile(
            f"{path} not found; download {path.name} from "
            "https://github.com/microsoft/VideoX/tree/master/2D-TAN/data/ActivityNet"
        )
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadAnnotation(f"{path} is no JSON, or cut off: {error}; download it again") from None
    if not isinstance(content, dict):
        raise BadAnnotation(f"{path} holds a {type(content).__name__}; expected an object of one entry a video")
    return path, content


def _list(entry: dict[str, Any], key: str, place: str) -> list[Any]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise BadAnnotation(f"{place}: expected a list '{key}', found {str(value)[:40]!r}")
    return value


def _duration(entry: Any, place: str) -> float:
    value = entry.get("duration") if isinstance(entry, dict) else None
    if not is_number(value) or value <= 0:
        raise BadAnnotation(f"{place}: duration is {str(value)[:40]}; expected seconds above 0")
    return float(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value read from JSON is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else value.bit_length() < 512


def _query(name: str, video: str, segment: Any, sentence: Any, place: str) -> Query:
    if not isinstance(segment, list) or len(segment) != 2 or not all(map(is_number, segment)):
        raise BadAnnotation(f"{place}: expected [start, end] in seconds, found {str(segment)[:60]!r}")
    if not isinstance(sentence, str) or not sentence.strip():
        raise BadAnnotation(f"{place}: sentence {str(sentence)[:40]!r} is empty or no text; drop it or write one")
    return Query(name, video, sentence.strip(), ((float(segment[0]), float(segment[1])),))
