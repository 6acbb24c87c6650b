"""Which shard holds an id: a sorted table of hashes on disk, of which a look-up reads some twenty numbers.

`ids.txt` has one id per line, in the order of the shards. `ids.idx` holds little-endian uint64 numbers, N being the
number of items: N hashes of the canonical ids (`relgrounding.io._ids`), rising; the N numbers of the items that they
belong to, counted from 0; and N + 1 offsets, where the line of each item begins and the last one ends. A hash is the
first eight bytes of BLAKE2b. Whatever the table says is compared with the id itself.
"""

import hashlib
import os
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np

from relgrounding._files import sha256
from relgrounding.features.shards._index import TABLE, TEXTS, Index
from relgrounding.io._errors import BadFeatures
from relgrounding.io._ids import canonical_id

LONGEST_ID = 4096
"""Bytes."""
MOST_ALIKE = 1000
"""Items of one hash: spellings of one id, or a damaged table."""


class _Numbers(Sequence[int]):
    """Numbers of a file, each read when it is asked for: no memory, and nothing that a fork or a short file breaks."""

    def __init__(self, descriptor: int, begin: int, count: int) -> None:
        self._descriptor, self._begin, self._count = descriptor, begin, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: Any) -> Any:
        return int.from_bytes(os.pread(self._descriptor, 8, 8 * (self._begin + place)), "little")


class Lookup:
    """The ids of a store.

    Args:
        index: of the store, with files of the right sizes.

    Raises:
        BadFeatures: the table is not of as many items as the index says.
    """

    def __init__(self, index: Index) -> None:
        self._index, self._count = index, index.items
        if index.ids[1].bytes != 8 * (3 * self._count + 1):
            raise self._damaged(f"it is not of {self._count:,} items")
        self._texts, table = (os.open(index.folder / name, os.O_RDONLY | os.O_CLOEXEC) for name in (TEXTS, TABLE))
        for descriptor in (self._texts, table):
            weakref.finalize(self, os.close, descriptor)
        self._compared = False
        self._firsts = list(accumulate((shard.items for shard in index.shards[:-1]), initial=0))
        self._hashes = _Numbers(table, 0, self._count)
        self._numbers = _Numbers(table, self._count, self._count)
        self._lines = _Numbers(table, 2 * self._count, self._count + 1)

    def find(self, key: str) -> tuple[int, str] | None:
        """Return the number of an item and the store's own spelling of its id, or None.

        Raises:
            BadFeatures: several ids are spellings of it, none of them exact; it is there twice; the table is damaged.
        """
        wanted = canonical_id(key)
        alike = [(number, name) for number, name in self._of_hash(id_hash(wanted)) if canonical_id(name) == wanted]
        exact = [number for number, name in alike if name == key]
        if len(exact) > 1:
            first, second = (self._index.shards[self.place(number)[0]].file for number in exact[:2])
            raise doubled(self._index.folder, key, first, second)
        if exact:
            return exact[0], key
        if len(alike) > 1:
            first, second = sorted(name for _, name in alike)[:2]
            raise BadFeatures(
                f"{self._index.folder}: {key!r} may be {first!r} or {second!r}; ask by one of these, or rename one"
            )
        if not alike:
            self._compare()
        return alike[0] if alike else None

    def _compare(self) -> None:
        """Compare the table with its checksums, once, before an id that it does not lead to is said to be missing."""
        for file in () if self._compared else self._index.ids:
            if sha256(self._index.folder / file.file) != file.sha256:
                raise self._damaged("it has changed since the index was made", file.file)
        self._compared = True

    def place(self, number: int) -> tuple[int, int]:
        """Return the number of an item's shard, and that of its row in the shard, both from 0."""
        shard = bisect_right(self._firsts, number) - 1
        return shard, number - self._firsts[shard]

    def name(self, number: int) -> str:
        """Return the id of an item.

        Raises:
            BadFeatures: the table is damaged.
        """
        if not 0 <= number < self._count:
            raise self._damaged(f"it names item {number} of {self._count}")
        begin, end = self._lines[number], self._lines[number + 1]
        if not begin < end <= begin + LONGEST_ID or end > self._index.ids[0].bytes:
            raise self._damaged(f"the line of item {number} is from {begin} to {end}")
        try:
            return os.pread(self._texts, end - begin - 1, begin).decode()
        except UnicodeDecodeError:
            raise self._damaged(f"the id of item {number} is not UTF-8", TEXTS) from None

    def names(self, most: int | None = None) -> list[str]:
        """Return the ids in the order of the shards: the first `most`, or all.

        Raises:
            BadFeatures: there are more or fewer than the index says, or they are not UTF-8.
        """
        with open(self._index.folder / TEXTS, "rb") as file:
            content = file.read() if most is None else file.read(most * 64)
        try:
            names = content[: content.rfind(b"\n") + 1].decode().split("\n")[:-1]
        except UnicodeDecodeError:
            raise self._damaged("it is not UTF-8", TEXTS) from None
        if most is None and len(names) != self._count:
            raise self._damaged(f"it has {len(names):,} lines, not {self._count:,}", TEXTS)
        return names[:most]

    def _of_hash(self, wanted: int) -> list[tuple[int, str]]:
        place, found = bisect_left(self._hashes, wanted), []
        while place < self._count and self._hashes[place] == wanted:
            number = self._numbers[place]
            found.append((number, self.name(number)))
            place += 1
            if len(found) > MOST_ALIKE:
                raise self._damaged(f"more than {MOST_ALIKE} items have one hash")
        return found

    def _damaged(self, what: str, name: str = TABLE) -> BadFeatures:
        folder = self._index.folder
        return BadFeatures(f"{folder / name} is damaged: {what}; relgrounding prepare index {folder} makes it again")


def doubled(folder: Path, key: str, first: str, second: str) -> BadFeatures:
    """Return the error about an id that is in two shards, or twice in one."""
    both = f"{first} and {second}" if first != second else f"{first} twice"
    return BadFeatures(
        f"{folder}: {key!r} is in {both}; each item belongs in one shard: make one of them again without it, and then "
        f"the index: relgrounding prepare index {folder}"
    )


def id_hash(canonical: str) -> int:
    """Return the hash of a canonical id."""
    digest = hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def tables(names: Sequence[str]) -> tuple[bytes, bytes]:
    """Return the contents of `ids.txt` and `ids.idx` for ids in the order of the shards."""
    lines = [f"{name}\n".encode() for name in names]
    hashes = np.fromiter((id_hash(canonical_id(name)) for name in names), "<u8", len(names))
    order = np.argsort(hashes, kind="stable")
    offsets = np.zeros(len(names) + 1, "<u8")
    np.cumsum(np.fromiter(map(len, lines), "<u8", len(names)), out=offsets[1:])
    table = np.concatenate([hashes[order], order.astype("<u8"), offsets])
    return b"".join(lines), table.tobytes()
