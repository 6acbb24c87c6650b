"""Feature stores of several files: a folder of shards with an index (docs/features.md)."""

from relgrounding.features.shards._index import Index, Shard, hdf5_files, is_store, read_index, shard_name
from relgrounding.features.shards._make import MADE_OF, index_shards
from relgrounding.features.shards._stores import ClipShards, RegionShards, open_features
from relgrounding.features.shards._verify import changed_files, check_ids
from relgrounding.features.shards._write import begin_shard, check_folder, finish, is_made, sign

__all__ = [
    "MADE_OF",
    "ClipShards",
    "Index",
    "RegionShards",
    "Shard",
    "begin_shard",
    "changed_files",
    "check_folder",
    "check_ids",
    "finish",
    "hdf5_files",
    "index_shards",
    "is_made",
    "is_store",
    "open_features",
    "read_index",
    "shard_name",
    "sign",
]
