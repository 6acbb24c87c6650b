"""Charades-STA: sentences with a moment of a video, and the action intervals of Charades."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from relgrounding.data._query import Query

__all__ = ["ActionInterval", "load_actions", "load_charades", "load_durations"]

NUM_ACTIONS = 157
SPLITS = ("train", "test")
PROTOCOLS = ("official", "reduced")


class ActionInterval(NamedTuple):
    """An action that goes on in a video.

    Args:
        action: class, 0 to 156.
        start: seconds from the start of the video.
        end: seconds; may lie after the end of the video.
    """

    action: int
    start: float
    end: float


def load_charades(root: str | Path, split: str, protocol: str = "official") -> list[Query]:
    """Load the queries of Charades-STA; their targets are the segments as annotated, in seconds.

    Args:
        root: folder with `charades_sta_{train,test}.txt` and `Charades_v1_{train,test}.csv`.
        split: "train" or "test".
        protocol: "official" (12,408 / 3,720 queries), or "reduced" (10,602 / 3,158), which drops the queries that end
            after the video or do not start before they end.

    Returns:
        Queries in the order of the file. Ids are SPLIT-NUMBER with the number of the line, equal in both protocols.

    Raises:
        FileNotFoundError: a file is missing; the message says where it comes from.
        ValueError: unknown split or protocol, or a line that is not `VIDEO START END##sentence`.
    """
    _check_choice("split", split, SPLITS)
    _check_choice("protocol", protocol, PROTOCOLS)
    path = _find(root, f"charades_sta_{split}.txt")
    queries = [
        _parse_query(line, f"{split}-{number}", f"{path}, line {number}")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if line.strip()
    ]
    if protocol == "official":
        return queries
    durations = load_durations(root)
    return [query for query in queries if query.targets[0][0] < query.targets[0][1] <= durations[query.item]]


def load_durations(root: str | Path) -> dict[str, float]:
    """Load the length in seconds of every video of Charades (7,985 training and 1,863 test videos).

    Args:
        root: folder with `Charades_v1_{train,test}.csv`.

    Raises:
        FileNotFoundError: a file is missing; the message says where it comes from.
    """
    return {row["id"]: float(row["length"]) for row, _ in _rows(root)}


def load_actions(root: str | Path) -> dict[str, list[ActionInterval]]:
    """Load the action intervals of every video of Charades; a video may have none.

    Args:
        root: folder with `Charades_v1_{train,test}.csv`.

    Raises:
        FileNotFoundError: a file is missing; the message says where it comes from.
        ValueError: an interval that is not `cCLASS START END` with a class from 0 to 156.
    """
    return {row["id"]: _parse_actions(row["actions"], place) for row, place in _rows(root)}


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} {value!r} is not one of Charades-STA's: {', '.join(choices)}")


def _find(root: str | Path, name: str) -> Path:
    path = Path(root) / name
    if not path.is_file():
        source = (
            "https://prior.allenai.org/projects/charades (annotations)"
            if name.endswith(".csv")
            else "https://github.com/microsoft/VideoX/tree/master/2D-TAN/data/Charades-STA"
        )
        raise FileNotFoundError(f"{path} not found; download {name} from {source}")
    return path


def _parse_query(line: str, query_id: str, place: str) -> Query:
    head, separator, sentence = line.partition("##")
    try:
        video, start, end = head.split()
        segment = (float(start), float(end))
    except ValueError:
        separator = ""
    if not separator or not sentence.strip() or not all(map(math.isfinite, segment)):
        raise ValueError(f"{place}: expected VIDEO START END##sentence, found {line[:60]!r}")
    return Query(query_id, video, sentence.strip(), (segment,))


def _rows(root: str | Path) -> Iterator[tuple[dict[str, str], str]]:
    for split in SPLITS:
        path = _find(root, f"Charades_v1_{split}.csv")
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield row, f"{path}, video {row['id']}"


def _parse_actions(text: str, place: str) -> list[ActionInterval]:
    intervals = []
    for part in filter(None, text.split(";")):
        try:
            name, start, end = part.split()
            interval = ActionInterval(int(name.removeprefix("c")), float(start), float(end))
        except ValueError:
            interval = ActionInterval(-1, 0.0, 0.0)
        if not 0 <= interval.action < NUM_ACTIONS:
            raise ValueError(f"{place}: expected an action such as 'c092 11.90 21.20', found {part!r}")
        intervals.append(interval)
    return intervals
