"""The file that a conversion writes: laid out whole before the first number, so that an interruption cannot break it.

HDF5 files that are cut off while they grow cannot be opened again. Here all datasets are created and the file is closed
first; then the numbers are written to their known offsets, and a journal beside the file says which items are there.
"""

import fcntl
import glob
import hashlib
import json
import mmap
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relgrounding._files import is_part, replacing
from relgrounding.features.convert._sources import Entry, Item
from relgrounding.io._errors import DataError

SIGN_BYTES = 2**24
SIGN_SECONDS = 0.5
"""After which an interruption costs no more."""


class Output:
    """A feature file in the making.

    Args:
        path: of the finished file; PATH.part and PATH.journal exist until then.
        layout: "clips" or "regions".
        entries: all items, in their order.
        dim: width of a feature.
        dtype: "float16" or "float32".
        attributes: of the file.
        fingerprint: of everything that the content depends on; a different one starts again.
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
        self._checksum = path.with_name(path.name + ".sha256")
        for left in path.parent.glob(f".{glob.escape(self._checksum.name)}.*.part"):  # by a process that was killed
            if is_part(left.name) and not left.is_symlink():
                left.unlink(missing_ok=True)
        signatures = self._done(fingerprint)
        if signatures is None:
            self._log.truncate(0)
            self._offsets = self._create(attributes)
            self._write_line({"fingerprint": fingerprint})
        else:
            self._offsets = self._find_offsets()
        self._descriptor = os.open(self.part, os.O_RDWR)
        # Of every item, where the first of it and of all that follow begins: before that the file is as it will be.
        firsts = [min(offsets) for offsets in self._offsets] + [os.fstat(self._descriptor).st_size]
        self._begins = list(accumulate(reversed(firsts), min))[::-1]
        self._digest, self._digested, self._behind, self.done = hashlib.sha256(), 0, 0, 0
        self._signer = ThreadPoolExecutor(1)
        self._signing: Future[None] | None = None
        self._unsigned, self._signed_at = 0, time.monotonic()
        self._verified(signatures or [])

    def write(self, item: Item) -> None:
        """Write the next item."""
        for at, array in zip(self._offsets[self.done], self._arrays(item), strict=True):
            content = array.data.cast("B")
            self._unsigned += len(content)
            if at >= self._begins[self.done + 1]:
                self._behind = zlib.crc32(content, self._behind)
            while content:
                written = os.pwrite(self._descriptor, content, at)
                content, at = content[written:], at + written
        self.done += 1
        if self._unsigned >= SIGN_BYTES or time.monotonic() - self._signed_at >= SIGN_SECONDS:
            self._sign_in_background()

    def finish(self) -> None:
        """Give the file its name, with its SHA-256 beside it."""
        self._wait()
        os.fsync(self._descriptor)
        self._digest_up_to(os.fstat(self._descriptor).st_size)
        with replacing(self._checksum) as beside:
            beside.write_bytes(f"{self._digest.hexdigest()}  ".encode() + os.fsencode(self.path.name) + b"\n")
            os.replace(self.part, self.path)
        self.close()
        self._journal.unlink()

    def close(self) -> None:
        """Stop; the next call resumes after what is written."""
        if self._descriptor >= 0:
            self._sign_in_background()
            self._signer.shutdown()
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

    def _sign_in_background(self) -> None:
        self._wait()
        self._signing = self._signer.submit(self._sign, self.done, self._behind)
        self._unsigned, self._signed_at = 0, time.monotonic()

    def _wait(self) -> None:
        if self._signing is not None:
            self._signing.result()

    def _sign(self, count: int, behind: int) -> None:
        self._digest_up_to(self._begins[count])
        self._write_line([count, self._signature(behind)])

    def _signature(self, behind: int) -> str:
        """Return what tells that items are in the file.

        It is the digest of the file up to where the items that follow begin, and the checksum of what lies behind that.
        """
        return f"{self._digest.hexdigest()[:16]} {behind:08x}"

    def _digest_up_to(self, end: int) -> None:
        if end > self._digested:
            with mmap.mmap(self._descriptor, end, prot=mmap.PROT_READ) as content, memoryview(content) as view:
                rest = view[self._digested :]
                self._digest.update(rest)  # in one call, during which other threads can run
                rest.release()
            self._digested = end

    def _sizes(self, number: int) -> tuple[int, int]:
        rows = self.entries[number].rows
        return rows * self.dim * self.dtype.itemsize, rows * 16

    def _done(self, fingerprint: str) -> list[tuple[int, str]] | None:
        """Return the signatures that an interrupted run left, each after so many items; None: no such run."""
        self._log.seek(0)
        lines = self._log.read().split(b"\n")[:-1]  # a line without its end was cut off
        try:
            if not self.part.is_file() or json.loads(lines[0]) != {"fingerprint": fingerprint}:
                return None
            return [(int(count), str(signature)) for count, signature in map(json.loads, lines[1:])]
        except (ValueError, TypeError, IndexError):
            return None

    def _verified(self, signatures: list[tuple[int, str]]) -> int:
        """Return how many items are in the file as the journal says, and forget the rest."""
        lines = 1
        for count, signature in signatures:
            before = self.done, self._behind, self._digest.copy(), self._digested
            if not self.done < count <= len(self.entries):
                break
            for number in range(self.done, count):
                for at, size in zip(self._offsets[number], self._sizes(number), strict=False):
                    if at >= self._begins[number + 1]:
                        self._behind = zlib.crc32(os.pread(self._descriptor, size, at), self._behind)
            self._digest_up_to(self._begins[count])
            if self._signature(self._behind) != signature:
                self.done, self._behind, self._digest, self._digested = before
                break
            self.done, lines = count, lines + 1
        self._log.seek(0)
        kept = self._log.read().split(b"\n")[:lines]
        self._log.truncate(0)
        self._log.write(b"".join(line + b"\n" for line in kept))
        return self.done

    def _create(self, attributes: Mapping[str, Any]) -> list[tuple[int, ...]]:
        with h5py.File(self.part, "w") as file:
            file.attrs.update(attributes)
            if self.layout == "clips":
                offsets: list[tuple[int, ...]] = []
                for entry in self.entries:
                    offsets.append((_allocate(file, entry.id, (entry.rows, self.dim), self.dtype),))
                    if entry.duration is not None:
                        file[entry.id].attrs["duration"] = entry.duration
                return offsets
            counts = [entry.rows for entry in self.entries]
            file["offsets"] = np.cumsum([0, *counts], dtype=np.int64)
            file["sizes"] = np.array([entry.size for entry in self.entries], dtype=np.int64)
            file.create_dataset("ids", data=[entry.id for entry in self.entries], dtype=h5py.string_dtype())
            features = _allocate(file, "features", (sum(counts), self.dim), self.dtype)
            boxes = _allocate(file, "boxes", (sum(counts), 4), np.dtype(np.float32))
            return self._region_offsets(features, boxes)

    def _find_offsets(self) -> list[tuple[int, ...]]:
        """Return for each item where in the file its arrays begin, in bytes."""
        with h5py.File(self.part, "r") as file:
            if self.layout == "clips":
                return [(file[entry.id].id.get_offset(),) for entry in self.entries]
            return self._region_offsets(*(file[name].id.get_offset() for name in ("features", "boxes")))

    def _region_offsets(self, features: int, boxes: int) -> list[tuple[int, ...]]:
        starts = accumulate((entry.rows for entry in self.entries[:-1]), initial=0)
        width = self.dim * self.dtype.itemsize
        return [(features + start * width, boxes + start * 16) for start in starts]


def _allocate(file: h5py.File, name: str, shape: tuple[int, int], dtype: np.dtype) -> int:
    """Make a dataset in one piece, and return its offset in the file, which is fixed from now on."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    kind = h5py.h5t.py_create(dtype, logical=True)
    return h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), properties).get_offset()
