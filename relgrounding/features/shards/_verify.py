"""Whether the files of a store are as when its index was made."""

import hashlib
from collections.abc import Iterator

from relgrounding._files import sha256
from relgrounding._printing import progress
from relgrounding._signals import look
from relgrounding.features.shards._index import Index
from relgrounding.features.shards._lookup import tables
from relgrounding.features.shards._make import all_ids, content_of
from relgrounding.io._errors import BadFeatures


def changed_files(index: Index, quiet: bool = True) -> Iterator[str]:
    """Yield the names of the files whose SHA-256 is not that of the index."""
    for file in progress([*index.ids, *index.shards], desc="checksums", unit="file", quiet=quiet):
        look()
        if sha256(index.folder / file.file) != file.sha256:
            yield file.file


def check_ids(index: Index, quiet: bool = True) -> None:
    """Compare the ids that the index says with those in the shards.

    Raises:
        BadFeatures: an item is in two shards, or the index has other ids than the shards, or in another order.
    """
    bar = progress(index.shards, desc="ids", unit="shard", quiet=quiet)
    contents = [content_of(index.folder / shard.file) for shard in bar]
    for shard, content in zip(index.shards, contents, strict=True):
        if len(content.ids) != shard.items:
            raise BadFeatures(f"{shard.file} holds {len(content.ids):,} items, its index says {shard.items:,}")
    ids = all_ids(index.folder, index.shards, contents)
    for file, table in zip(index.ids, tables(ids), strict=True):
        if (len(table), hashlib.sha256(table).hexdigest()) != (file.bytes, file.sha256):
            raise BadFeatures(f"{file.file} does not have the ids of the shards")
