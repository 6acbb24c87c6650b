"""Shards in the making: each process writes its own into a common folder, and whichever is last makes the index."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from relgrounding._files import check_output_folder, replacing, sha256
from relgrounding._printing import brief
from relgrounding._settings import ConfigError
from relgrounding.features._stores import ClipFeatures
from relgrounding.features.shards._index import INDEX, SAID, Index, check_replaceable, hdf5_files, shard_name
from relgrounding.features.shards._make import MADE_OF, index_shards
from relgrounding.io._errors import BadAnnotation, BadFeatures, DataError
from relgrounding.io._regular import read_text
from relgrounding.io._values import parse_json

BEING_WRITTEN = (".part", ".journal")
"""Endings of what lies beside a shard that is being replaced."""

REMEDY = "give all shards the same, or name another folder (extract --overwrite makes this call's shard again)"


class Making:
    """The shards of a folder, made by one process or by several, each its own.

    Args:
        folder: of the store; it need not exist.
        count: of its shards.
        sources: what is read.

    Attributes:
        made_of: digest of everything that the content of all shards depends on, once `describe` was called.

    Raises:
        ConfigError: the folder cannot become a store of so many shards, see `check_folder`.
    """

    def __init__(self, folder: Path, count: int, sources: Iterable[Path] = ()) -> None:
        check_folder(folder, count, sources)
        self.folder, self.count, self.made_of = folder, count, ""

    def path(self, number: int) -> Path:
        """Return the path of a shard, by its number from 1."""
        return self.folder / shard_name(number, self.count)

    def describe(self, made_of: str, facts: Mapping[str, Any], replace: bool = False) -> None:
        """Say what the shards are made of, and compare it with what the folder was begun with.

        Args:
            made_of: digest of everything that the content of all shards depends on.
            facts: the same in words, for a message about what differs.
            replace: do not compare: whatever was made of something else is made again.

        Raises:
            BadFeatures: the folder was begun with something else; the message names it.
        """
        self.made_of, said = made_of, self.folder / SAID
        words = {key: brief(value, 200) for key, value in facts.items()}
        if not replace:
            if said.exists():
                self._compare(said, words)
            if other := self.other():
                raise BadFeatures(f"{other} was made of other files, or with other settings, than this call; {REMEDY}")
            if said.exists():
                return
        with replacing(said) as beside:
            beside.write_text(json.dumps({MADE_OF: made_of, "facts": words}, indent=1) + "\n", encoding="utf-8")

    def begin(self, number: int) -> bool:
        """Return whether a shard is to be made; if so, the index, which has to be made again, is removed."""
        if is_made(self.path(number), self.made_of):
            return False
        begin_shard(self.path(number))
        return True

    def other(self) -> Path | None:
        """Return a complete shard that was made of something else."""
        paths = (self.path(number) for number in range(1, self.count + 1))
        return next((path for path in paths if _is_whole(path) and not is_made(path, self.made_of)), None)

    def finish(self, quiet: bool = True) -> Index | None:
        """Make the index if all shards are there; see `finish`."""
        return finish(self.folder, self.count, self.made_of, quiet)

    def _compare(self, said: Path, words: dict[str, str]) -> None:
        again = "remove it, and what was made so far"
        try:
            found = parse_json(read_text(said), str(said), again)
        except BadAnnotation as error:
            raise BadFeatures(str(error)) from None
        facts = found.get("facts") if isinstance(found, dict) else None
        if not isinstance(facts, dict):
            raise BadFeatures(f"{said} does not say what the shards are made of; {again}")
        if found.get(MADE_OF) != self.made_of:
            key = next((key for key in {**words, **facts} if facts.get(key) != words.get(key)), "its source")
            was, now = (brief(values.get(key, "another"), 200) for values in (facts, words))
            raise BadFeatures(f"{self.folder} was begun with {key} {was}, this call has {now}; {REMEDY}")


def _is_whole(path: Path) -> bool:
    return path.is_file() and not any(path.with_name(path.name + ending).exists() for ending in BEING_WRITTEN)


def check_folder(folder: Path, count: int, sources: Iterable[Path] = ()) -> None:
    """Refuse a folder that cannot become a store; to be called before the work.

    Args:
        folder: of the store; it need not exist.
        count: of its shards.
        sources: what is read.

    Raises:
        ConfigError: it is a file, holds something that is read, HDF5 files that are not its shards, or a file of
            another kind that would be replaced, see `check_replaceable`.
    """
    sources = list(sources)
    check_output_folder(folder, sources)
    if not folder.is_dir():
        return
    for source in sources:
        if source.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{folder} holds what is read ({source}); name another output")
    own = {shard_name(number, count) for number in range(1, count + 1)}
    other = next((path.name for path in hdf5_files(folder) if path.name not in own), None)
    if other:
        raise ConfigError(f"{folder} holds {other}, which is not one of its {count} shards; remove it, or name another")
    check_replaceable(folder)


def is_made(path: Path, made_of: str) -> bool:
    """Whether a shard is complete, and was made of this.

    Args:
        path: of the shard.
        made_of: digest of everything that its content depends on.
    """
    if not _is_whole(path):
        return False
    try:
        return ClipFeatures(path).attributes.get(MADE_OF) == made_of
    except DataError:
        return False


def begin_shard(path: Path) -> None:
    """Remove the index of a store, one of whose shards is made or replaced from here on."""
    (path.parent / INDEX).unlink(missing_ok=True)


def sign(path: Path) -> None:
    """Write the SHA-256 of a shard beside it, so that whoever makes the index need not read it."""
    with replacing(path.with_name(path.name + ".sha256")) as beside:
        beside.write_text(f"{sha256(path)}  {path.name}\n", encoding="utf-8")


def finish(folder: Path, count: int, made_of: str, quiet: bool = True) -> Index | None:
    """Make the index of a store if all of its shards are there; return it, or None.

    Several processes may do so at once: they write the same.

    Args:
        folder: of the store.
        count: of its shards.
        made_of: digest of everything that their content depends on.
        quiet: without a progress bar.

    Raises:
        DataError: see `index_shards`.
    """
    paths = [folder / shard_name(number, count) for number in range(1, count + 1)]
    if not all(is_made(path, made_of) and not path.with_name(path.name + ".parts").exists() for path in paths):
        return None
    return index_shards(folder, quiet, signed=True)
