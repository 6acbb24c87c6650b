"""Feature stores of several files: a folder of shards with an index (docs/features.md)."""

from relgrounding.features.shards._index import (
    SHARD,
    Index,
    Shard,
    check_complete,
    hdf5_files,
    is_store,
    read_index,
    shard_name,
)
from relgrounding.features.shards._make import MADE_OF, index_shards
from relgrounding.features.shards._stores import ClipShards, RegionShards, open_features
from relgrounding.features.shards._verify import changed_files, check_ids
from relgrounding.features.shards._write import Making, sign

__all__ = [
    "MADE_OF",
    "SHARD",
    "ClipShards",
    "Index",
    "Making",
    "RegionShards",
    "Shard",
    "changed_files",
    "check_complete",
    "check_ids",
    "hdf5_files",
    "index_shards",
    "is_store",
    "open_features",
    "read_index",
    "shard_name",
    "sign",
]
