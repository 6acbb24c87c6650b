"""ActivityNet Captions: sentences with a moment of a video."""

from pathlib import Path
from typing import Any, ClassVar

from relgrounding._printing import brief
from relgrounding.datasets._dataset import Annotations, Dataset, Published, Query, data_folder, register_dataset
from relgrounding.io._errors import BadAnnotation, Problems, check_id
from relgrounding.io._regular import existing, read_text
from relgrounding.io._values import LONGEST, check_choice, check_seconds, check_text, is_number, parse_json

__all__ = ["ActivityNetCaptions", "load_activitynet", "load_activitynet_durations"]

SPLITS = ("train", "val_1", "val_2")


@register_dataset("activitynet_captions")
class ActivityNetCaptions(Dataset):
    """ActivityNet Captions."""

    modality = "video"
    published = Published(
        {"train": 37417, "val_1": 17505, "val_2": 17031}, {"train": 10009, "val_1": 4917, "val_2": 4885}
    )
    known: ClassVar = {
        ("train", "queries", 37421): (
            "four training segments do not start before they end; without them it is the published figure"
        ),
        ("train", "segments without length", 4): "the same four",
    }
    remedy = "docs/data.md says where to download it"

    def read(self, split: str, problems: Problems | None = None) -> Annotations:
        """Read `activitynet_captions/` below the root; see `load_activitynet`."""
        root = data_folder(self.config, "activitynet_captions")
        queries = load_activitynet(root, split, problems or Problems(self.config.on_error))
        return Annotations(queries, load_activitynet_durations(root, split), {})


def load_activitynet(root: str | Path, split: str, problems: Problems | None = None) -> list[Query]:
    """Load the queries of ActivityNet Captions; their targets are the segments as annotated, in seconds.

    Args:
        root: folder with `train.json`, `val_1.json` and `val_2.json`.
        split: "train", "val_1" or "val_2"; the latter two describe the same videos in other words.
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
            where = f"{path}, video {video[:80]!r}"
            check_id(video, str(path))
            _duration(entry, where)
            pairs = list(zip(_list(entry, "timestamps", where), _list(entry, "sentences", where), strict=False))
            if not len(pairs) == len(entry["timestamps"]) == len(entry["sentences"]):
                raise BadAnnotation(f"{where}: timestamps and sentences are not equally many; give each sentence one")
            for number, (segment, sentence) in enumerate(pairs):
                with problems:
                    queries.append(_query(f"{video}-{number}", video, segment, sentence, where))
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
        with Problems("skip"):  # the loader of queries has reported it, and no query needs it
            durations[video] = _duration(entry, f"{path}, video {video!r}")
    return durations


def _read(root: str | Path, split: str) -> tuple[Path, dict[str, Any]]:
    check_choice("split", split, SPLITS, "ActivityNet Captions'")
    source = "https://github.com/microsoft/VideoX/tree/master/2D-TAN/data/ActivityNet"
    path = existing(Path(root) / f"{split}.json", f"download {split}.json from {source}")
    content = parse_json(read_text(path), str(path), "download it again")
    if not isinstance(content, dict):
        raise BadAnnotation(f"{path} holds a {type(content).__name__}; expected an object of one entry per video")
    return path, content


def _list(entry: dict[str, Any], key: str, where: str) -> list[Any]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise BadAnnotation(f"{where}: expected a list '{key}', found {brief(value)!r}")
    return value


def _duration(entry: Any, where: str) -> float:
    value = entry.get("duration") if isinstance(entry, dict) else None
    return check_seconds(value, "duration", where)


def _query(name: str, video: str, segment: Any, sentence: Any, where: str) -> Query:
    times = segment if isinstance(segment, list) else []
    if len(times) != 2 or not all(is_number(time) and abs(time) <= LONGEST for time in times):
        raise BadAnnotation(f"{where}: expected [start, end] in seconds, found {brief(segment, 60)!r}")
    text = check_text(sentence, "sentence", where).strip()
    return Query(name, video, text, ((float(times[0]), float(times[1])),))
