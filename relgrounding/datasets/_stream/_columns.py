"""What is asked of all queries of a sequence at once: arrays with one entry per query, whether it is a list or not."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from relgrounding.datasets._dataset import Query
from relgrounding.features.vocabulary import tokenize

CHUNK = 2**16
"""Rows of which arrays are made at a time."""


class Columns(ABC):
    """Facts about every query of a sequence; `columns` returns those of any."""

    @abstractmethod
    def items(self) -> tuple[list[str], Int[np.ndarray, " queries"]]:
        """Return the ids of the items in order of their first use, and the place of each query's item among them."""

    @abstractmethod
    def texts(self) -> Int[np.ndarray, " queries"]:
        """Return the number of each sentence in lower case, from 0 in order of first use."""

    @abstractmethod
    def groups(self) -> Int[np.ndarray, " queries"] | None:
        """Return the number of each query's group, -1 for none; None: no query has one."""

    @abstractmethod
    def units(self) -> tuple[list[str], Int[np.ndarray, " queries"]]:
        """Return what `items` does, with the group in place of the item where a query has one."""

    @abstractmethod
    def words(self) -> Iterator[list[str]]:
        """Yield the words of each query."""

    @abstractmethod
    def word_counts(self) -> Counter[str]:
        """Return how often each word occurs."""

    @abstractmethod
    def lengths(self) -> Int[np.ndarray, " queries"]:
        """Return the number of words of each query."""

    @abstractmethod
    def answered(self) -> Bool[np.ndarray, " queries"]:
        """Return whether each query has a right answer."""

    @abstractmethod
    def take(self, rows: Int[np.ndarray, " rows"]) -> Sequence[Query]:
        """Return the queries with these indices."""


class _Listed(Columns):
    """Facts about queries in memory."""

    def __init__(self, queries: Sequence[Query]) -> None:
        self.queries = queries

    def items(self) -> tuple[list[str], Int[np.ndarray, " queries"]]:
        return numbered(query.item for query in self.queries)

    def texts(self) -> Int[np.ndarray, " queries"]:
        return numbered(query.text.lower() for query in self.queries)[1]

    def groups(self) -> Int[np.ndarray, " queries"] | None:
        if not any(query.group for query in self.queries):
            return None
        names, number = numbered(query.group for query in self.queries)
        return np.where(np.array([bool(name) for name in names])[number], number, -1)

    def units(self) -> tuple[list[str], Int[np.ndarray, " queries"]]:
        return numbered(query.group or query.item for query in self.queries)

    def words(self) -> Iterator[list[str]]:
        return (tokenize(query.text) for query in self.queries)

    def word_counts(self) -> Counter[str]:
        return Counter(word for words in self.words() for word in words)

    def lengths(self) -> Int[np.ndarray, " queries"]:
        return np.array([len(words) for words in self.words()], dtype=np.int64)

    def answered(self) -> Bool[np.ndarray, " queries"]:
        return np.array([bool(query.targets) for query in self.queries], dtype=bool)

    def take(self, rows: Int[np.ndarray, " rows"]) -> list[Query]:
        return [self.queries[row] for row in rows.tolist()]


def columns(queries: Sequence[Query]) -> Columns:
    """Return the facts about the queries of any sequence."""
    return queries if isinstance(queries, Columns) else _Listed(queries)


def numbered(names: Iterable[str]) -> tuple[list[str], Int[np.ndarray, " names"]]:
    """Return the different names in order of their first use, and the place of each name among them.

    >>> numbered(["b", "a", "b"])
    (['b', 'a'], array([0, 1, 0]))
    """
    known: dict[str, int] = {}
    number = np.fromiter((known.setdefault(name, len(known)) for name in names), dtype=np.int64)
    return list(known), number


def first_rows(number: Int[np.ndarray, " rows"], count: int) -> Int[np.ndarray, " count"]:
    """Return the first row that holds each number from 0 to `count` - 1; the number of rows where none does."""
    first = np.full(count, len(number), dtype=np.int64)
    for start in reversed(range(0, len(number), CHUNK)):
        part = number[start : start + CHUNK]
        # Of several values for one place the last stays.
        first[part[::-1]] = np.arange(start + len(part) - 1, start - 1, -1)
    return first
