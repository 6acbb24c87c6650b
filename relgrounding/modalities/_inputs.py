"""Features of single items from arrays or files, validated before a model reads them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relgrounding.features import Regions
from relgrounding.features.convert import FORMATS, detect_format, open_source
from relgrounding.features.convert._clips import NpyClips
from relgrounding.features.convert._sources import Options
from relgrounding.features.shards import is_store
from relgrounding.io import BadFeatures, Problems
from relgrounding.io._ids import Spellings, did_you_mean

HDF5 = (".h5", ".hdf5", ".hdf")


class ConvertibleFeatures:
    """Features in a format that relgrounding prepare converts, read by its converter.

    Args:
        path: file or folder.
        modality: of the run.

    Raises:
        BadFeatures: they cannot be used or are of another modality.
    """

    def __init__(self, path: Path, modality: Any) -> None:
        self._source, _ = open_source([path])
        if self._source.layout != modality.layout:
            raise BadFeatures(f"{path} holds {self._source.layout}; this run answers about {modality.item}s")
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
    """Feature files and folders, each opened once.

    Args:
        modality: of the run.
    """

    def __init__(self, modality: Any) -> None:
        self.modality = modality
        self._open: dict[Path, Any] = {}

    def open(self, path: Path) -> Any:
        """Return the reader of a file or folder of many items."""
        if path not in self._open:
            own = is_store(path) or (path.suffix.lower() in HDF5 and path.is_file() and self.modality.is_own(path))
            self._open[path] = self.modality.open_store(path) if own else ConvertibleFeatures(path, self.modality)
        return self._open[path]

    def read(self, path: Path, item: str | None) -> np.ndarray | Regions:
        """Return the features of an item; without a name the file must hold exactly one item."""
        return self.open(path)[self._item(path, item)]

    def duration(self, features: object, item: str | None) -> float | None:
        """Return the duration of a video in seconds, if its HDF5 file, or shard, of features states it."""
        if not isinstance(features, (str, os.PathLike)):
            return None
        if Path(features).suffix.lower() not in HDF5 and not is_store(Path(features)):
            return None
        store = self.open(Path(features))
        return store.duration(self._item(Path(features), item)) if hasattr(store, "duration") else None

    def _item(self, path: Path, item: str | None) -> str:
        store = self.open(path)
        if item is None:
            if len(store.ids) != 1:
                some = next(iter(store.ids), "ID")
                raise ValueError(
                    f"{path} holds {len(store.ids)} items; say which: --item {some}, in Python item='{some}'"
                )
            item = store.ids[0]
        if item not in store:
            near = ", ".join(store.ids[:3]) + did_you_mean(item, store.ids)
            raise ValueError(f"{path} holds no '{item}'; its {len(store.ids)} ids begin with {near}")
        return item


def load_array(path: Path) -> np.ndarray:
    """Read a file with one array of features: `.npy`, `.npz` or `.pt`; pickled objects are rejected."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    kind = FORMATS[detect_format(path)]
    if not issubclass(kind, NpyClips):
        raise BadFeatures(f"{path} holds the features of more than one item; name the item, or its file")
    try:
        source = kind(path, Problems(), Options())
    except BadFeatures as error:
        raise ValueError(
            f"{path} cannot be read as the features of one item ({error}); write them with numpy.save(path, array)"
        ) from None
    return source.read(source.entries[0]).features


def of_many(path: Path) -> bool:
    """Whether a file or folder may hold more than one item."""
    return path.is_dir() or path.suffix.lower() in (*HDF5, ".tsv")


def as_array(values: object, what: str) -> np.ndarray:
    """Return a tensor, an array or a list as an array; a message calls it `what`."""
    try:
        return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    except (ValueError, TypeError) as error:  # rows of different lengths; bfloat16
        raise ValueError(f"{what} cannot be read as an array: {error}") from None


def checked(features: np.ndarray, dim: int, where: str, what: str) -> np.ndarray:
    """Return features in float32 after validating their shape, width and values."""
    if features.ndim != 2 or len(features) == 0 or features.dtype.kind not in "fiu":
        raise ValueError(f"{where}: shape {features.shape}, {features.dtype}; expected numbers ({what} >= 1, {dim})")
    if features.shape[1] != dim:
        raise ValueError(
            f"{where}: features of width {features.shape[1]}, but the run was trained on width {dim}; "
            "take the features from the same extractor"
        )
    content = features.astype(np.float32)
    if not np.isfinite(content).all():
        raise ValueError(f"{where}: row {int(np.argmin(np.isfinite(content).all(1)))} is not finite")
    return content
