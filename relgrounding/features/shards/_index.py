"""`index.json`: what a folder of shards holds. It is small, readable, and as untrusted as any other file."""

import contextlib
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from relgrounding._names import name_fault
from relgrounding._printing import brief
from relgrounding._settings import ConfigError
from relgrounding.io._errors import BadAnnotation, BadFeatures, MissingFile
from relgrounding.io._regular import check_regular, read_text
from relgrounding.io._values import parse_json

INDEX, TEXTS, TABLE = "index.json", "ids.txt", "ids.idx"
SAID = "made_of.json"
"""File of a folder that says what its shards are made of, from the moment when the first is begun."""
FORMAT, VERSION = "relgrounding feature store", 1
_HEADS = {INDEX: rf'\s*{{\s*"format"\s*:\s*"{FORMAT}"', SAID: r'\s*{\s*"made_of"\s*:\s*"'}
"""How the two files begin that say what they are."""
KINDS = ("clips", "regions")
HDF5 = (".h5", ".hdf5", ".hdf")
LARGEST = 2**24
"""Bytes of an index, of some 100,000 shards."""
MOST = 2**40
"""Of items, and of the width of a feature."""
SHARD = "shard-"
"""What the names of shards that the library makes begin with."""
_NUMBERED = re.compile(r"(.*)-([0-9]{1,6})-of-([0-9]{1,6})(\.\w+)")


class Shard(NamedTuple):
    """A file of a store, as the index describes it.

    Args:
        file: its name, in the folder.
        items: videos or images in it.
        bytes: its size.
        sha256: of its content.
    """

    file: str
    items: int
    bytes: int
    sha256: str


class Index(NamedTuple):
    """What a folder of shards holds.

    Args:
        folder: of the store.
        kind: "clips" or "regions".
        dim: width of a feature.
        shards: in the order of their items.
        ids: the two files by which an item is found, `ids.txt` and `ids.idx`; their items are those of the store.
        attributes: what all shards say about where the features come from.
    """

    folder: Path
    kind: str
    dim: int
    shards: tuple[Shard, ...]
    ids: tuple[Shard, Shard]
    attributes: dict[str, Any]

    @property
    def items(self) -> int:
        """Videos or images in all shards."""
        return self.ids[0].items

    def digest(self) -> str:
        """Return a digest of the content of the shards, from their checksums."""
        content = [self.kind, self.dim, [[shard.items, shard.bytes, shard.sha256] for shard in self.shards]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of the file, a shard per line."""
        head = {"format": FORMAT, "version": VERSION, "kind": self.kind, "dim": self.dim, "items": self.items}
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        lines.append(f'  "attributes": {json.dumps(self.attributes)},')
        for name, files, end in (("ids", self.ids, ","), ("shards", self.shards, "")):
            entries = ",\n".join(f"    {json.dumps(file._asdict())}" for file in files)
            lines.append(f'  "{name}": [\n{entries}\n  ]{end}')
        return "{\n" + "\n".join(lines) + "\n}\n"


def is_store(path: Path) -> bool:
    """Whether a path is that of a folder with an index."""
    return path.is_dir() and (path / INDEX).exists()


def check_replaceable(folder: Path) -> None:
    """Refuse a folder with a file that making a store would replace, and that no store has written.

    That a folder is one of a store is seen from the beginning of `index.json` or `made_of.json`, or from the last
    number of `ids.idx`, which is the length of `ids.txt`. One of these is enough: the others may be damaged.

    Raises:
        ConfigError: there is one; the message names it.
    """
    of_store = any(_begins(folder / name, head) for name, head in _HEADS.items())
    of_store = of_store or _are_a_pair(folder / TEXTS, folder / TABLE)
    # Asked for what it is, not for a plain file: another process may remove an index at any moment.
    for path in (folder / name for name in (INDEX, SAID, TEXTS, TABLE)):
        if os.path.lexists(path) and (not of_store or path.is_symlink() or path.is_dir()):
            raise ConfigError(
                f"{path} would be replaced, but no feature store has written it; move it away, or name another folder"
            )


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _begins(path: Path, head: str) -> bool:
    with contextlib.suppress(OSError):
        if _is_plain(path):
            with path.open("rb") as file:
                return re.match(head.encode(), file.read(1000)) is not None
    return False


def _are_a_pair(texts: Path, table: Path) -> bool:
    with contextlib.suppress(OSError):
        if _is_plain(texts) and _is_plain(table):
            with table.open("rb") as file:
                file.seek(-8, os.SEEK_END)
                return int.from_bytes(file.read(), "little") == texts.stat().st_size
    return False


def shard_name(number: int, count: int) -> str:
    """Return the name of a shard.

    >>> shard_name(3, 16)
    'shard-00003-of-00016.h5'
    """
    return f"{SHARD}{number:05}-of-{count:05}.h5"


def hdf5_files(folder: Path) -> list[Path]:
    """Return the HDF5 files of a folder by name, without those whose names begin with a dot."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in HDF5 and path.name[0] != ".")


def shard_files(folder: Path) -> list[Path]:
    """Return the HDF5 files of a folder by name.

    Raises:
        MissingFile: there is no such folder, no such file, or not all of those that belong together by their names.
        BadFeatures: they are parts of different wholes.
    """
    if not folder.is_dir():
        raise MissingFile(f"{folder} is not a folder; name one of shards, files such as {shard_name(1, 4)}")
    names = [path.name for path in hdf5_files(folder)]
    if not names:
        raise MissingFile(
            f"{folder} holds no shards, files such as {shard_name(1, 4)}; docs/features.md describes them"
        )
    check_complete(folder, names)
    return [folder / name for name in names]


def check_complete(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder that lacks a shard, as far as names such as `shard-00001-of-00004.h5` tell."""
    found: dict[tuple[str, int, str], set[int]] = defaultdict(set)
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            found[match[1], int(match[3]), match[4]].add(int(match[2]))
    if len(found) > 1:
        counts = " and of ".join(str(count) for _, count, _ in sorted(found))
        raise BadFeatures(f"{folder} holds shards of {counts}; remove those that do not belong to it")
    for (_, count, _), numbers in found.items():
        lacking = [number for number in range(1, min(count, len(numbers) + 4) + 1) if number not in numbers]
        if lacking:
            raise MissingFile(
                f"{folder} holds {len(numbers):,} of {count:,} shards; number {', '.join(map(str, lacking[:3]))} is "
                f"missing: make it with --shard {lacking[0]}/{count}, or copy it"
            )


def read_index(folder: Path) -> Index:
    """Read the index of a folder of shards; see whether all files are there and as long as they should be.

    Raises:
        MissingFile: there is no index, or a file that it names.
        UnsafeFile: it, or a file that it names, is not a regular file, or a link out of the folder.
        BadFeatures: it is not an index of this version, names a file twice or one elsewhere, or a file has
            another size.
    """
    path = folder / INDEX
    again = f"relgrounding prepare index {folder} makes it again"
    if not path.exists() and not path.is_symlink():
        shard_files(folder)
        raise MissingFile(f"{folder} holds shards, but no {INDEX}; relgrounding prepare index {folder} makes it")
    check_regular(path, follow_links=False)
    if path.stat().st_size > LARGEST:
        raise BadFeatures(f"{path} has {path.stat().st_size:,} bytes, more than any index; {again}")
    try:
        index = _Reader(path, again).read(parse_json(read_text(path), str(path), again))
    except BadAnnotation as error:
        raise BadFeatures(str(error)) from None
    for file in (*index.ids, *index.shards):
        _check_file(folder / file.file, file, again)
    return index


def _check_file(path: Path, file: Shard, again: str) -> None:
    if not path.exists() and not path.is_symlink():
        raise MissingFile(f"{path} is missing, and {INDEX} names it; copy it, or make it again, and then {again}")
    check_regular(path, follow_links=False)
    size = path.stat().st_size
    if size != file.bytes:
        raise BadFeatures(
            f"{path} has {size:,} bytes, by {INDEX} it should have {file.bytes:,}: it is half-written or another "
            f"one; copy or make it again; if it is as it should be, {again}"
        )


class _Reader:
    """Reads values of an index, and says what is wrong with one."""

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self.remedy = path, remedy

    def read(self, content: Any) -> Index:
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise self._wrong("it is not the index of a feature store")
        if type(content.get("version")) is not int or content["version"] != VERSION:
            raise self._wrong(f"it is of version {brief(content.get('version'))}, this release reads {VERSION}")
        if content.get("kind") not in KINDS:
            raise self._wrong(f"its kind is {brief(content.get('kind'))}, expected clips or regions")
        least = int(content["kind"] == "clips")  # boxes may be without features
        dim, items = self._number(content, "dim", "the index", least), self._number(content, "items", "the index")
        shards, ids = self._files(content, "shards"), self._files(content, "ids")
        if [file.file for file in ids] != [TEXTS, TABLE] or {file.items for file in ids} != {items}:
            raise self._wrong(f"its ids are not {TEXTS} and {TABLE} of {items:,} items")
        if sum(shard.items for shard in shards) != items:
            raise self._wrong(f"its shards hold {sum(shard.items for shard in shards):,} items, not {items:,}")
        attributes = content.get("attributes", {})
        if not isinstance(attributes, dict):
            raise self._wrong(f"its attributes are {brief(attributes)!r}, expected an object")
        for key, value in attributes.items():
            if not isinstance(value, str | int | float | bool):
                raise self._wrong(f"its attribute {brief(key)} is {brief(value)!r}, expected text or a number")
        return Index(self.path.parent, content["kind"], dim, tuple(shards), (ids[0], ids[1]), attributes)

    def _files(self, content: dict[str, Any], key: str) -> list[Shard]:
        entries = content.get(key)
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise self._wrong(f"its {key} are not a list of files, but {brief(entries)!r}")
        files = [self._file(entry, key) for entry in entries]
        seen: set[str] = set()
        for file in files:
            if file.file in seen:
                raise self._wrong(f"it lists {file.file} twice")
            seen.add(file.file)
        return files

    def _file(self, entry: dict[str, Any], key: str) -> Shard:
        name, digest = entry.get("file"), entry.get("sha256")
        fault = name_fault(name, most_bytes=250)
        endings = HDF5 if key == "shards" else (".txt", ".idx")
        if fault or not str(name).lower().endswith(endings):
            why = f": it {fault}" if fault else f", which end in {', '.join(endings)}"
            raise self._wrong(f"{brief(name)!r} is not the name of one of its {key}{why}")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise self._wrong(f"{name} has the sha256 {brief(digest)!r}, expected 64 digits")
        items, size = (self._number(entry, field, str(name)) for field in ("items", "bytes"))
        return Shard(str(name), items, size, digest)

    def _number(self, holder: dict[str, Any], key: str, what: str, least: int = 0) -> int:
        value = holder.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
            raise self._wrong(f"{what} has {key} {brief(value)!r}, expected a whole number from {least}")
        return value

    def _wrong(self, what: str) -> BadFeatures:
        return BadFeatures(f"{self.path}: {what}; {self.remedy}")
