"""Digests that tell whether a run resumes on the data that it began with, wherever the files are."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from relgrounding._printing import progress
from relgrounding._signals import look
from relgrounding.datasets._dataset import Query
from relgrounding.datasets._stream import IndexedQueries
from relgrounding.features.shards import read_index

BLOCK = 2**16
MOST_BLOCKS = 2**12


def file_digest(path: Path) -> str:
    """Return a digest of a file's size and content; of a file over 256 MB, of 4,096 blocks spread evenly over it.

    That of a folder of shards is made of the checksums in its index.

    A file of other features of the same shapes differs in every block. A few rows changed within a large file may
    lie between the blocks.
    """
    if path.is_dir():
        return read_index(path).digest()
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    last = max(0, size - BLOCK)
    blocks = min(-(-size // BLOCK), MOST_BLOCKS)
    with path.open("rb") as file:
        for block in range(blocks):
            file.seek(block * BLOCK if blocks < MOST_BLOCKS else block * last // (blocks - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def queries_digest(parts: Sequence[Sequence[Query]], durations: Mapping[str, float]) -> str:
    """Return a digest of what annotations say: queries in their order, each with the seconds of its video.

    That of queries with one index, for which every line must be read, is kept beside the index.
    """
    indexed = [part for part in parts if isinstance(part, IndexedQueries)]
    if len(indexed) < len(parts) or len({part.source for part in indexed}) != 1:
        return _digest(parts, durations, quiet=True)
    rows = hashlib.sha256()
    for part in indexed:
        rows.update(np.int64(len(part)).tobytes())
        for some in part.parts():
            rows.update(some.tobytes())
    name = f"digest-{rows.hexdigest()[:32]}"
    return indexed[0].source.kept(name, lambda: _digest(parts, durations, quiet=False))


def _digest(parts: Sequence[Sequence[Query]], durations: Mapping[str, float], quiet: bool) -> str:
    digest, total = hashlib.sha256(), sum(map(len, parts))
    for query in progress(chain(*parts), desc="annotations", unit="query", total=total, quiet=quiet):
        look()
        said = [query.id, query.item, query.text, query.targets, query.kind, query.group, durations.get(query.item)]
        digest.update(json.dumps(said).encode())
    return digest.hexdigest()
