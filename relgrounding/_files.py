"""Atomic replacement of files, and checks of output paths."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from relgrounding._names import check_name
from relgrounding._settings import ConfigError
from relgrounding._urls import is_url

HDF5 = b"\x89HDF\r\n\x1a\n"
_BESIDE = re.compile(r"\..+\.[0-9a-f]{8}\.part")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty file next to `path`, renamed to `path` at the end, or deleted after an exception.

    Readers find either the old or the new file, even after a crash. Several processes may write the same file.

    Args:
        path: file to create or replace; its folder is created.

    Raises:
        OSError: `path` cannot be written; it is unchanged.
    """
    # Files of `tempfile` are private to their owner; this one has the default permissions.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield beside
        synchronise(beside)
        os.replace(beside, path)
    except OSError as error:
        if error.filename == os.fspath(beside) or (error.filename is None and error.errno in _NO_ROOM):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # it is gone, or what raised says more
            beside.unlink()
    with contextlib.suppress(OSError):  # not every file system has folders that can be synchronised
        synchronise(path.parent)


def local_only(name: "str | os.PathLike[str]", what: str) -> Path:
    """Return the path of what has to be on this machine.

    Args:
        name: what a user gave.
        what: it is, for the message.

    Raises:
        ConfigError: it is a URL, or was one before `Path` took it for a path.
    """
    text = os.fspath(name)
    if is_url(text) or (re.match("[A-Za-z][A-Za-z0-9+.-]+:/", text) and not os.path.lexists(text)):
        raise ConfigError(f"{text} is a URL: {what} has to be on this machine; give a local path")
    return Path(text)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def is_part(name: str) -> bool:
    """Whether a name is that of an unfinished file of `replacing`."""
    return _BESIDE.fullmatch(name) is not None


def clear_parts(folder: Path) -> None:
    """Remove unfinished files of processes that died in `replacing`; no other process may be writing to the folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_part(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def no_empty_folders(path: Path) -> Iterator[None]:
    """Remove a folder and those above it in the end, as far as they were missing and are empty."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    try:
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def synchronise(path: Path) -> None:
    """Wait until a file, or the entries of a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(
    path: Path, sources: Iterable[Path] = (), head: bytes | tuple[bytes, ...] = b"", beside: Iterable[str] = ()
) -> Path:
    """Return the path of an output file if it may be written; to be called before the work.

    Args:
        path: of the file to create or replace.
        sources: input files, which must not be replaced.
        head: first bytes of a file that may be replaced, or those of several kinds; empty: any file may.
        beside: suffixes of further files that are written next to it.

    Raises:
        ConfigError: it is a directory or a device, one of the sources (possibly through a link), or a file of another
            kind, its name is invalid, or its folder cannot be written to.
    """
    # `a/../b` refers to b only if a exists, and writing would create it.
    if os.path.isdir(path) or os.path.isdir(os.path.normpath(path)):
        raise ConfigError(f"{path} is a directory; name a file to be written")
    # A device or a pipe would be replaced by a file.
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"{path} is not a plain file, and is not replaced; name another")
    check_name(path.name, f"output {ascii(str(path))[1:81]}")
    _check_writable(path, path.parent)
    written = [path, *(path.with_name(path.name + ending) for ending in beside)]
    _check_sources(written, sources)
    for other in written[1:]:
        if os.path.lexists(other) and (os.path.islink(other) or not os.path.isfile(other)):
            raise ConfigError(f"{other} is a link or not a file, and would be written; remove it")
    if head and os.path.isfile(path) and os.path.getsize(path):
        with open(path, "rb") as file:
            longest = max(map(len, head)) if isinstance(head, tuple) else len(head)
            if not file.read(longest).startswith(head):
                raise ConfigError(f"{path} is a file of another kind, and is not replaced; remove it, or name another")
    return path


def check_output_folder(path: Path, sources: Iterable[Path] = ()) -> Path:
    """Return the path of an output folder if it may be written to; see `check_output`."""
    if not os.path.isdir(path):
        if os.path.lexists(path):
            raise ConfigError(f"{path} is not a directory; name one to be written into")
        check_name(path.name, f"output {ascii(str(path))[1:81]}")
    _check_writable(path, path)
    _check_sources([path], sources)
    return path


def _check_writable(path: Path, folder: Path) -> None:
    """Raise ConfigError if the folder of an output cannot be written to, or cannot be made."""
    there = next(p for p in (folder, *folder.parents) if os.path.lexists(p) or p == p.parent)
    if not os.path.isdir(there):
        raise ConfigError(f"{path} cannot be written: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written: there is no permission to write to {there}")


def _check_sources(written: list[Path], sources: Iterable[Path]) -> None:
    there = {
        (facts.st_dev, facts.st_ino): path
        for path in written
        if (facts := _facts(path) or _facts(Path(os.path.normpath(path))))
    }
    for source in sources if there else ():
        facts = _facts(source)
        if facts and (path := there.get((facts.st_dev, facts.st_ino))):
            raise ConfigError(f"{path} is what is read ({source}), and would be replaced; name another output")


def _facts(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None
