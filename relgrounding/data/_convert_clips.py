"""Clip features in the formats that people have: a `.npy` a video, or HDF5 with a dataset or a group a video."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from relgrounding.data._convert_sources import (
    Entry,
    Item,
    Source,
    check_finite,
    check_shape,
    folder_files,
    number_type,
    stem_id,
)
from relgrounding.data._errors import BadFeatures
from relgrounding.data._hdf5 import damage, member, names, offset_of, open_hdf5, read, read_plain


class NpyClips(Source):
    """`VIDEO.npy` each, (clips, dim) or (clips, 1, 1, dim): I3D features of Charades-STA."""

    def index(self) -> Iterator[Entry]:
        """Yield the videos by the names of their files; only the headers are read."""
        self._files = folder_files(self.path, ".npy")
        for path in self._files:
            with self.problems:
                with damage(str(path), "NumPy file"):
                    header = np.load(path, mmap_mode="r", allow_pickle=False)
                rows, dim = check_shape(header.shape, str(path))
                yield Entry(stem_id(path, ".npy"), rows, dim, number_type(header.dtype, str(path)), path)

    def read(self, entry: Entry) -> Item:
        """Return a video's features."""
        with damage(str(entry.at), "NumPy file"):
            features = np.load(entry.at, allow_pickle=False).reshape(entry.rows, entry.dim)
        return Item(check_finite(features, str(entry.at)))

    def files(self) -> list[Path]:
        """Return every `.npy` file."""
        return self._files


class Hdf5Clips(Source):
    """One dataset a video, or one group a video that holds a single dataset, such as `VIDEO/c3d_features`."""

    def index(self) -> Iterator[Entry]:
        """Yield the videos in the order of the file."""
        self._file, self._bytes = open_hdf5(self.path), self.path.open("rb", buffering=0)
        weakref.finalize(self, self._bytes.close)
        videos = names(self._file, str(self.path))
        if not videos:
            raise BadFeatures(f"{self.path} is empty; expected one dataset (clips, dim) a video")
        for name in videos:
            place = f"{name!r} in {self.path}"
            with self.problems, damage(place):
                dataset = self._dataset(name, place)
                rows, dim = check_shape(dataset.shape or (), place)
                kind = number_type(dataset.dtype, place)
                yield Entry(name, rows, dim, kind, (offset_of(dataset), dataset.dtype), None)

    def read(self, entry: Entry) -> Item:
        """Return a video's features."""
        place = f"{entry.id!r} in {self.path}"
        offset, dtype = entry.at
        if offset is not None:
            features = read_plain(self._bytes, offset, (entry.rows, entry.dim), dtype, place)
        else:
            features = read(self._dataset(entry.id, place), (), place).reshape(entry.rows, entry.dim)
        return Item(check_finite(features, place))

    def _dataset(self, name: str, place: str) -> h5py.Dataset:
        found = member(self._file, name, str(self.path))
        if isinstance(found, h5py.Group):
            inner = names(found, place)
            if len(inner) != 1:
                raise BadFeatures(f"{place} is a group of {len(inner)} members; expected one dataset in it")
            found = member(found, inner[0], place)
        if not isinstance(found, h5py.Dataset):
            raise BadFeatures(f"{place} is no dataset (clips, dim); make the file again")
        return found
