"""The files that a conversion writes: one, or shards of a common folder."""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from relgrounding._files import HDF5, check_output
from relgrounding.features.convert._sources import Entry
from relgrounding.features.shards import Making
from relgrounding.io._errors import BadFeatures

BESIDE = (".part", ".journal", ".sha256")


class Target(NamedTuple):
    """A file to write, and the items that belong in it; number 0 is a file that is not a shard."""

    number: int
    path: Path
    entries: Sequence[Entry]


def check_targets(
    out: Path, count: int, wanted: Collection[int], sources: Sequence[Path], components: bool
) -> Making | None:
    """Return the shards that a conversion makes, or None where it makes one file.

    Args:
        out: the file, or the folder of the shards.
        count: of the shards; 0: one file.
        wanted: numbers of the shards to make, from 1; empty: all of them.
        sources: what is read.
        components: whether components are fitted, and written beside OUT.

    Raises:
        ConfigError: an output that may not be written; see `check_output`.
        BadFeatures: there is no such shard, or components would be fitted on a part of them.
    """
    if count < 0:
        raise BadFeatures(f"{count} shards: expected 1 or more, or 0 for one file")
    if wrong := [number for number in wanted if not 1 <= number <= count]:
        numbers = f"expected a number from 1 to {count}" if count else "it is one file; give the number of shards, too"
        raise BadFeatures(f"shard {wrong[0]} of {count}: {numbers}")
    if not count:
        check_output(out, sources, HDF5, (*BESIDE, *([".pca.npz"] if components else [])))
        return None
    making = Making(out, count, sources)
    for number in range(1, count + 1):
        check_output(making.path(number), sources, HDF5, BESIDE)
    if components and len(wanted) not in (0, count):
        raise BadFeatures(
            "components fitted on one shard would not be those of the others; make the shards with --shards alone, "
            "or give the components of an earlier conversion: --pca FILE.pca.npz"
        )
    return making


def split(entries: Sequence[Entry], making: Making, wanted: Collection[int]) -> list[Target]:
    """Return what is to be written: runs of about as many rows in each shard.

    Args:
        entries: all items, in their order.
        making: the shards.
        wanted: as of `check_targets`.

    Raises:
        BadFeatures: there are more shards than items.
    """
    count = making.count
    if count > len(entries):
        raise BadFeatures(f"{count} shards of {len(entries)} items; give at most {len(entries)}")
    rows = list(accumulate(entry.rows for entry in entries))
    ends = [0]
    for number in range(1, count + 1):
        even = bisect_left(rows, rows[-1] * number / count) + 1
        ends.append(min(max(even, ends[-1] + 1), len(entries) - count + number))
    parts = [entries[begin:end] for begin, end in pairwise(ends)]
    return [Target(n, making.path(n), parts[n - 1]) for n in sorted(wanted or range(1, count + 1))]
