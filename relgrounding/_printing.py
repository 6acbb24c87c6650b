"""What files say, as it may be printed: a terminal obeys control characters, and an error is one line."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import regex
from tqdm import tqdm

from relgrounding._ranks import is_main, tag
from relgrounding._urls import masked

__all__ = ["brief", "counted", "get_logger", "note", "printable", "progress", "show", "show_error", "silent"]

T = TypeVar("T")
_silent = ContextVar("silent", default=False)
SECONDS = 30
"""Between lines of progress where there is no terminal."""

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

    Of the processes of a job, only the main one does.

    Args:
        text: what to print.
        file: None: standard output.
        end: as of `print`.
    """
    if not is_main():
        return
    _write(text, file or sys.stdout, end)


def show_error(text: object, error: BaseException | None = None) -> None:
    """Print an error to standard error; in a job of several processes, with the ranks of those that have it."""
    _write(f"{tag(error)}error: {text}", sys.stderr)


def _write(text: object, file: Any, end: str = "\n") -> None:
    lines = "\n".join(map(printable, masked(str(text)).split("\n")))
    encoding = getattr(file, "encoding", None) or "utf-8"
    # With its end in one write: other processes may print between two.
    print(lines.encode(encoding, "backslashreplace").decode(encoding) + end, file=file, end="")


class _Lines(tqdm):
    """Progress as whole lines, for a log: one after every `SECONDS`, none about what is over before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._written = time.monotonic()
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line; tqdm gives a message of its own only to clear a bar."""
        if msg is None and (self.n or self.postfix):
            show(self, self.fp)

    def refresh(self, *args: Any, **kwargs: Any) -> None:
        """Write a line, at most one every `SECONDS`: for loops that wait for what others do."""
        # A time of its own: by `last_print_t`, tqdm knows what it has counted. It may ask a moment too early.
        now = time.monotonic()
        if not self.disable and now - self._written >= 0.9 * SECONDS:
            self._written = now
            super().refresh(*args, **kwargs)

    def clear(self, nolock: bool = False) -> None:
        """A line stays."""


def progress(
    iterable: Iterable[T] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    quiet: bool = False,
) -> "tqdm[T]":
    """Return an iterable that shows how far it is: a bar on a terminal, elsewhere a line every half minute.

    Args:
        iterable: what to go through; None: `update` of the result counts.
        desc: what is being done.
        unit: what is counted.
        total: number of units; None: the length of `iterable`.
        initial: units that were done before.
        quiet: show nothing; nor do processes of a job other than the main one.
    """
    often = {"mininterval": SECONDS, "maxinterval": SECONDS, "delay": SECONDS}
    kind: Any = tqdm if sys.stderr.isatty() else partial(_Lines, **often)
    quiet = quiet or _silent.get() or not is_main()
    return kind(iterable, leave=False, desc=masked(desc), unit=unit, total=total, initial=initial, disable=quiet)


@contextlib.contextmanager
def silent(quiet: bool = True) -> Iterator[None]:
    """Let `progress` show nothing, also where it is called deep inside, if `quiet`."""
    before = _silent.set(quiet or _silent.get())
    try:
        yield
    finally:
        _silent.reset(before)


def note(text: object, file: Any = None) -> None:
    """Print a line, of one printable line, above the bars that are shown; of a job, the main process alone does."""
    if not is_main():
        return
    tqdm.write(printable(masked(str(text))), file=file or sys.stdout)


def counted(count: int, what: str) -> str:
    """Return a number of things in words.

    >>> counted(1, "epoch"), counted(1200, "epoch")
    ('1 epoch', '1,200 epochs')
    """
    return f"{count:,} {what}{'s' * (count != 1)}"


def brief(value: object, most: int = 40) -> str:
    """Return the beginning of a value as text, for a message; also of what is too deep or too large to be written."""
    try:
        return masked(str(value))[:most]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"


class _Printable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(masked(record.getMessage())), None
        return is_main() or record.levelno >= logging.ERROR


def get_logger(name: str) -> logging.Logger:
    """Return a logger whose lines are `printable`, and come from the main process of a job alone up to warnings."""
    logger = logging.getLogger(name)
    if not any(isinstance(known, _Printable) for known in logger.filters):
        logger.addFilter(_Printable())
    return logger
