"""The file that a conversion writes: laid out whole before the first number, so that an interruption cannot break it.

HDF5 files that are cut off while they grow cannot be opened again. Here all datasets are created and the file is closed
first; then the numbers are written to their known places, and a journal beside the file says which items are there.
"""

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relgrounding.data._convert_sources import Entry, Item
from relgrounding.data._errors import DataError

BLOCK = 2**22


class Output:
    """A feature file in the making.

    Args:
        path: of the finished file; PATH.part and PATH.journal exist until then.
        layout: "clips" or "regions".
        entries: all items, in their order.
        dim: width of a feature.
        dtype: "float16" or "float32".
        attributes: of the file.
        fingerprint: of everything that the content depends on; another one starts anew.
    """

    def __init__(
        self,
        path: Path,
        layout: str,
        entries: Sequence[Entry],
        dim: int,
        dtype: str,
        attributes: Mapping[str, Any],
        fingerprint: str,
    ) -> None:
        self.path, self.layout, self.entries, self.dim = path, layout, entries, dim
        self.dtype = np.dtype(dtype)
        self.part = path.with_name(path.name + ".part")
        self._journal = path.with_name(path.name + ".journal")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._log = open(self._journal, "a+b", buffering=0)  # noqa: SIM115 - open until `finish` or `close`
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._log.close()
            raise DataError(f"{path} is being written by another process; wait for it, or name another file") from None
        done = self._done(fingerprint)
        if done is None:
            self._log.truncate(0)
            self._create(attributes)
            self._write_line({"fingerprint": fingerprint})
        self._places = self._find_places()
        self._descriptor = os.open(self.part, os.O_RDWR)
        self.done = self._verified(done or [])

    def write(self, item: Item) -> None:
        """Write the next item."""
        crc = 0
        for at, array in zip(self._places[self.done], self._arrays(item), strict=True):
            content = array.data.cast("B")
            crc = zlib.crc32(content, crc)
            while content:
                written = os.pwrite(self._descriptor, content, at)
                content, at = content[written:], at + written
        self._write_line(crc)
        self.done += 1

    def finish(self) -> Iterator[int]:
        """Give the file its name, with its SHA-256 beside it; yields the bytes read for it, again and again."""
        os.fsync(self._descriptor)
        digest = hashlib.sha256()
        with self.part.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                digest.update(block)
                yield len(block)
        checksum = self.path.with_name(self.path.name + ".sha256")
        beside = checksum.with_name(checksum.name + ".part")
        beside.write_text(f"{digest.hexdigest()}  {self.path.name}\n")
        os.replace(self.part, self.path)
        os.replace(beside, checksum)
        self.close()
        self._journal.unlink()

    def close(self) -> None:
        """Stop; what is written is gone on with next time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._log.close()

    def _arrays(self, item: Item) -> list[np.ndarray]:
        arrays = [np.ascontiguousarray(item.features, dtype=self.dtype)]
        if item.boxes is not None:
            arrays.append(np.ascontiguousarray(item.boxes, dtype=np.float32))
        return arrays

    def _write_line(self, value: Any) -> None:
        self._log.write(json.dumps(value).encode() + b"\n")

    def _done(self, fingerprint: str) -> list[int] | None:
        """Return the checksums of the items that an interrupted run wrote; None: there was no such run."""
        self._log.seek(0)
        lines = self._log.read().split(b"\n")[:-1]  # a line without its end was cut off
        try:
            if not self.part.is_file() or json.loads(lines[0]) != {"fingerprint": fingerprint}:
                return None
            return [int(line) for line in lines[1:]]
        except (ValueError, IndexError):
            return None

    def _verified(self, crcs: list[int]) -> int:
        """Return how many items are in the file as the journal says, and forget the rest."""
        count = 0
        for places, entry, expected in zip(self._places, self.entries, crcs, strict=False):
            sizes = (entry.rows * self.dim * self.dtype.itemsize, entry.rows * 16)
            crc = 0
            for at, size in zip(places, sizes, strict=False):
                crc = zlib.crc32(os.pread(self._descriptor, size, at), crc)
            if crc != expected:
                break
            count += 1
        self._log.seek(0)
        lines = self._log.read().split(b"\n")[: count + 1]
        self._log.truncate(0)
        self._log.write(b"".join(line + b"\n" for line in lines))
        return count

    def _create(self, attributes: Mapping[str, Any]) -> None:
        with h5py.File(self.part, "w") as file:
            file.attrs.update(attributes)
            if self.layout == "clips":
                for entry in self.entries:
                    _allocate(file, entry.id, (entry.rows, self.dim), self.dtype)
                return
            counts = [entry.rows for entry in self.entries]
            file["offsets"] = np.cumsum([0, *counts], dtype=np.int64)
            file["sizes"] = np.array([entry.size for entry in self.entries], dtype=np.int64)
            file.create_dataset("ids", data=[entry.id for entry in self.entries], dtype=h5py.string_dtype())
            _allocate(file, "features", (sum(counts), self.dim), self.dtype)
            _allocate(file, "boxes", (sum(counts), 4), np.dtype(np.float32))

    def _find_places(self) -> list[tuple[int, ...]]:
        """Return for each item where in the file its arrays begin, in bytes."""
        with h5py.File(self.part, "r") as file:
            if self.layout == "clips":
                return [(file[entry.id].id.get_offset(),) for entry in self.entries]
            starts = file["offsets"][:-1].tolist()
            features, boxes = (file[name].id.get_offset() for name in ("features", "boxes"))
            width = self.dim * self.dtype.itemsize
            return [(features + start * width, boxes + start * 16) for start in starts]


def _allocate(file: h5py.File, name: str, shape: tuple[int, int], dtype: np.dtype) -> None:
    """Make a dataset in one piece, at a place in the file that is fixed from now on."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), properties)
