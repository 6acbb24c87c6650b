"""What files say, as it may be printed: a terminal obeys control characters, and an error is one line."""

import logging
import sys
from typing import Any

import regex

__all__ = ["brief", "get_logger", "printable", "show"]

# Control characters, separators of lines, lone surrogates, and what reorders or hides text; joiners belong to words and
# emoji, and stay.
_CONTROL = regex.compile(r"[[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]--[\u200C\u200D]]", regex.V1)


def printable(value: object) -> str:
    """Return a value as text of one line, with control characters as Python writes them.

    >>> print(printable("a\\x1b[2Jb\\nc, Straße"))
    a\\x1b[2Jb\\nc, Straße
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def show(text: object, file: Any = None, end: str = "\n") -> None:
    """Print text: line ends stay, other control characters and what the stream cannot encode are escaped.

    Args:
        text: what to print.
        file: None: standard output.
        end: as of `print`.
    """
    file = file or sys.stdout
    lines = "\n".join(map(printable, str(text).split("\n")))
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(lines.encode(encoding, "backslashreplace").decode(encoding), file=file, end=end)


def brief(value: object, most: int = 40) -> str:
    """Return the beginning of a value as text, for a message; also of what is too deep or too large to be written."""
    try:
        return str(value)[:most]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"


class _Printable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), None
        return True


def get_logger(name: str) -> logging.Logger:
    """Return a logger whose lines are `printable`."""
    logger = logging.getLogger(name)
    if not any(isinstance(known, _Printable) for known in logger.filters):
        logger.addFilter(_Printable())
    return logger
