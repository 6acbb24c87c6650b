"""The index of a folder of shards, made from the shards themselves."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from relgrounding._files import local_only, replacing, sha256
from relgrounding._printing import progress
from relgrounding._signals import look
from relgrounding.features._regions import RegionFeatures
from relgrounding.features._stores import ClipFeatures
from relgrounding.features.shards._index import INDEX, TABLE, TEXTS, Index, Shard, check_replaceable, shard_files
from relgrounding.features.shards._lookup import doubled, tables
from relgrounding.io._errors import BadFeatures, check_id
from relgrounding.io._hdf5 import member, names, open_hdf5
from relgrounding.io._regular import check_regular

MADE_OF = "made_of"
"""Attribute of a shard: the digest of what all shards of a store have in common, such as settings and files read."""
UNFINISHED = (".part", ".journal", ".parts")
"""Endings of what lies beside a shard that is not complete."""


class Content(NamedTuple):
    """What a shard holds.

    Args:
        kind: "clips", "regions", or "" of a shard without items.
        dim: width of a feature.
        ids: of its items, in their order.
        attributes: numbers and texts.
    """

    kind: str
    dim: int
    ids: list[str]
    attributes: dict[str, Any]


def index_shards(folder: str | Path, quiet: bool = True, signed: bool = False) -> Index:
    """Make the index of a folder of shards: `ids.txt`, `ids.idx` and, last, `index.json`.

    Args:
        folder: of HDF5 files of one layout of docs/features.md. Where their names are like `shard-00001-of-00004.h5`,
            all must be there.
        quiet: without a progress bar.
        signed: take a `FILE.sha256` beside a file, and not older than it, for its checksum.

    Raises:
        MissingFile: there are no shards, or one is missing.
        UnsafeFile: a shard is not a regular file, or a link out of the folder.
        BadFeatures: a shard is unfinished, damaged, of another kind or width, or an item is in two of them.
        ConfigError: a file of one of these names was not written by a feature store.
    """
    folder = local_only(folder, "a folder of shards")
    files = shard_files(folder)
    check_replaceable(folder)
    for path in files:
        check_regular(path, follow_links=False)
        _check_finished(path)
    contents, shards = [], []
    for path in progress(files, desc="shards", unit="shard", quiet=quiet):
        look()
        contents.append(content_of(path))
        shards.append(Shard(path.name, len(contents[-1].ids), path.stat().st_size, checksum(path, signed)))
    kind, dim = _one_kind(files, contents)
    _check_one_origin(files, contents)
    ids = all_ids(folder, shards, contents)
    pieces = [_write(folder / name, part, len(ids)) for name, part in zip((TEXTS, TABLE), tables(ids), strict=True)]
    index = Index(folder, kind, dim, tuple(shards), (pieces[0], pieces[1]), _common([c.attributes for c in contents]))
    with replacing(folder / INDEX) as beside:
        beside.write_text(index.to_json(), encoding="utf-8")
    return index


def content_of(path: Path) -> Content:
    """Return what an HDF5 file of one of the two layouts holds, but the features.

    Raises:
        DataError: it is damaged, or of neither layout.
    """
    with open_hdf5(path) as file:
        held = names(file, str(path))
        flat = "offsets" in held
        features = member(file, "features", str(path)) if flat else None
        width = features.shape[-1] if isinstance(features, h5py.Dataset) and features.shape else 0
    store = RegionFeatures(path, in_memory=False) if flat else ClipFeatures(path, in_memory=False)
    ids = [check_id(key, f"an id in {path}") for key in store.ids]
    dim = width if flat else store.dim if ids else 0
    return Content(("regions" if flat else "clips") if ids else "", int(dim), ids, _simple(store.attributes))


def checksum(path: Path, signed: bool) -> str:
    """Return the SHA-256 of a file: if `signed`, that of a FILE.sha256 written since, or else that of the content."""
    beside = path.with_name(path.name + ".sha256")
    if signed and beside.is_file() and not beside.is_symlink() and beside.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        with beside.open("rb") as file:
            said = file.read(64).decode("ascii", "replace")
        if re.fullmatch("[0-9a-f]{64}", said):
            return said
    return sha256(path)


def all_ids(folder: Path, shards: Iterable[Shard], contents: Iterable[Content]) -> list[str]:
    """Return the ids of all shards, none of which may be in two of them.

    Raises:
        BadFeatures: one is; the message names both shards.
    """
    seen: dict[str, str] = {}
    for shard, content in zip(shards, contents, strict=True):
        for key in content.ids:
            if key in seen:
                raise doubled(folder, key, seen[key], shard.file)
            seen[key] = shard.file
    return list(seen)


def _check_finished(path: Path) -> None:
    for ending in UNFINISHED:
        left = path.with_name(path.name + ending)
        if left.exists():
            raise BadFeatures(f"{left} is what an interruption left: {path.name} is unfinished; give its command again")


def _one_kind(files: list[Path], contents: list[Content]) -> tuple[str, int]:
    first = next((n for n, content in enumerate(contents) if content.kind), None)
    if first is None:
        raise BadFeatures(f"{files[0].parent}: all of its {len(files)} shards are empty; make one with features")
    kind, dim = contents[first][:2]
    for path, content in zip(files, contents, strict=True):
        if content.kind and (content.kind, content.dim) != (kind, dim):
            raise BadFeatures(
                f"{path} holds {content.kind} of width {content.dim}, {files[first].name} {kind} of width {dim}; one "
                "store holds one kind of features"
            )
    return kind, dim


def _check_one_origin(files: list[Path], contents: list[Content]) -> None:
    made = {content.attributes[MADE_OF]: path for path, content in zip(files, contents, strict=True)
            if MADE_OF in content.attributes}  # fmt: skip
    if len(made) > 1:
        first, second = list(made.values())[:2]
        raise BadFeatures(
            f"{first} and {second.name} were made of different files or with different settings; make one again"
        )


def _simple(attributes: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in attributes.items()}
    return {key: value for key, value in plain.items() if isinstance(value, str | int | float | bool)}


def _common(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the attributes that are the same everywhere."""
    first, rest = attributes[0], attributes[1:]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in rest)}


def _write(path: Path, content: bytes, items: int) -> Shard:
    with replacing(path) as beside:
        beside.write_bytes(content)
    return Shard(path.name, items, len(content), sha256(path))
