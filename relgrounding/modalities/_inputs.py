"""Features of one video or image, from arrays or files, checked before a model sees them."""

import math
import os
from pathlib import Path

import numpy as np
import torch

from relgrounding.features import ClipFeatures, RegionFeatures, Regions
from relgrounding.features.convert import FORMATS, detect_format, open_source
from relgrounding.features.convert._clips import NpyClips
from relgrounding.features.convert._sources import Options
from relgrounding.io import BadFeatures, Problems
from relgrounding.io._ids import Spellings, did_you_mean

HDF5 = (".h5", ".hdf5", ".hdf")


class ConvertibleFeatures:
    """Features in a format that tools/prepare.py converts, read by what converts them.

    Args:
        path: file or folder.
        video: whether they must be clips; else regions.

    Raises:
        BadFeatures: they cannot be used, or are the other kind.
    """

    def __init__(self, path: Path, video: bool) -> None:
        self._source, _ = open_source([path])
        if (self._source.layout == "clips") != video:
            raise BadFeatures(
                f"{path} holds {self._source.layout}; this run answers about {'videos' if video else 'images'}"
            )
        self._entries = {entry.id: entry for entry in self._source.entries}
        self._spellings = Spellings(self._entries, str(path))

    @property
    def ids(self) -> list[str]:
        """Ids of the videos or images."""
        return list(self._entries)

    def __contains__(self, key: str) -> bool:
        return self._spellings.find(key) is not None

    def __getitem__(self, key: str) -> np.ndarray | Regions:
        entry = self._entries[self._spellings.find(key) or key]
        features, boxes = self._source.read(entry)
        if boxes is None or entry.size is None:
            return features
        return Regions(features.astype(np.float32), boxes.astype(np.float32), entry.size)


class Stores:
    """Files and folders of features, each opened once."""

    def __init__(self, video: bool) -> None:
        self.video = video
        self._open: dict[Path, ClipFeatures | RegionFeatures | ConvertibleFeatures] = {}

    def open(self, path: Path) -> ClipFeatures | RegionFeatures | ConvertibleFeatures:
        """Return the reader of a file or folder of many items."""
        if path not in self._open:
            kind = ClipFeatures if self.video else RegionFeatures
            own = path.suffix.lower() in HDF5 and path.is_file()
            if own and not self.video:
                own = "offsets" in ClipFeatures(path).ids
            self._open[path] = kind(path) if own else ConvertibleFeatures(path, self.video)
        return self._open[path]

    def read(self, path: Path, item: str | None) -> np.ndarray | Regions:
        """Return what a file holds of an item; without a name the file must hold one item only."""
        return self.open(path)[self._item(path, item)]

    def duration(self, features: object, item: str | None) -> float | None:
        """Return the seconds of a video where the features are in an HDF5 file that says them."""
        if not isinstance(features, (str, os.PathLike)) or Path(features).suffix.lower() not in HDF5:
            return None
        store = self.open(Path(features))
        return store.duration(self._item(Path(features), item)) if isinstance(store, ClipFeatures) else None

    def _item(self, path: Path, item: str | None) -> str:
        store = self.open(path)
        if item is None:
            if len(store.ids) != 1:
                raise ValueError(
                    f"{path} holds {len(store.ids)} items; say which: item='{next(iter(store.ids), 'ID')}'"
                )
            item = store.ids[0]
        if item not in store:
            near = ", ".join(store.ids[:3]) + did_you_mean(item, store.ids)
            raise ValueError(f"{path} holds no '{item}'; its {len(store.ids)} ids begin with {near}")
        return item


def read_clips(features: object, item: str | None, stores: Stores, dim: int) -> np.ndarray:
    """Return the (clips, dim) features of a video: an array, a file of it, or a file or folder of many and an id."""
    where = "the features"
    if isinstance(features, (str, os.PathLike)):
        path = Path(features)
        where = str(path)
        clips = stores.read(path, item) if _of_many(path) else load_array(path)
        assert isinstance(clips, np.ndarray)
    else:
        clips = _array(features)
    return _checked(clips, dim, where, "clips")


def read_regions(
    features: object, boxes: object, image_size: object, item: str | None, stores: Stores, dim: int
) -> Regions:
    """Return the regions of an image: arrays, a file with its boxes, or a file or folder of many images and an id."""
    if isinstance(features, Regions):
        features, boxes, image_size = features
    if isinstance(features, (str, os.PathLike)):
        path = Path(features)
        if _of_many(path) or (boxes is None and path.is_file() and detect_format(path) == "npz"):
            regions = stores.read(path, item if _of_many(path) else None)
            assert isinstance(regions, Regions)
            return Regions(_checked(regions.features, dim, str(path), "regions"), regions.boxes, regions.size)
        features = load_array(path)
    if boxes is None or image_size is None:
        raise ValueError("an image's features need its boxes=(regions, 4) in pixels and its image_size=(width, height)")
    content = _checked(_array(features), dim, "the features", "regions")
    corners = _array(boxes).astype(np.float32)
    if corners.shape != (len(content), 4):
        raise ValueError(f"boxes have shape {corners.shape}; {len(content)} regions need ({len(content)}, 4)")
    size = tuple(int(v) for v in _array(image_size).ravel())
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"image_size is {image_size}; give (width, height) in pixels")
    return Regions(content, corners, (size[0], size[1]))


def check_duration(duration: float | int | None) -> float:
    """Return the length of a video in seconds, or say that it is missing or impossible."""
    if duration is None:
        raise ValueError(
            "a video needs its duration in seconds: duration=31.2 (only HDF5 files of tools/extract.py hold it)"
        )
    if not 0 < float(duration) < math.inf:
        raise ValueError(f"duration is {duration}; give the length of the video in seconds, above 0")
    return float(duration)


def load_array(path: Path) -> np.ndarray:
    """Read a file of one array of features: `.npy`, `.npz` or `.pt`; pickled objects are refused."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    kind = FORMATS[detect_format(path)]
    if not issubclass(kind, NpyClips):
        raise BadFeatures(f"{path} holds more than the features of one item; name the item, or one file of it")
    try:
        source = kind(path, Problems(), Options())
    except BadFeatures as error:
        raise ValueError(
            f"{path} is no plain {path.suffix} file ({error}); write it with numpy.save(path, array)"
        ) from None
    return source.read(source.entries[0]).features


def _of_many(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in (*HDF5, ".tsv")


def _array(values: object) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _checked(features: np.ndarray, dim: int, where: str, what: str) -> np.ndarray:
    if features.ndim != 2 or len(features) == 0 or features.dtype.kind not in "fiu":
        raise ValueError(f"{where} has shape {features.shape}, {features.dtype}; expected numbers ({what} >= 1, {dim})")
    if features.shape[1] != dim:
        raise ValueError(
            f"{where} has features of width {features.shape[1]}, but the run was trained on width {dim}; "
            "take the features from the same extractor"
        )
    content = features.astype(np.float32)
    if not np.isfinite(content).all():
        raise ValueError(f"{where} is not finite in row {int(np.argmin(np.isfinite(content).all(1)))}")
    return content
