"""Errors of data that cannot be used, and what becomes of a record that raises one."""

import pickle
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from relgrounding._names import name_fault
from relgrounding._printing import brief, get_logger
from relgrounding._signals import look
from relgrounding._urls import Masked

__all__ = [
    "BadAnnotation",
    "BadFeatures",
    "DataError",
    "MissingFeatures",
    "MissingFile",
    "Problems",
    "UnsafeFile",
    "check_id",
]

logger = get_logger("relgrounding.io")
MOST_LOGGED = 10
# UTF-32 first: the mark of UTF-16 is the beginning of its mark.


class DataError(Masked, ValueError):
    """Data that cannot be used; the message says what, where, and what to do."""


class BadAnnotation(DataError):
    """A query, a segment, a box or a file of them that is not as documented."""


class BadFeatures(DataError):
    """A feature file that is damaged, or features of the wrong shape, type or value."""


class MissingFeatures(DataError, KeyError):
    """A video or image without features in the file."""

    def __str__(self) -> str:
        """Return the message as it is; a KeyError would show it in quotes."""
        return str(self.args[0])


class MissingFile(DataError, FileNotFoundError):
    """A file that is not there; the message says where it comes from."""


class UnsafeFile(DataError, pickle.UnpicklingError):
    """A file that asks for more than data: code to run, or content of another file."""


class Problems:
    """What becomes of records that cannot be used: the first one stops, or each is left out, counted and logged.

    Args:
        on_error: "stop" or "skip".

    >>> problems = Problems("skip")
    >>> with problems:
    ...     raise BadAnnotation("q.jsonl, line 3: no query; give it one")
    >>> problems.total, dict(problems.counts)
    (1, {'BadAnnotation': 1})

    Attributes:
        counts: records left out, by kind of error.
        notes: what else was changed or left out and is not an error, such as objects without area, and how often.
    """

    def __init__(self, on_error: str = "stop") -> None:
        if on_error not in ("stop", "skip"):
            raise ValueError(f"on_error is {on_error!r}; use 'stop' or 'skip'")
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many records were left out."""
        return sum(self.counts.values())

    def add(self, error: DataError) -> None:
        """Raise the error, or count and log it."""
        if self.on_error == "stop":
            raise error
        self.counts[type(error).__name__] += 1
        if self.total <= MOST_LOGGED:
            logger.warning("skipped: %s", error)
        elif self.total == MOST_LOGGED + 1:
            logger.warning("further records are skipped and counted, and logged at level DEBUG only")
        if self.total > MOST_LOGGED:
            logger.debug("skipped: %s", error)

    def note(self, what: str, count: int, where: object) -> None:
        """Count and log what is not an error; a count of 0 is not mentioned."""
        if count:
            self.notes[what] += count
            logger.warning("note: %s: %s: %d", where, what, count)

    def replay(self, recorded: Mapping[str, Any]) -> None:
        """Take in what a `RecordedProblems` has recorded, as if it had come up now."""
        kinds = {kind.__name__: kind for kind in (BadAnnotation, BadFeatures, MissingFeatures)}
        counts = Counter(recorded["counts"])
        for kind, message in recorded["first"]:
            self.add(kinds[kind](message))
            counts[kind] -= 1
        self.counts.update(+counts)

    def __enter__(self) -> "Problems":
        look()  # between two records
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        # A file that is missing or unsafe is not one record: there is nothing left to go on with.
        if self.on_error == "stop" or not isinstance(error, DataError) or isinstance(error, MissingFile | UnsafeFile):
            return False
        self.add(error)
        return True


class RecordedProblems(Problems):
    """Problems that are left out without a word, and recorded as JSON values for `Problems.replay`."""

    def __init__(self, on_error: str = "stop") -> None:
        super().__init__(on_error)
        self._first: list[tuple[str, str]] = []

    @property
    def recorded(self) -> dict[str, Any]:
        """How many records of each kind were left out, and what was wrong with the first."""
        return {"first": self._first, "counts": dict(self.counts)}

    def add(self, error: DataError) -> None:
        """Raise the error, or count and record it."""
        if self.on_error == "stop":
            raise error
        self.counts[type(error).__name__] += 1
        if self.total <= MOST_LOGGED + 1:
            self._first.append((type(error).__name__, str(error)))

    def note(self, what: str, count: int, where: object) -> None:
        """Count what is not an error."""
        self.notes.update({what: count} if count else {})


def check_id(value: object, where: str) -> str:
    """Return the id of a video, an image or a query, where it cannot be mistaken for a path.

    Args:
        value: text or a whole number.
        where: file and line, for the message.

    Raises:
        BadAnnotation: it is empty, of another type, longer than 200 characters, or holds a path or a control character.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64:
        value = str(value)
    if not isinstance(value, str) or not value or len(value) > 200:
        raise BadAnnotation(f"{where}: {brief(value)!r} is not an id; expected text of 1 to 200 characters or a number")
    reason = name_fault(value, most_bytes=800)
    if reason:
        raise BadAnnotation(
            f"{where}: {value[:80]!r} cannot be an id: it {reason}; ids must not look like a path or hold control "
            "characters"
        )
    return value
