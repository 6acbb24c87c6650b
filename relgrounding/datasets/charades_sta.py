"""Charades-STA: sentences with a moment of a video, and the action intervals of Charades."""

import csv
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from relgrounding._printing import progress
from relgrounding._signals import look
from relgrounding.datasets._dataset import (
    NOT_VISUAL,
    Annotations,
    DataConfig,
    Dataset,
    Published,
    Query,
    data_folder,
    register_dataset,
)
from relgrounding.features import write_clip_features
from relgrounding.io._errors import BadAnnotation, Problems, check_id
from relgrounding.io._regular import existing, read_text
from relgrounding.io._values import LONGEST, SHORTEST, check_choice

__all__ = ["ActionInterval", "CharadesSTA", "load_actions", "load_charades", "load_durations"]

NUM_ACTIONS = 157
SPLITS = ("train", "test")
PROTOCOLS = ("official", "reduced")
REDUCED = {"train": 10602, "test": 3158}
"""Queries of the protocol "reduced"."""


@dataclass
class CharadesConfig(DataConfig):
    """Settings of Charades-STA."""

    protocol: Literal["official", "reduced"] = "official"
    """All queries, or those that end within the video."""


@register_dataset("charades_sta")
class CharadesSTA(Dataset):
    """Charades-STA."""

    Config = CharadesConfig
    modality = "video"
    published = Published({"train": 12408, "test": 3720}, {"train": 5338, "test": 1334})
    known: ClassVar = {
        ("train", "segments without length", 4): "so in the official file; protocol 'reduced' drops them",
        ("train", "segments after the end", 1803): "so in the official file; 'reduced' drops them",
        ("test", "segments after the end", 561): "so in the official file; 'reduced' drops them",
    }
    remedy = "relgrounding prepare charades-actions features/charades_actions.h5 makes one"

    def read(self, split: str, problems: Problems | None = None) -> Annotations:
        """Read `charades_sta/` below the root; see `load_charades`."""
        root = data_folder(self.config, "charades_sta")
        queries = load_charades(root, split, self.config.protocol, problems or Problems(self.config.on_error))
        return Annotations(queries, load_durations(root, split), {})

    def protocols(self) -> list[str]:
        """Return the one protocol that the settings choose."""
        return [self.config.protocol]

    def sizes(self) -> Published | None:
        """Return the sizes of the protocol."""
        return self.published if self.config.protocol == "official" else Published(REDUCED, {})


class ActionInterval(NamedTuple):
    """An action in a video.

    Args:
        action: class, 0 to 156.
        start: seconds from the start of the video.
        end: seconds; may lie after the end of the video.
    """

    action: int
    start: float
    end: float


def load_charades(
    root: str | Path, split: str, protocol: str = "official", problems: Problems | None = None
) -> list[Query]:
    """Load the queries of Charades-STA; their targets are the segments as annotated, in seconds.

    Args:
        root: folder with `charades_sta_{train,test}.txt` and `Charades_v1_{train,test}.csv`.
        split: "train" or "test".
        protocol: "official" (12,408 / 3,720 queries), or "reduced" (10,602 / 3,158), which drops the queries that end
            after the video or do not start before they end.
        problems: what becomes of a bad line; None: the first one stops.

    Returns:
        Queries in the order of the file. Ids are SPLIT-NUMBER with the number of the line, equal in both protocols.

    Raises:
        MissingFile: a file is missing; the message says where it comes from.
        BadAnnotation: unknown split or protocol, a line that is not `VIDEO START END##sentence`, or (where lengths are
            needed) a video without one.
    """
    check_choice("split", split, SPLITS, "Charades-STA's")
    check_choice("protocol", protocol, PROTOCOLS, "Charades-STA's")
    path = _find(root, f"charades_sta_{split}.txt")
    problems = problems or Problems()
    durations = load_durations(root, split) if protocol == "reduced" else {}
    queries: list[Query] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            with problems:
                query = _parse_query(line, f"{split}-{number}", f"{path}, line {number}")
                if protocol == "official" or _within(query, durations, path):
                    queries.append(query)
    return queries


def load_durations(root: str | Path, split: str | None = None) -> dict[str, float]:
    """Load the length in seconds of every video of Charades (7,985 training and 1,863 test videos).

    Args:
        root: folder with `Charades_v1_{train,test}.csv`.
        split: "train" or "test"; None: both.

    Raises:
        MissingFile: a file is missing; the message says where it comes from.
        BadAnnotation: a row without id, or whose length is not a number above 0.
    """
    return {row["id"]: _parse_length(row["length"], where) for row, where in _rows(root, split)}


def load_actions(root: str | Path) -> dict[str, list[ActionInterval]]:
    """Load the action intervals of every video of Charades; a video may have none.

    Args:
        root: folder with `Charades_v1_{train,test}.csv`.

    Raises:
        MissingFile: a file is missing; the message says where it comes from.
        BadAnnotation: an interval that is not `cCLASS START END` with a class from 0 to 156.
    """
    return {row["id"]: _parse_actions(row["actions"], where) for row, where in _rows(root)}


def _find(root: str | Path, name: str) -> Path:
    source = "https://github.com/microsoft/VideoX/tree/master/2D-TAN/data/Charades-STA"
    if name.endswith(".csv"):
        source = "https://prior.allenai.org/projects/charades (annotations)"
    return existing(Path(root) / name, f"download {name} from {source}")


def _parse_query(line: str, query_id: str, where: str) -> Query:
    head, separator, sentence = line.partition("##")
    try:
        video, start, end = head.split()
        segment = (float(start), float(end))
    except ValueError:
        separator = ""
    if not separator or not sentence.strip() or not all(abs(time) <= LONGEST for time in segment):
        raise BadAnnotation(f"{where}: expected VIDEO START END##sentence, found {line[:60]!r}")
    return Query(query_id, check_id(video, where), sentence.strip(), (segment,))


def _within(query: Query, durations: dict[str, float], path: Path) -> bool:
    if query.item not in durations:
        raise BadAnnotation(f"{path}: Charades_v1_*.csv lack the length of video {query.item!r}; download them again")
    start, end = query.targets[0]
    return start < end <= durations[query.item]


def _parse_length(text: str, where: str) -> float:
    try:
        length = float(text)
    except ValueError:
        length = 0.0
    if not SHORTEST <= length <= LONGEST:
        raise BadAnnotation(f"{where}: length is {text[:40]!r}; expected seconds, {SHORTEST} to {LONGEST:.0f}")
    return length


def _rows(root: str | Path, only: str | None = None) -> Iterator[tuple[dict[str, str], str]]:
    for split in SPLITS if only is None else (only,):
        path = _find(root, f"Charades_v1_{split}.csv")
        rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
        try:
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if any(not isinstance(row.get(key), str) for key in ("id", "actions", "length")):
                    raise BadAnnotation(f"{where}: expected the columns id, actions and length; download it again")
                check_id(row["id"], where)
                yield row, f"{path}, video {row['id']}"
        except csv.Error as error:
            raise BadAnnotation(f"{path}, line {rows.line_num}: not CSV: {error}; download it again") from None


def _parse_actions(text: str, where: str) -> list[ActionInterval]:
    intervals = []
    for part in filter(None, text.split(";")):
        try:
            name, start, end = part.split()
            interval = ActionInterval(int(name.removeprefix("c")), float(start), float(end))
        except ValueError:
            interval = ActionInterval(-1, 0.0, 0.0)
        if not 0 <= interval.action < NUM_ACTIONS or not all(map(math.isfinite, interval[1:])):
            raise BadAnnotation(f"{where}: expected an action such as 'c092 11.90 21.20', found {part!r}")
        intervals.append(interval)
    return intervals


def action_coverage(intervals: Sequence[ActionInterval], duration: float, clips: int) -> np.ndarray:
    """Return the share of each of a video's clips, all equally long, that each action covers.

    An action's intervals may overlap; their union counts. What lies outside the video is cut off.

    Args:
        intervals: actions with their start and end in seconds.
        duration: seconds of the video.
        clips: number of clips.

    Returns:
        (clips, 157) float64 from 0 to 1.
    """
    edges = np.linspace(0.0, duration, clips + 1)
    share = np.zeros((clips, NUM_ACTIONS))
    covered_until = np.zeros(NUM_ACTIONS)
    for action, start, end in sorted(intervals, key=lambda interval: interval.start):
        begin = max(start, covered_until[action])
        overlap = np.minimum(end, edges[1:]) - np.maximum(begin, edges[:-1])
        share[:, action] += np.clip(overlap, 0.0, None)
        covered_until[action] = max(end, covered_until[action])
    return np.clip(share * clips / duration, 0.0, 1.0)


def charades_actions(out: Path, root: Path, clips: int, noise: float, seed: int) -> str:
    """Write the clip features of every video that has a sentence, and return a line about them."""
    queries = [query for split in ("train", "test") for query in load_charades(root, split)]
    videos = sorted({query.item for query in queries})
    durations, actions = load_durations(root), load_actions(root)

    def items() -> Iterator[tuple[str, np.ndarray]]:
        for video in progress(videos, desc="writing", unit="video"):
            look()
            # A generator of its own for each video: its noise depends neither on the others nor on their order.
            random = np.random.default_rng([seed, zlib.crc32(video.encode())])
            share = action_coverage(actions[video], durations[video], clips)
            yield video, share + noise * random.standard_normal(share.shape)

    attributes = {
        "description": "share of each clip that each of the 157 Charades actions covers, and Gaussian noise",
        "warning": NOT_VISUAL,
        "clips": clips,
        "noise": noise,
        "seed": seed,
    }
    write_clip_features(out, items(), attributes)
    return f"{out}: {len(videos)} videos x {clips} clips x {NUM_ACTIONS} actions, noise {noise:g}"
