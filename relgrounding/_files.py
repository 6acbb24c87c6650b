"""Files that appear whole or not at all."""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

_BESIDE = re.compile(r"\..+\.[0-9a-f]{8}\.part")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty file to write beside `path`; it takes that name at the end, and vanishes after an exception.

    A reader finds the old file or the new one, after a crash too. Several processes may write the same file.

    Args:
        path: file to make or to replace; its folder is made.

    Raises:
        OSError: it cannot be written; names `path`, which is as it was.
    """
    # The files of `tempfile` are their owner's alone; this one is as public as the folder.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield beside
        _sync(beside)
        os.replace(beside, path)
    except OSError as error:
        if error.filename == os.fspath(beside) or (error.filename is None and error.errno in _NO_ROOM):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    finally:
        beside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every file system has folders that can be synchronised
        _sync(path.parent)


def clear_parts(folder: Path) -> None:
    """Remove the unfinished files that a process left which died in `replacing`; nobody else may write there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _BESIDE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
