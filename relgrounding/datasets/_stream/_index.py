"""An index of the lines of a file of queries: columns on disk, made in one pass and mapped into memory.

It is a folder of the cache, named by the content of the file and by what was read of it, with one file per column,
facts.json, and their checksums: what is damaged is made again. Texts and ids are told apart by 64 bits of their BLAKE2
hash: among 10,000,000 different ones, two are taken for one with a probability of 3e-6.
"""

import bisect
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
import weakref
import zlib
from array import array
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import relgrounding
from relgrounding._cache import cache_folder, exclusive, mark_used
from relgrounding._files import sha256, synchronise
from relgrounding._printing import get_logger
from relgrounding.datasets._dataset import Query
from relgrounding.features.vocabulary import tokenize
from relgrounding.io._errors import BadAnnotation, DataError

logger = get_logger("relgrounding.datasets")

FORMAT = 3
"""Of the files: to be raised with every change of what they hold."""
COLUMNS = {
    "begin": "int64",
    "line": "int64",
    "item": "int32",
    "text": "int32",
    "first_word": "int64",
    "length": "int32",
    "answered": "uint8",
    "word": "int32",
}
"""Byte and number of the line, number of item and text, first word and number of words, right answers; all words."""
BUFFER = 2**16
RECENT = 2**18
SHARE = 2**20
"""Hashes that are compared at once."""
BLOCK = 2**22
FACTS, SUMS = "facts.json", "sums.json"


class Index:
    """The columns of a file of queries.

    Args:
        folder: of the columns.
        path: the file of queries.
        seen: by which a later change of the file is noticed.

    Attributes:
        names: ids of the items in order of their first use.
        vocabulary: words in order of their first use.
        texts: number of different texts.
        facts: all that facts.json holds.

    Raises:
        OSError, ValueError, LookupError: the folder is not an index.
    """

    def __init__(self, folder: Path, path: Path, seen: tuple[int, ...]) -> None:
        self.folder, self.path, self._seen = folder, path, seen
        self.facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        self.names: list[str] = self.facts["names"]
        self.vocabulary: list[str] = self.facts["vocabulary"]
        self.texts: int = self.facts["texts"]
        for name, kind in COLUMNS.items():
            if (folder / name).stat().st_size != self.facts["rows"][name] * np.dtype(kind).itemsize:
                raise ValueError(f"{folder / name} is not whole")
        self._owner, self._descriptor = 0, -1

    def __reduce__(self) -> tuple[Any, ...]:
        return Index, (self.folder, self.path, self._seen)

    def __len__(self) -> int:
        return self.facts["rows"]["begin"]

    def column(self, name: str) -> np.ndarray:
        """Return a column, mapped anew: what was read of it leaves memory together with the result."""
        if not self.facts["rows"][name]:
            return np.zeros(0, dtype=COLUMNS[name])
        # Copied on writing, as tensors may only be made of what can be written.
        return np.memmap(self.folder / name, dtype=COLUMNS[name], mode="c").view(np.ndarray)

    def value(self, name: str, row: int) -> int:
        """Return a value of a column of int32 or int64, read from disk: mapped pages of all rows would fill memory."""
        kind = np.dtype(COLUMNS[name])
        return int.from_bytes(os.pread(self._files[name], kind.itemsize, row * kind.itemsize), sys.byteorder)

    @cached_property
    def _files(self) -> dict[str, int]:
        files = {name: os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC) for name in ("begin", "line", "item")}
        for file in files.values():
            weakref.finalize(self, os.close, file)
        return files

    @property
    def descriptor(self) -> int:
        """Of the file of queries, opened once per process.

        Raises:
            BadAnnotation: the file is not, or no longer, the one of the index.
        """
        try:
            if self._owner != os.getpid():
                self._descriptor, self._owner = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), os.getpid()
            changed = _state(self._descriptor) != self._seen
        except OSError:
            changed = True
        if changed:
            raise BadAnnotation(f"{self.path}: changed since it was opened; start again")
        return self._descriptor

    def kept(self, name: str, make: Callable[[], str]) -> str:
        """Return a line of text that is made once and kept beside the columns."""
        path = self.folder / f"{name}.txt"
        with contextlib.suppress(OSError, ValueError):
            found, _, checksum = path.read_text(encoding="ascii").partition(" ")
            if checksum == _crc(found.encode()):
                return found
        found = make()
        with contextlib.suppress(OSError):  # a full disk: made again next time
            _write(path.with_name(f".{path.name}"), f"{found} {_crc(found.encode())}")
            os.replace(path.with_name(f".{path.name}"), path)
        return found


def _state(file: Path | int) -> tuple[int, ...]:
    """Return what tells whether a file, or that of a descriptor, changed."""
    facts = os.stat(file)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def open_index(path: Path, what: str, fill: Callable[["IndexWriter"], None]) -> Index:
    """Return the index of a file of queries, made first if the cache does not hold it.

    Args:
        path: the file.
        what: says which of its lines are read, and how.
        fill: reads the lines into a new index.

    Raises:
        DataError: as `fill`, or no cache directory can be written.
        OSError: the index cannot be written.
    """
    cache = cache_folder()
    if cache is None:
        raise DataError(f"{path}: no folder for its index can be written; set RELGROUNDING_CACHE, or data.stream=false")
    seen = _state(path)
    identity = json.dumps([FORMAT, relgrounding.__version__, what, sha256(path)])
    folder = cache / "queries" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.with_name(f"{folder.name}.lock"), f"the index of {path}"):
        mark_used(folder)
        damage = _damage(folder)
        if not damage:
            return Index(folder, path, seen)
        if folder.exists():
            logger.warning("%s: %s; it is the index of %s, and is made again", folder, damage, path)
        with _beside(folder) as unfinished:
            with contextlib.closing(IndexWriter(unfinished)) as writer:
                fill(writer)
                writer.finish()
            if _state(path) != seen:
                raise BadAnnotation(f"{path}: changed while its index was made; start again")
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            os.replace(unfinished, folder)
            synchronise(folder.parent)
        return Index(folder, path, seen)


def _damage(folder: Path) -> str:
    """Return what is wrong with an index; empty if it is whole."""
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        wrong = [name for name in (*COLUMNS, FACTS) if sums[name] != _checksum(folder / name)]
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"it cannot be read ({error})"
    return f"{wrong[0]} is damaged" if wrong else ""


def _checksum(path: Path) -> str:
    found = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found = zlib.crc32(block, found)
    return f"{found:08x}"


def _crc(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Yield a new folder next to one whose lock is held; what a process that died left there is removed."""
    for left in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    unfinished.mkdir()
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


class IndexWriter:
    """Writes the columns of an index; memory grows with items and words, not with queries.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        kinds = {**COLUMNS, "text": "uint64"}  # hashes, until all are known
        self._kinds = {name: np.dtype(kind) for name, kind in kinds.items()}
        self._buffers = {name: array(kind.char) for name, kind in self._kinds.items()}
        self._files = {name: (folder / name).open("wb") for name in COLUMNS}
        self._rows = dict.fromkeys(COLUMNS, 0)
        self._items: dict[str, int] = {}
        self._vocabulary: dict[str, int] = {}
        self._words = 0
        self.facts: dict[str, Any] = {}

    def add(self, line: int, begin: int, query: Query) -> None:
        """Take in the query of a line.

        Args:
            line: its number from 1.
            begin: byte at which it begins.
            query: which has no group.
        """
        put, words = self._buffers, tokenize(query.text)
        put["begin"].append(begin)
        put["line"].append(line)
        put["item"].append(self._items.setdefault(query.item, len(self._items)))
        put["text"].append(_hash(query.text.lower()))
        put["first_word"].append(self._words)
        put["length"].append(len(words))
        put["answered"].append(bool(query.targets))
        known = self._vocabulary
        put["word"].extend([known.setdefault(word, len(known)) for word in words])
        self._words += len(words)
        if len(put["begin"]) >= BUFFER or len(put["word"]) >= BUFFER * 16:
            self._flush()

    def finish(self) -> None:
        """Write what is left and the facts, after all queries; `facts` may hold more of them."""
        self._flush()
        self.close()
        path = self._folder / "text"
        texts = _number_texts(path)
        for name in COLUMNS:
            synchronise(self._folder / name)
        self.facts |= {
            "rows": self._rows,
            "texts": texts,
            "names": list(self._items),
            "vocabulary": list(self._vocabulary),
        }
        _write(self._folder / FACTS, json.dumps(self.facts))
        _write(self._folder / SUMS, json.dumps({name: _checksum(self._folder / name) for name in (*COLUMNS, FACTS)}))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _flush(self) -> None:
        for name, buffer in self._buffers.items():
            self._rows[name] += len(buffer)
            buffer.tofile(self._files[name])
            del buffer[:]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    synchronise(path)


def _number_texts(path: Path) -> int:
    """Replace the hashes of a column by numbers from 0 in order of first use; return how many there are.

    Hashes are compared in shares by their first bits, so that no more than a share of them is sorted at once.
    """
    if not (rows := path.stat().st_size // 8):
        return 0
    first = np.empty(rows, dtype=np.int32)  # row that holds the same hash first
    shares = 1 + rows // SHARE
    for share in range(shares):
        found = np.concatenate([np.flatnonzero(part % shares == share) + start for start, part in _hashes(path)])
        hashes = np.concatenate([part[part % shares == share] for _, part in _hashes(path)])
        _, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        first[found] = found[firsts][inverse]
    number = (first == np.arange(rows, dtype=np.int32)).cumsum(dtype=np.int32)
    with path.open("wb") as file:
        for start in range(0, rows, SHARE):
            (number[first[start : start + SHARE]] - 1).tofile(file)
    return int(number[-1])


def _hashes(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the hashes of a column, some at a time, each time with the first row."""
    with path.open("rb") as file:
        start = 0
        while len(part := np.fromfile(file, dtype=np.uint64, count=SHARE)):
            yield start, part
            start += len(part)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class SeenIds:
    """A set of ids in 8 bytes each: the hashes of most of them stand in a sorted array."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = np.zeros(0, dtype=np.uint64)
        self._view = self._sorted.data  # whose elements are numbers of Python, which are compared faster

    def __contains__(self, name: str) -> bool:
        found = _hash(name)
        if found in self._recent:
            return True
        place = bisect.bisect_left(self._view, found)
        return place < len(self._view) and self._view[place] == found

    def add(self, name: str) -> None:
        """Add an id."""
        self._recent.add(_hash(name))
        if len(self._recent) >= RECENT:
            recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._view = self._sorted.data
            self._recent.clear()
