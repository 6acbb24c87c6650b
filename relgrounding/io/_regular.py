"""What is opened: regular files, and no more of them than was allowed for."""

import codecs
import stat
from pathlib import Path

from relgrounding.io._errors import BadAnnotation, MissingFile, UnsafeFile

MAX_BYTES = 2**30
"""Of one array in memory: a small file can declare, and unpack to, more than any machine holds."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_OTHER_MARKS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
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


def read_text(path: Path, follow_links: bool = False) -> str:
    """Read a text file.

    Args:
        path: regular file.
        follow_links: whether it may be a link out of its folder, as a file that the user named may.

    Raises:
        MissingFile: no such file.
        UnsafeFile: it is not a regular file, or a link out of its folder.
        BadAnnotation: it is not UTF-8; the message has its encoding, or the line of the first wrong byte.
    """
    check_regular(path, follow_links)
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, content, error) from None


def not_utf8(path: Path, content: bytes, error: UnicodeDecodeError, first: int = 1) -> BadAnnotation:
    """Return the error about bytes that are not UTF-8, of which `first` is the number of the first line."""
    for encoding, marks in _OTHER_MARKS.items():
        if first == 1 and content.startswith(marks):
            return BadAnnotation(
                f"{path} is {encoding}, not UTF-8; convert it, for example with iconv -f {encoding} -t UTF-8"
            )
    line = content.count(b"\n", 0, error.start) + first
    return BadAnnotation(
        f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; convert the file, "
        "for example with iconv -f latin1 -t utf-8"
    )
