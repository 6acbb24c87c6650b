"""The queries that a configuration names, whatever their data set."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from relgrounding.config import ConfigError, DataConfig, data_root, find_file
from relgrounding.datasets._query import Query
from relgrounding.datasets.activitynet_captions import load_activitynet, load_activitynet_durations
from relgrounding.datasets.charades_sta import load_charades, load_durations
from relgrounding.datasets.flickr30k import read_flickr30k
from relgrounding.datasets.own import load_own
from relgrounding.datasets.refcoco import load_instances, load_refcoco
from relgrounding.io._errors import Problems

__all__ = ["Annotations", "read_annotations"]


class Annotations(NamedTuple):
    """Queries of a split.

    Args:
        queries: in the order of the file.
        durations: seconds of the videos; empty for images.
        sizes: (width, height) of the images where the annotations themselves say so.
    """

    queries: list[Query]
    durations: dict[str, float]
    sizes: dict[str, tuple[int, int]]


def read_annotations(
    settings: DataConfig, split: str, video: bool = False, problems: Problems | None = None
) -> Annotations:
    """Read a split of the data set that a configuration names.

    Args:
        settings: the section `data`; not of the embedded scenes, which have no files.
        split: its name.
        video: for your own data, whether it is about videos.
        problems: what becomes of bad records; None: as `data.on_error` says.

    Raises:
        ConfigError: the folder of the annotations or the name of the file is not given, or there is no such thing.
        DataError: the annotations cannot be used; see its kinds.
    """
    problems = problems or Problems(settings.on_error)
    reader = READERS.get(settings.dataset)
    if reader is not None:
        return reader(data_root(settings), settings, split, problems)
    return _own(settings, split, video, problems)


def _charades(root: Path, settings: DataConfig, split: str, problems: Problems) -> Annotations:
    folder = root / "charades_sta"
    return Annotations(load_charades(folder, split, settings.protocol, problems), load_durations(folder, split), {})


def _activitynet(root: Path, settings: DataConfig, split: str, problems: Problems) -> Annotations:
    folder = root / "activitynet_captions"
    queries = load_activitynet(folder, split, problems)
    return Annotations(queries, load_activitynet_durations(folder, split), {})


def _flickr30k(root: Path, settings: DataConfig, split: str, problems: Problems) -> Annotations:
    queries, sizes = read_flickr30k(root / "flickr30k_entities", split, 2, problems)
    return Annotations(queries, {}, sizes)


def _refcoco(root: Path, settings: DataConfig, split: str, problems: Problems) -> Annotations:
    queries = load_refcoco(root / "refcoco", settings.dataset, split, settings.split_by, problems)
    instances = load_instances(root / "refcoco", settings.dataset)
    return Annotations(queries, {}, dict(zip(instances.ids, map(tuple, instances.sizes.tolist()), strict=True)))


def _own(settings: DataConfig, split: str, video: bool, problems: Problems) -> Annotations:
    remedy = "write one JSON object a line, see docs/data.md, 'Your own data'"
    if not settings.queries:
        raise ConfigError(f"data.queries is empty; name the JSON lines file of your queries: {remedy}")
    # The name may hold {split}, so it is looked for with the split filled in and read with the split left open.
    found = find_file(settings, settings.queries.replace("{split}", split), "data.queries", remedy)
    each_split = "{split}" in settings.queries
    queries, durations, sizes = load_own(found, "video" if video else "image", None if each_split else split, problems)
    return Annotations(queries, durations, sizes)


READERS: dict[str, Callable[[Path, DataConfig, str, Problems], Annotations]] = {
    "charades_sta": _charades,
    "activitynet_captions": _activitynet,
    "flickr30k": _flickr30k,
    "refcoco": _refcoco,
    "refcoco+": _refcoco,
    "refcocog": _refcoco,
}
