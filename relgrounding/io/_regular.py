"""What is opened: regular files, and no more of them than was allowed for."""

import stat
from pathlib import Path

from relgrounding.io._errors import MissingFile, UnsafeFile

MAX_BYTES = 2**30
"""Of one array in memory: a small file can declare, and unpack to, more than any machine holds."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def existing(path: Path, remedy: str) -> Path:
    """Return the path of a file or directory that is there.

    Raises:
        MissingFile: it is not; the message ends with `remedy`.
    """
    if not path.exists():
        raise MissingFile(f"{path} not found; {remedy}")
    return path


def check_regular(path: Path, follow_links: bool = True) -> None:
    """Refuse what is not a regular file: reading a FIFO or a device may never end.

    Args:
        path: file that is to be opened.
        follow_links: whether the file may be a link out of its folder.

    Raises:
        MissingFile: no such file, or a link to none.
        UnsafeFile: not a regular file, or a link out of its folder.
    """
    try:
        mode = path.stat().st_mode
        outside = not follow_links and path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve())
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFile(f"{path} not found" + (", a link to nowhere" if path.is_symlink() else "")) from None
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a NUL in the name
        raise MissingFile(f"{path} cannot be opened: {error}") from None
    if not stat.S_ISREG(mode):
        raise UnsafeFile(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'special')}, not a regular file; name a file")
    if outside:
        raise UnsafeFile(f"{path} is a link out of its folder; copy what it points to, or name that folder")
