"""Features of clips and regions in HDF5 files: two layouts, readers and writers (docs/features.md)."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Float32

__all__ = ["ClipFeatures", "RegionFeatures", "Regions", "write_clip_features", "write_region_features"]

IN_MEMORY_LIMIT = 512 * 2**20


class Regions(NamedTuple):
    """Regions of one image.

    Args:
        features: (regions, dim).
        boxes: (regions, 4) x1, y1, x2, y2 in pixels.
        size: (width, height) of the image in pixels.
    """

    features: Float32[np.ndarray, "regions dim"]
    boxes: Float32[np.ndarray, "regions 4"]
    size: tuple[int, int]


class _Store:
    """An HDF5 file opened on first use, once a process; worker processes and unpickled copies open it anew."""

    def __init__(self, path: str | Path, in_memory: bool | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"feature file {self.path} not found; tools/prepare.py makes two such files, "
                "docs/features.md has the layouts"
            )
        self.in_memory = self.path.stat().st_size < IN_MEMORY_LIMIT if in_memory is None else in_memory
        self._forget()

    def _forget(self) -> None:
        self._file: h5py.File | None = None
        self._owner = 0

    def _open(self) -> h5py.File:
        # A handle that crosses a fork shares its file offset and HDF5's locks with the parent: never reuse it.
        if self._file is None or self._owner != os.getpid():
            self._file, self._owner = h5py.File(self.path, "r"), os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "in_memory": self.in_memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def attributes(self) -> dict[str, Any]:
        """The file's attributes: where the features come from."""
        return {key: _plain(value) for key, value in self._open().attrs.items()}

    @property
    def ids(self) -> list[str]:
        """Ids of the videos or images, in the order of the file."""
        raise NotImplementedError

    def __contains__(self, key: object) -> bool:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.ids)

    def _missing(self, key: str) -> KeyError:
        return KeyError(f"no features of {key!r} in {self.path} ({len(self)} ids, such as {self.ids[:1]})")

    def _check(self, features: np.ndarray, key: str) -> np.ndarray:
        features = np.array(features, dtype=np.float32)  # a copy: callers may change theirs
        if not np.isfinite(features).all():
            raise ValueError(f"features of {key!r} in {self.path} hold NaN or infinity; write them again without")
        return features


class ClipFeatures(_Store):
    """Clip features of videos: one dataset (clips, dim) a video id.

    Args:
        path: HDF5 file.
        in_memory: keep what has been read; by default for files under 512 MB.

    Raises:
        FileNotFoundError: no such file.
        KeyError: `store[id]` of a video that the file does not hold.
        ValueError: a dataset that is not (clips, dim) with clips >= 1 and the dim of the others, or is not finite.
    """

    def _forget(self) -> None:
        super()._forget()
        self._ids: list[str] | None = None
        self._dim: int | None = None
        self._kept: dict[str, np.ndarray] = {}

    @property
    def ids(self) -> list[str]:
        """Ids of the videos, in the order of the file."""
        if self._ids is None:
            self._ids = list(self._open())
        return self._ids

    @property
    def dim(self) -> int:
        """Width of a clip's feature."""
        if self._dim is None:
            if not self.ids:
                raise ValueError(f"{self.path} is empty; expected one dataset (clips, dim) a video id")
            self._dim = int(self._dataset(self.ids[0]).shape[1])
        return self._dim

    def __contains__(self, key: object) -> bool:
        return key in self._kept or key in self._open()

    def __getitem__(self, key: str) -> Float32[np.ndarray, "clips dim"]:
        if key in self._kept:
            return self._check(self._kept[key], key)
        dataset = self._dataset(key)
        if dataset.shape[1] != self.dim:
            raise ValueError(f"{key!r} in {self.path} has features of width {dataset.shape[1]}, others {self.dim}")
        content = dataset[()]
        if self.in_memory:
            self._kept[key] = content
        return self._check(content, key)

    def _dataset(self, key: str) -> h5py.Dataset:
        file = self._open()
        if key not in file:
            raise self._missing(key)
        dataset = file[key]
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 2 or len(dataset) == 0:
            found = f"shape {dataset.shape}" if isinstance(dataset, h5py.Dataset) else "a group"
            raise ValueError(f"{key!r} in {self.path} is {found}; expected one dataset (clips >= 1, dim) a video id")
        return dataset


class RegionFeatures(_Store):
    """Region features of images: the flat ragged layout, all images' regions one after another.

    The file holds `features` (N, dim), `boxes` (N, 4) x1 y1 x2 y2 in pixels, `offsets` (images + 1), `ids` (images),
    `sizes` (images, 2) width, height; image i owns the rows offsets[i] to offsets[i + 1].

    Args:
        path: HDF5 file.
        in_memory: read the whole file on first use; by default for files under 512 MB.

    Raises:
        FileNotFoundError: no such file.
        KeyError: `store[id]` of an image that the file does not hold.
        ValueError: a dataset is missing, shapes disagree, or features are not finite.
    """

    _NAMES = ("features", "boxes", "offsets", "ids", "sizes")

    def _forget(self) -> None:
        super()._forget()
        self._ids: list[str] = []
        self._row: dict[str, int] | None = None
        self._data: dict[str, Any] = {}

    @property
    def ids(self) -> list[str]:
        """Ids of the images, in the order of the file."""
        self._rows()
        return self._ids

    @property
    def dim(self) -> int:
        """Width of a region's feature."""
        self._rows()  # the file is checked before anything is read from it
        return int(self._open()["features"].shape[1])

    def __contains__(self, key: object) -> bool:
        return key in self._rows()

    def __getitem__(self, key: str) -> Regions:
        row = self._rows().get(key)
        if row is None:
            raise self._missing(key)
        data = self._data if self.in_memory else self._open()
        begin, end = self._data["offsets"][row : row + 2]
        features = self._check(data["features"][begin:end], key)
        boxes = np.array(data["boxes"][begin:end], dtype=np.float32)
        width, height = self._data["sizes"][row]
        return Regions(features, boxes, (int(width), int(height)))

    def _rows(self) -> dict[str, int]:
        if self._row is None or (not self.in_memory and self._owner != os.getpid()):
            self._read_index(self._open())
        assert self._row is not None  # narrows the type for mypy
        return self._row

    def _read_index(self, file: h5py.File) -> None:
        missing = [name for name in self._NAMES if name not in file]
        if missing:
            raise ValueError(f"{self.path} lacks {', '.join(missing)}; docs/features.md has the flat ragged layout")
        if file["features"].ndim != 2:
            raise ValueError(f"features in {self.path} has shape {file['features'].shape}, expected (regions, dim)")
        n_images, n_regions = len(file["ids"]), len(file["features"])
        expected = {"boxes": (n_regions, 4), "offsets": (n_images + 1,), "sizes": (n_images, 2)}
        for name, shape in expected.items():
            if file[name].shape != shape:
                raise ValueError(f"{name} in {self.path} has shape {file[name].shape}, expected {shape}")
        offsets = file["offsets"][()]
        if offsets[0] != 0 or offsets[-1] != n_regions or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets in {self.path} must rise from 0 to the number of regions, {n_regions}")
        names = self._NAMES if self.in_memory else ("offsets", "sizes")
        self._data = {name: file[name][()] for name in names if name != "ids"}
        self._ids = [_plain(key) for key in file["ids"][()]]
        self._row = {key: row for row, key in enumerate(self._ids)}
        if len(self._row) != n_images:
            raise ValueError(f"ids in {self.path} repeat: {n_images} ids, {len(self._row)} different ones")


def write_clip_features(
    path: str | Path,
    items: Iterable[tuple[str, np.ndarray]],
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write clip features, one float16 dataset a video; the file appears whole or not at all.

    Args:
        path: HDF5 file to make or to replace.
        items: (video id, (clips, dim) features), one after another; ids without "/".
        attributes: where the features come from, how they were made.

    Raises:
        ValueError: an id that HDF5 would read as a path, or that repeats; features not finite in float16.
    """
    with _new_file(path) as file:
        file.attrs.update(attributes or {})
        for key, features in items:
            if not key or "/" in key or key == ".":
                raise ValueError(f"{key!r} cannot name a dataset; use ids without '/'")
            if key in file:
                raise ValueError(f"video id {key!r} comes twice; give each video once")
            file.create_dataset(key, data=_half(features, key))


def write_region_features(
    path: str | Path, items: Iterable[tuple[str, Regions]], attributes: Mapping[str, Any] | None = None
) -> None:
    """Write region features in the flat ragged layout, float16; the file appears whole or not at all.

    Args:
        path: HDF5 file to make or to replace.
        items: (image id, its regions), one after another.
        attributes: where the features come from, how they were made.

    Raises:
        ValueError: no images, an id that repeats, features and boxes of different length, features not finite in
            float16.
    """
    ids: list[str] = []
    parts: list[tuple[np.ndarray, np.ndarray, tuple[int, int]]] = []
    for key, regions in items:
        if len(regions.features) != len(regions.boxes):
            raise ValueError(f"image {key!r} has {len(regions.features)} features and {len(regions.boxes)} boxes")
        ids.append(key)
        parts.append((_half(regions.features, key), regions.boxes, regions.size))
    if not ids:
        raise ValueError("no images to write")
    if len(set(ids)) != len(ids):
        repeated = next(key for key in ids if ids.count(key) > 1)
        raise ValueError(f"image id {repeated!r} comes twice; give each image once")
    with _new_file(path) as file:
        file.attrs.update(attributes or {})
        file["features"] = np.concatenate([features for features, _, _ in parts])
        file["boxes"] = np.concatenate([boxes for _, boxes, _ in parts]).astype(np.float32)
        file["offsets"] = np.cumsum([0, *(len(boxes) for _, boxes, _ in parts)], dtype=np.int64)
        file["sizes"] = np.asarray([size for _, _, size in parts], dtype=np.int64)
        file.create_dataset("ids", data=ids, dtype=h5py.string_dtype())


def _half(features: np.ndarray, key: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = np.asarray(features).astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"features of {key!r} are not finite in float16 (largest number 65,504); scale them first")
    return half


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


@contextlib.contextmanager
def _new_file(path: str | Path) -> Iterator[h5py.File]:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        with h5py.File(temporary, "w") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
