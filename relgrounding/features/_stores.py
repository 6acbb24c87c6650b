"""Features in HDF5 files: what stores have in common, and the layout of clips (docs/features.md)."""

import os
import weakref
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from jaxtyping import Float32

from relgrounding._files import local_only
from relgrounding._printing import brief
from relgrounding.io._errors import BadFeatures, MissingFeatures, UnsafeFile
from relgrounding.io._hdf5 import attribute, damage, member, names, open_hdf5, read
from relgrounding.io._ids import Spellings, check_id, did_you_mean
from relgrounding.io._regular import check_regular, existing
from relgrounding.io._values import LONGEST, SHORTEST

IN_MEMORY_LIMIT = 512 * 2**20
C3D_NAME = "c3d_features"


class _Store:
    """An HDF5 file opened on first use, once per process; worker processes and unpickled copies open it again."""

    states: ClassVar[str]
    """What annotations may state about an item as well."""
    _chunk_cache: ClassVar[int | None] = None
    """Bytes, see `open_hdf5`."""

    def __init__(self, path: str | Path, in_memory: bool | None = None) -> None:
        self.path = local_only(path, "a feature store")
        existing(self.path, "relgrounding prepare makes such files, docs/features.md has the layouts")
        if self.path.is_dir():
            raise UnsafeFile(f"{path} is a folder, not a regular file; features.open_features reads a folder of shards")
        check_regular(self.path)
        self._auto = in_memory is None
        self.in_memory = self.path.stat().st_size < IN_MEMORY_LIMIT if in_memory is None else in_memory
        self._forget()

    def _forget(self) -> None:
        self._file: h5py.File | None = None
        self._owner = 0
        self._spellings: Spellings | None = None
        self._misses = 0

    def _open(self) -> h5py.File:
        # A handle that crosses a fork shares its file offset and HDF5's locks with the parent: never reuse it.
        if self._file is None or self._owner != os.getpid():
            self._file, self._owner = open_hdf5(self.path, self._chunk_cache), os.getpid()
            # The library calls back into Python for every byte: it has to be done before the interpreter is.
            weakref.finalize(self, self._file.close)
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "in_memory": self.in_memory, "_auto": self._auto}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def attributes(self) -> dict[str, Any]:
        """The file's attributes: where the features come from."""
        with damage(str(self.path)):
            file, where = self._open(), str(self.path)
            found = {str(_plain(key)): attribute(file, key, where) for key in file.attrs}
            return {key: _plain(value) for key, value in found.items() if value is not None}

    @property
    def ids(self) -> list[str]:
        """Ids of the videos or images, in the order of the file."""
        raise NotImplementedError

    def find(self, key: str) -> str | None:
        """Return the id under which the file holds an item, or None: `a.avi` is `a`, and `007` is `7`.

        Raises:
            BadFeatures: it may be several ids of the file, none of which is exactly the same.
        """
        if self._spellings is None:
            self._spellings = Spellings(self.ids, str(self.path))
        return self._spellings.find(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.find(key) is not None

    def __len__(self) -> int:
        return len(self.ids)

    def _missing(self, key: str) -> MissingFeatures:
        self._misses += 1  # where thousands are missing, the first of them tell why
        known = self._some_ids()
        near = did_you_mean(key, known) if self._misses <= 3 else ""
        return MissingFeatures(f"no features of {key!r} in {self.path} ({len(self)} ids, such as {known[:1]}){near}")

    def _some_ids(self) -> list[str]:
        """Return the ids that a message about a missing one may name."""
        return self.ids

    def _check(self, features: np.ndarray, key: str) -> np.ndarray:
        features = np.array(features, dtype=np.float32)  # a copy: callers may change theirs
        if not np.isfinite(features).all():
            raise BadFeatures(f"features of {key!r} in {self.path} hold NaN or infinity; write them again without")
        return features


class ClipFeatures(_Store):
    """Clip features of videos: one dataset (clips, dim) per video id.

    Args:
        path: HDF5 file.
        in_memory: keep what has been read; by default for files under 512 MB, and up to so much.

    Raises:
        MissingFile: no such file.
        MissingFeatures: `store[id]` of a video that the file does not hold.
        BadFeatures: a dataset that is not (clips, dim) with clips >= 1 and the dim of the others, or is not finite.
    """

    states = "durations"

    def _forget(self) -> None:
        super()._forget()
        self._ids: list[str] | None = None
        self._dim: int | None = None
        self._kept: dict[str, np.ndarray] = {}
        self._kept_bytes = 0

    @property
    def ids(self) -> list[str]:
        """Ids of the videos, in the order of the file."""
        if self._ids is None:
            self._ids = names(self._open(), str(self.path))
        return self._ids

    @property
    def dim(self) -> int:
        """Width of a clip's feature."""
        if self._dim is None:
            if not self.ids:
                raise BadFeatures(f"{self.path} is empty; expected one dataset (clips, dim) per video id")
            self._dim = int(self._dataset(self.ids[0]).shape[1])
        return self._dim

    def find(self, key: str) -> str | None:
        """Return the id under which the file holds a video, see `_Store.find`."""
        if check_id(key) in self._kept or self._member(key) is not None:
            return key  # without a list of all names, which takes its time
        return super().find(key)

    def __getitem__(self, key: str) -> Float32[np.ndarray, "clips dim"]:
        if check_id(key) in self._kept:
            return self._read(key)
        # A dataset is opened once: that is a fifth of the time.
        found = self._member(key)
        return self._read(super().find(key) or key) if found is None else self._read(key, found)

    def _read(self, key: str, found: Any = None) -> np.ndarray:
        """Return the features of a video by the file's own spelling of its id, whose member `_dataset` takes."""
        if key in self._kept:
            return np.array(self._kept[key], dtype=np.float32)
        dataset = self._dataset(key, found)
        if dataset.shape[1] != self.dim:
            raise self._other_width(key, dataset.shape[1])
        content = read(dataset, (), f"{key!r} in {self.path}")
        features = self._check(content, key)
        if self.in_memory and not (self._auto and self._kept_bytes + content.nbytes > IN_MEMORY_LIMIT):
            self._kept[key] = content
            self._kept_bytes += content.nbytes
        return features

    def _other_width(self, key: str, width: int) -> BadFeatures:
        return BadFeatures(f"{key!r} in {self.path} has features of width {width}, others {self.dim}")

    def duration(self, key: str) -> float | None:
        """Return the seconds that the attribute `duration` of a video's dataset says; None: there is no such attribute.

        Raises:
            MissingFeatures: the file does not hold the video.
            BadFeatures: the attribute is not the length of a video.
        """
        return stated_duration(self._dataset(self.find(key) or key), f"{key!r} in {self.path}")

    def _member(self, key: str) -> Any:
        return member(self._open(), key, str(self.path))

    def _dataset(self, key: str, found: Any = None) -> h5py.Dataset:
        found = self._member(key) if found is None else found
        if found is None:
            raise self._missing(key)
        if isinstance(found, h5py.Group):
            # ActivityNet's C3D file holds one group per video with one dataset in it, whose name differs between files.
            inner, where = names(found, f"{key!r} in {self.path}"), f"{key!r} in {self.path}"
            found = member(found, C3D_NAME if len(inner) != 1 else inner[0], where) or found
        if not isinstance(found, h5py.Dataset) or found.ndim != 2 or 0 in found.shape:
            shape = f"shape {found.shape}" if isinstance(found, h5py.Dataset) else "a group"
            raise BadFeatures(
                f"{key!r} in {self.path} is {shape}; expected one dataset (clips >= 1, dim) per video id, "
                f"or a group with {C3D_NAME}"
            )
        return found


def stated_duration(dataset: h5py.Dataset, where: str) -> float | None:
    """Return the seconds of a video that its dataset states, or None; see `ClipFeatures.duration`."""
    found = attribute(dataset, "duration", where)
    if found is None:
        return None
    value = np.asarray(found)
    if value.dtype.kind not in "fiu" or value.size != 1 or not SHORTEST <= value.item() <= LONGEST:
        raise BadFeatures(
            f"{where} has the attribute duration {brief(value)}; expected the seconds of the video, {SHORTEST} to "
            f"{LONGEST:.0f}"
        )
    return float(value.item())


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
