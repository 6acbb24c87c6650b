"""Files that appear whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty file to write beside `path`; it takes that name at the end, and vanishes after an exception.

    A reader finds the old file or the new one, after a crash too. Several processes may write the same file.

    Args:
        path: file to make or to replace; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The files of `tempfile` are their owner's alone; this one is as public as the folder.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield beside
        descriptor = os.open(beside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
