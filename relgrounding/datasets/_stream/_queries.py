"""Queries that are read from their file when they are asked for."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, Int

from relgrounding.datasets._dataset import Query
from relgrounding.datasets._stream._columns import Columns, first_rows
from relgrounding.datasets._stream._index import Index
from relgrounding.io._errors import BadAnnotation

CHUNK = 2**20
"""Rows of which arrays are made at a time."""
LINE = 2**12
"""Bytes that are read for a line at first."""

ReadLine = Callable[[str, int], Query]
"""Makes the query of a line, given its text and its number from 1."""


class IndexedQueries(Sequence[Query], Columns):
    """Queries of a file with an index: a line is read and parsed whenever its query is asked for.

    It holds 8 bytes per query, and what it was asked for as a whole: 4 bytes per query for the items, 4 for the texts.

    Args:
        index: of the file.
        read: makes a query of a line that was found to be right when the index was made.
        rows: of the index, in the order of the queries; None: all.

    Raises:
        BadAnnotation: the file changed since it was opened.
    """

    def __init__(self, index: Index, read: ReadLine, rows: Int[np.ndarray, " queries"] | None = None) -> None:
        self.source, self._read = index, read
        self.rows = np.arange(len(index)) if rows is None else rows

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "_read": self._read, "rows": self.rows}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> Query: ...
    @overload
    def __getitem__(self, key: slice) -> "IndexedQueries": ...

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return IndexedQueries(self.source, self._read, self.rows[key])
        return self._query(int(self.rows[key]))

    def __iter__(self) -> Iterator[Query]:
        return (self._query(int(row)) for row in self.rows)

    def _query(self, row: int) -> Query:
        index = self.source
        begin, number = int(index.begin[row]), int(index.line[row])
        try:
            query = self._read(self._line(begin), number)
            changed = query.item != index.names[index.item[row]]
        except BadAnnotation:
            raise
        except (ValueError, LookupError, TypeError, AttributeError):
            changed = True
        if changed:
            raise BadAnnotation(f"{index.path}, line {number}: changed since it was opened; start again")
        return query

    def _line(self, begin: int) -> str:
        descriptor, size = self.source.descriptor, LINE
        while b"\n" not in (content := os.pread(descriptor, size, begin)) and len(content) == size:
            size *= 16
        return content.partition(b"\n")[0].decode("utf-8" if begin else "utf-8-sig")

    def take(self, rows: Int[np.ndarray, " rows"]) -> "IndexedQueries":
        """Return the queries with these indices."""
        return IndexedQueries(self.source, self._read, self.rows[rows])

    def items(self) -> tuple[list[str], Int[np.ndarray, " queries"]]:
        """See `Columns`."""
        order, number = self._items
        return [self.source.names[i] for i in order.tolist()], number

    @cached_property
    def _items(self) -> tuple[Int[np.ndarray, " items"], Int[np.ndarray, " queries"]]:
        return _renumbered(self.source.column("item")[self.rows], len(self.source.names))

    def texts(self) -> Int[np.ndarray, " queries"]:
        """See `Columns`."""
        return self._texts

    @cached_property
    def _texts(self) -> Int[np.ndarray, " queries"]:
        return _renumbered(self.source.column("text")[self.rows], self.source.texts)[1]

    def groups(self) -> None:
        """Return None: no query of a file with an index has a group."""

    def units(self) -> tuple[list[str], Int[np.ndarray, " queries"]]:
        """See `Columns`."""
        return self.items()

    def words(self) -> Iterator[list[str]]:
        """See `Columns`."""
        vocabulary = self.source.vocabulary
        for words, ends in self._words():
            start = 0
            for end in ends.tolist():
                yield [vocabulary[word] for word in words[start:end].tolist()]
                start = end

    def word_counts(self) -> Counter[str]:
        """See `Columns`."""
        vocabulary = self.source.vocabulary
        counts = np.zeros(len(vocabulary), dtype=np.int64)
        for words, _ in self._words():
            counts += np.bincount(words, minlength=len(vocabulary))
        return Counter({vocabulary[word]: int(counts[word]) for word in np.flatnonzero(counts).tolist()})

    def lengths(self) -> Int[np.ndarray, " queries"]:
        """See `Columns`."""
        return self.source.column("length")[self.rows].astype(np.int64)

    def answered(self) -> Bool[np.ndarray, " queries"]:
        """See `Columns`."""
        return self.source.column("answered")[self.rows].astype(bool)

    def _words(self) -> Iterator[tuple[Int[np.ndarray, " words"], Int[np.ndarray, " queries"]]]:
        """Yield the numbers of the words of many queries one after another, and where those of each query end."""
        for start in range(0, len(self), CHUNK):
            rows = self.rows[start : start + CHUNK]
            length = self.source.column("length")[rows].astype(np.int64)
            ends = length.cumsum()
            first = self.source.column("first_word")[rows] - (ends - length)
            yield self.source.column("word")[np.repeat(first, length) + np.arange(length.sum())], ends


def _renumbered(
    number: Int[np.ndarray, " rows"], count: int
) -> tuple[Int[np.ndarray, " used"], Int[np.ndarray, " rows"]]:
    """Return the numbers in use in order of their first use, and the place of each row's number among them."""
    first = first_rows(number, count)
    used = np.flatnonzero(first < len(number))
    order = used[first[used].argsort()]
    place = np.zeros(count, dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return order, place[number]
