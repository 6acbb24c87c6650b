"""Digests that tell whether a run resumes on the data that it began with, wherever the files are."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from relgrounding.datasets._dataset import Query
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


def queries_digest(queries: Iterable[Query], durations: Mapping[str, float]) -> str:
    """Return a digest of what annotations say: queries in their order, each with the seconds of its video."""
    digest = hashlib.sha256()
    for query in queries:
        said = [query.id, query.item, query.text, query.targets, query.kind, query.group, durations.get(query.item)]
        digest.update(json.dumps(said).encode())
    return digest.hexdigest()
