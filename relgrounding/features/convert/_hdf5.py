"""What sources in HDF5 have in common: where numbers lie, and their reading."""

import weakref
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from relgrounding.features.convert._sources import Entry, Source
from relgrounding.io._errors import BadFeatures
from relgrounding.io._hdf5 import attribute, member, offset_of, open_hdf5, read, read_plain


class Hdf5Source(Source):
    """A source in one HDF5 file."""

    def index(self) -> Iterator[Entry]:
        """Yield the items in the order of the file."""
        self._file, self._bytes = open_hdf5(self.path), self.path.open("rb", buffering=0)
        weakref.finalize(self, self._bytes.close)
        yield from self._entries()

    def origin(self, reduced: bool = False) -> dict[str, Any]:
        """Return the attributes that stay true of converted features."""
        names = ("warning",) if reduced else ("warning", "source")
        found = {name: attribute(self._file, name, str(self.path)) for name in names}
        return {name: value for name, value in found.items() if isinstance(value, str)}

    def _entries(self) -> Iterator[Entry]:
        raise NotImplementedError

    def numbers(self, at: "Numbers", rows: int, where: str) -> np.ndarray:
        """Read (rows, ...) numbers from where they lie in the file as they are, or else through the library."""
        if at.offset is not None:
            return read_plain(self._bytes, at.offset, (rows, at.width), at.dtype, where)
        group = self._file if at.group is None else member(self._file, at.group, where)
        return read(dataset_of(group, at.key, where), at.rows, where, self.options.max_bytes)


class Numbers:
    """Where features or boxes of an image lie in an HDF5 file.

    Args:
        group: that holds the dataset; None: the file itself.
        key: name of the dataset.
        rows: of the dataset, as a slice, or () for all.
        array: the dataset.
        begin: its first row.
    """

    def __init__(self, group: str | None, key: str, rows: Any, array: h5py.Dataset, begin: int = 0) -> None:
        self.group, self.key, self.rows = group, key, rows
        self.width, self.dtype = array.shape[-1], array.dtype
        offset = offset_of(array)
        self.offset = None if offset is None else offset + begin * self.width * self.dtype.itemsize


def dataset_of(group: h5py.Group, key: str, where: str) -> h5py.Dataset:
    """Return a dataset of a group.

    Raises:
        BadFeatures: it has none of this name.
    """
    found = member(group, key, where)
    if not isinstance(found, h5py.Dataset):
        raise BadFeatures(f"{where} lacks {key}; expected features, boxes and size (width, height)")
    return found
