"""Readers of a folder of shards, with the interface of those of one file."""

import os
import resource
from collections import OrderedDict
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

import h5py
import numpy as np
from jaxtyping import Float32

from relgrounding._files import local_only
from relgrounding.features._regions import RegionFeatures, Regions
from relgrounding.features._stores import ClipFeatures, _Store
from relgrounding.features.shards._index import INDEX, Index, read_index
from relgrounding.features.shards._lookup import Lookup
from relgrounding.io._errors import BadFeatures, MissingFeatures
from relgrounding.io._hdf5 import check_texts, member, open_hdf5, read_text_of

_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
MOST_OPEN = 256 if _DESCRIPTORS == resource.RLIM_INFINITY else max(8, min(256, _DESCRIPTORS // 4))
"""Shards that are open at once: each takes a file descriptor, and about 0.7 MB for HDF5's own caches."""
CHUNK_CACHE = 2**17
"""Bytes: of a chunk one item is read, and seldom two."""
MOST_NAMED = 20_000
"""Ids that a message about a missing one looks through."""

S = TypeVar("S", bound=_Store)


@overload
def open_features(path: str | Path, kind: Literal["clips"], in_memory: bool | None = None) -> ClipFeatures: ...
@overload
def open_features(path: str | Path, kind: Literal["regions"], in_memory: bool | None = None) -> RegionFeatures: ...
@overload
def open_features(path: str | Path, kind: str = "", in_memory: bool | None = None) -> ClipFeatures | RegionFeatures: ...
def open_features(path: str | Path, kind: str = "", in_memory: bool | None = None) -> ClipFeatures | RegionFeatures:
    """Open a feature store: an HDF5 file, or a folder of shards.

    Args:
        path: of either.
        kind: "clips" or "regions"; empty: what it holds, as a look into it tells.
        in_memory: as of `ClipFeatures` and `RegionFeatures`; shards stay on disk.

    Raises:
        MissingFile: there is no such file or folder, or a shard is missing.
        UnsafeFile: it, or a shard, is not a regular file, or a link out of the folder.
        BadFeatures: it holds features of another kind, or the index or a shard is damaged or half-written.
    """
    path = local_only(path, "a feature store")
    if path.is_dir():
        index = read_index(path)
        if kind and index.kind != kind:
            raise BadFeatures(f"{path} holds features of {index.kind}, expected {kind}; name another store")
        return ClipShards(path) if index.kind == "clips" else RegionShards(path)
    if kind != "regions":
        with open_hdf5(path) as file:
            offsets = member(file, "offsets", str(path))
            regions = offsets is not None and getattr(offsets, "ndim", 1) == 1  # a video of this name has (clips, dim)
        if kind and regions:
            raise BadFeatures(f"{path} holds features of regions, expected {kind}; name another store")
        kind = "regions" if regions else "clips"
    return ClipFeatures(path, in_memory) if kind == "clips" else RegionFeatures(path, in_memory)


class _ClipShard(ClipFeatures):
    """One shard of videos, of which nothing but what is asked for is read."""

    _chunk_cache = CHUNK_CACHE

    def __init__(self, path: Path, dim: int) -> None:
        super().__init__(path, in_memory=False)
        self._dim = dim

    def check_width(self, name: str) -> None:
        """Raise BadFeatures where the features of a video have another width than the index says."""
        if (width := int(self._dataset(name).shape[1])) != self._dim:
            raise self._other_width(name, width)

    def _other_width(self, key: str, width: int) -> BadFeatures:
        return _other_width(self.path, width, self.dim)


class _RegionShard(RegionFeatures):
    """One shard of images, found by their rows: the ids of the others are not read."""

    _chunk_cache = CHUNK_CACHE

    def __init__(self, path: Path, dim: int) -> None:
        super().__init__(path, in_memory=False)
        self._width = dim

    def _forget(self) -> None:
        super()._forget()
        self._members: dict[str, h5py.Dataset] = {}
        self._loaded = False

    def _open(self) -> h5py.File:
        if self._owner != os.getpid():
            self._members = {}
        return super()._open()

    def _member(self, name: str) -> h5py.Dataset:
        self._open()
        if name not in self._members:  # each look-up checks links and filters, and takes a fifth of a read
            self._members[name] = super()._member(name)
        return self._members[name]

    def row(self, row: int, key: str) -> Regions:
        """Return the regions of a row, whose id must be the one expected."""
        self.check(row, key)
        return self._read(row, key)

    def sizes(self, row: int, key: str) -> tuple[int, int]:
        """Return (width, height) of the image of a row, whose id must be the one expected."""
        self.check(row, key)
        return self._size(row)

    def rows(self, ids: list[str]) -> list[tuple[str, int, tuple[int, int]]]:
        """Return id, number of regions and (width, height) of all images, whose ids are given."""
        self._load()
        if (held := len(self._data["offsets"]) - 1) != len(ids):
            raise BadFeatures(f"{self.path} holds {held:,} images, its index says {len(ids):,}: {_remake(self.path)}")
        return self._counts(ids)

    def check(self, row: int, key: str) -> None:
        """Raise BadFeatures where the image of a row is another one than the index says."""
        self._load()
        found = read_text_of(self._member("ids"), row, f"ids in {self.path}")
        if found != key:
            raise BadFeatures(f"{self.path} holds {found!r} where its index has {key!r}: {_remake(self.path)}")

    def check_width(self, name: str) -> None:
        """Raise BadFeatures where the features have another width than the index says."""
        self._load()

    def _load(self) -> None:
        if not self._loaded:
            self._read_arrays(self._open())
            check_texts(self._member("ids"), f"ids in {self.path}")
            if (width := self._member("features").shape[1]) != self._width:
                raise _other_width(self.path, width, self._width)
            self._loaded = True


class _Shards(_Store, Generic[S]):
    """What folders of shards have in common, whatever they hold.

    A shard is opened when something of it is first asked for, once per process. What was read is not kept: that is
    left to the system's own cache of files.
    """

    kind: ClassVar[str]
    shard: ClassVar[Any]

    def __init__(self, path: str | Path, in_memory: bool | None = None) -> None:
        self.path = local_only(path, "a feature store")
        self.in_memory, self._auto = False, True
        self.index: Index = read_index(self.path)
        if self.index.kind != self.kind:
            raise BadFeatures(f"{path} holds features of {self.index.kind}, expected {self.kind}; name another store")
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._lookup: Lookup | None = None
        self._names: list[str] | None = None
        self._shards: OrderedDict[int, S] = OrderedDict()
        self._has_dim = False

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"index": self.index}

    @property
    def attributes(self) -> dict[str, Any]:
        """What all shards say about where the features come from."""
        return dict(self.index.attributes)

    @property
    def ids(self) -> list[str]:
        """Ids of the videos or images, shard by shard."""
        if self._names is None:
            self._names = self._table().names()
        return self._names

    @property
    def dim(self) -> int:
        """Width of a feature, which the first item must have."""
        if not self._has_dim and self.index.items:
            number = self._table().place(0)[0]
            name = self._table().name(0)
            shard: Any = self._open_shard(number)
            try:
                shard.check_width(name)
            except MissingFeatures:
                raise _lost(shard.path, name) from None
            self._has_dim = True
        return self.index.dim

    def find(self, key: str) -> str | None:
        """Return the id under which a shard holds an item, or None: `a.avi` is `a`, and `007` is `7`.

        Raises:
            BadFeatures: it may be several ids, none of which is exactly the same, or is in two shards.
        """
        found = self._table().find(key)
        return found and found[1]

    def __len__(self) -> int:
        return self.index.items

    def _some_ids(self) -> list[str]:
        return self._table().names(MOST_NAMED)

    def _table(self) -> Lookup:
        if self._lookup is None:
            self._lookup = Lookup(self.index)
        return self._lookup

    def _at(self, key: str) -> tuple[S, int, str]:
        """Return the shard of an item, its row in it, and its id there.

        Raises:
            MissingFeatures: no shard holds it.
        """
        found = self._table().find(key)
        if found is None:
            raise self._missing(key)
        number, row = self._table().place(found[0])
        return self._open_shard(number), row, found[1]

    def _open_shard(self, number: int) -> S:
        if number not in self._shards:
            if len(self._shards) >= MOST_OPEN:
                self._shards.popitem(last=False)
            self._shards[number] = self._new_shard(self.path / self.index.shards[number].file)
        self._shards.move_to_end(number)
        return self._shards[number]

    def _new_shard(self, path: Path) -> S:
        return self.shard(path, self.index.dim)


class ClipShards(_Shards[_ClipShard], ClipFeatures):
    """Clip features of videos in a folder of shards: a `ClipFeatures`.

    Args:
        path: folder with `index.json`.
        in_memory: for the interface of `ClipFeatures`; shards stay on disk.

    Raises:
        MissingFile: there is no index, or a shard is missing.
        UnsafeFile: a file is not a regular one, or a link out of the folder.
        BadFeatures: the index is damaged, or a shard has another size than it says.
    """

    kind, shard = "clips", _ClipShard

    def __getitem__(self, key: str) -> Float32[np.ndarray, "clips dim"]:
        shard, _, name = self._at(key)
        try:
            return shard._read(name)
        except MissingFeatures:
            raise _lost(shard.path, name) from None

    def duration(self, key: str) -> float | None:
        """Return the seconds of a video, see `ClipFeatures.duration`."""
        shard, _, name = self._at(key)
        try:
            return shard.duration(name)
        except MissingFeatures:
            raise _lost(shard.path, name) from None


class RegionShards(_Shards[_RegionShard], RegionFeatures):
    """Region features of images in a folder of shards: a `RegionFeatures`.

    Args:
        path: folder with `index.json`.
        in_memory: for the interface of `RegionFeatures`; shards stay on disk.

    Attributes:
        left_out: how many boxes of the images that were read so far were left out.

    Raises:
        MissingFile: there is no index, or a shard is missing.
        UnsafeFile: a file is not a regular one, or a link out of the folder.
        BadFeatures: the index is damaged, or a shard has another size than it says.
    """

    kind, shard = "regions", _RegionShard

    @property
    def dim(self) -> int:
        """Width of a region's feature."""
        return self._check_width(super().dim)

    def __getitem__(self, key: str) -> Regions:
        shard, row, name = self._at(key)
        return shard.row(row, name)

    def count(self, key: str) -> int:
        """Return the number of regions of an image, see `RegionFeatures.count`."""
        shard, row, name = self._at(key)
        shard.check(row, name)
        return shard._count(row)

    def size(self, key: str) -> tuple[int, int]:
        """Return (width, height) of an image in pixels, see `RegionFeatures.size`."""
        shard, row, name = self._at(key)
        return shard.sizes(row, name)

    def counts(self) -> list[tuple[str, int, tuple[int, int]]]:
        """Return each image's id, number of regions and (width, height), shard by shard."""
        ids, shards = iter(self.ids), self.index.shards
        parts = ([next(ids) for _ in range(shard.items)] for shard in shards)
        return list(chain.from_iterable(self._open_shard(n).rows(part) for n, part in enumerate(parts) if part))

    def _new_shard(self, path: Path) -> _RegionShard:
        shard = super()._new_shard(path)
        shard.left_out = self.left_out
        return shard


def _lost(path: Path, name: str) -> BadFeatures:
    return BadFeatures(f"{path} lacks {name!r}, which its index names: {_remake(path)}")


def _other_width(path: Path, width: int, dim: int) -> BadFeatures:
    return BadFeatures(
        f"{path} has features of width {width}, and dim is {dim} in {path.parent / INDEX}: {_remake(path)}"
    )


def _remake(path: Path) -> str:
    return f"was it made again? relgrounding prepare index {path.parent} makes the index again"
