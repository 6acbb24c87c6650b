"""The files that a conversion writes: one, or shards of a common folder."""

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from relgrounding._files import HDF5, check_output
from relgrounding.features.convert._sources import Entry
from relgrounding.features.shards import begin_shard, check_folder, finish, is_made, shard_name
from relgrounding.io._errors import BadFeatures

BESIDE = (".part", ".journal", ".sha256")


class Target(NamedTuple):
    """A file to write, and the items that belong in it."""

    path: Path
    entries: Sequence[Entry]


class Targets:
    """What a conversion writes.

    Args:
        out: the file, or the folder of the shards.
        count: of the shards; 0: one file.
        wanted: numbers of the shards to make, from 1; empty: all of them.
    """

    def __init__(self, out: Path, count: int = 0, wanted: Collection[int] = ()) -> None:
        self.out, self.count, self.wanted = out, count, wanted
        if not all(1 <= number <= count for number in wanted) or count < 0:
            raise BadFeatures(f"shard {max(wanted, default=0)} of {count}: expected a number from 1 to {max(count, 1)}")
        self.made_of = ""

    def check(self, sources: Sequence[Path], components: bool) -> None:
        """Refuse an output that may not be written; see `check_output`.

        Raises:
            ConfigError: it is of another kind, or is what is read.
        """
        if not self.count:
            check_output(self.out, sources, HDF5, (*BESIDE, *([".pca.npz"] if components else [])))
            return
        check_folder(self.out, self.count, sources)
        for number in range(1, self.count + 1):
            check_output(self.out / shard_name(number, self.count), sources, HDF5, BESIDE)
        if components and len(self.wanted) not in (0, self.count):
            raise BadFeatures(
                "components fitted on one shard would not be those of the others; make the shards with --shards alone, "
                "or give the components of an earlier conversion: --pca FILE.pca.npz"
            )

    def split(self, entries: Sequence[Entry], made_of: str) -> list[Target]:
        """Return what is to be written: all items in one file, or runs of about as many rows in each shard.

        Args:
            entries: all items, in their order.
            made_of: digest of everything that the content depends on.

        Raises:
            BadFeatures: there are more shards than items.
        """
        if not self.count:
            return [Target(self.out, entries)]
        if self.count > len(entries):
            raise BadFeatures(f"{self.count} shards of {len(entries)} items; give at most {len(entries)}")
        self.made_of = hashlib.sha256(f"{made_of} {self.count}".encode()).hexdigest()
        rows = list(accumulate(entry.rows for entry in entries))
        ends = [0]
        for number in range(1, self.count + 1):
            even = bisect_left(rows, rows[-1] * number / self.count) + 1
            ends.append(min(max(even, ends[-1] + 1), len(entries) - self.count + number))
        parts = [entries[begin:end] for begin, end in pairwise(ends)]
        wanted = self.wanted or range(1, self.count + 1)
        return [Target(self.out / shard_name(n, self.count), parts[n - 1]) for n in sorted(wanted)]

    def begin(self, target: Target) -> bool:
        """Return whether a file is to be made: an earlier call has not made this shard of the same."""
        if not self.count:
            return True
        if is_made(target.path, self.made_of):
            return False
        begin_shard(target.path)
        return True

    def finish(self, quiet: bool) -> bool:
        """Make the index if all shards are there; return whether the output is complete."""
        return not self.count or finish(self.out, self.count, self.made_of, quiet) is not None
