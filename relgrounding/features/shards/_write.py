"""Shards in the making: each process writes its own into a common folder, and whichever is last makes the index."""

from collections.abc import Iterable
from pathlib import Path

from relgrounding._files import check_output_folder, replacing, sha256
from relgrounding._settings import ConfigError
from relgrounding.features._stores import ClipFeatures
from relgrounding.features.shards._index import INDEX, Index, hdf5_files, shard_name
from relgrounding.features.shards._make import MADE_OF, index_shards
from relgrounding.io._errors import DataError

BEING_WRITTEN = (".part", ".journal")
"""Endings of what lies beside a shard that is being replaced."""


def check_folder(folder: Path, count: int, sources: Iterable[Path] = ()) -> None:
    """Refuse a folder that cannot become a store; to be called before the work.

    Args:
        folder: of the store; it need not exist.
        count: of its shards.
        sources: what is read.

    Raises:
        ConfigError: it is a file, holds something that is read, or HDF5 files that are not its shards.
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


def is_made(path: Path, made_of: str) -> bool:
    """Whether a shard is complete, and was made of this.

    Args:
        path: of the shard.
        made_of: digest of everything that its content depends on.
    """
    if not path.is_file() or any(path.with_name(path.name + ending).exists() for ending in BEING_WRITTEN):
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
