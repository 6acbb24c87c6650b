"""Lines of text files that are too large to be held in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from relgrounding.io._errors import BadAnnotation
from relgrounding.io._regular import check_regular, not_utf8

LONGEST = 2**24
"""Bytes of a line; a longer one is not a record."""


class Line(NamedTuple):
    """A line of a file.

    Args:
        number: from 1.
        begin: byte at which it begins.
        text: without the line end.
    """

    number: int
    begin: int
    text: str


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a text file as `relgrounding.io._regular.read_text` reads them, one at a time.

    Raises:
        MissingFile: no such file.
        UnsafeFile: it is not a regular file, or a link out of its folder.
        BadAnnotation: it is not UTF-8, or a line has more than 16 MB.
    """
    check_regular(path, follow_links=False)
    begin = 0
    with path.open("rb") as file:
        number = 0
        while content := file.readline(LONGEST + 1):
            number += 1
            if len(content) > LONGEST:
                raise BadAnnotation(f"{path}, line {number}: longer than {LONGEST:,} bytes; write one object per line")
            try:
                text = content.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise not_utf8(path, content, error, number) from None
            yield Line(number, begin, text.removesuffix("\n"))
            begin += len(content)
