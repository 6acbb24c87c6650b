"""Queries that are read from their file when they are asked for."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, Int

from relgrounding.datasets._dataset import Query
from relgrounding.datasets._stream._columns import CHUNK, Columns
from relgrounding.datasets._stream._index import Index
from relgrounding.io._errors import BadAnnotation

LINE = 2**12
"""Bytes that are read for a line at first."""

ReadLine = Callable[[str, int], Query]
"""Makes the query of a line, given its text and its number from 1."""


class IndexedQueries(Sequence[Query], Columns):
    """Queries of a file with an index: a line is read and parsed whenever its query is asked for.

    It holds 4 bytes per query, and what it was asked for as a whole: 4 bytes per query for the items, 4 for the texts.
    All queries of an index hold nothing of these: they are those of the index, on disk.

    Args:
        index: of the file.
        read: makes a query of a line that was found to be right when the index was made.
        rows: of the index, in the order of the queries; None: all.

    Raises:
        BadAnnotation: the file changed since it was opened.
    """

    def __init__(self, index: Index, read: ReadLine, rows: Int[np.ndarray, " queries"] | None = None) -> None:
        self.source, self._read = index, read
        # An index has fewer than 2^31 rows: its columns number items and texts likewise.
        self.rows = None if rows is None else rows.astype(np.int32, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "_read": self._read, "rows": self.rows}

    def __len__(self) -> int:
        return len(self.source) if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, key: int) -> Query: ...
    @overload
    def __getitem__(self, key: slice) -> "IndexedQueries": ...

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self.take(np.arange(*key.indices(len(self))))
        return self._query(range(len(self))[key] if self.rows is None else int(self.rows[key]))

    def __iter__(self) -> Iterator[Query]:
        return (self._query(row) for part in self.parts() for row in part.tolist())

    def _query(self, row: int) -> Query:
        index = self.source
        begin, number = index.value("begin", row), index.value("line", row)
        try:
            query = self._read(self._line(begin), number)
            changed = query.item != index.names[index.value("item", row)]
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
        return IndexedQueries(self.source, self._read, rows if self.rows is None else self.rows[rows])

    def items(self) -> tuple[list[str], Int[np.ndarray, " queries"]]:
        """See `Columns`."""
        return self._items

    @cached_property
    def _items(self) -> tuple[list[str], Int[np.ndarray, " queries"]]:
        names = self.source.names
        if self.rows is None:
            return names, self.source.column("item")
        place, number = self._renumbered("item", len(names))
        used = np.flatnonzero(place >= 0)
        return [names[i] for i in used[place[used].argsort()].tolist()], number

    def texts(self) -> Int[np.ndarray, " queries"]:
        """See `Columns`."""
        return self._texts

    @cached_property
    def _texts(self) -> Int[np.ndarray, " queries"]:
        if self.rows is None:
            return self.source.column("text")
        return self._renumbered("text", self.source.texts)[1]

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
        return self._column("length")

    def answered(self) -> Bool[np.ndarray, " queries"]:
        """See `Columns`."""
        return self._column("answered").view(bool)

    def _words(self) -> Iterator[tuple[Int[np.ndarray, " words"], Int[np.ndarray, " queries"]]]:
        """Yield the numbers of the words of many queries one after another, and where those of each query end."""
        for rows in self.parts():
            length = self.source.column("length")[rows].astype(np.int64)
            ends = length.cumsum()
            first = self.source.column("first_word")[rows] - (ends - length)
            yield self.source.column("word")[np.repeat(first, length) + np.arange(length.sum())], ends

    def parts(self) -> Iterator[Int[np.ndarray, " rows"]]:
        """Yield the rows of the index that belong to the queries, some at a time."""
        for start in range(0, len(self), CHUNK):
            stop = min(start + CHUNK, len(self))
            yield np.arange(start, stop, dtype=np.int32) if self.rows is None else self.rows[start:stop]

    def _column(self, name: str) -> np.ndarray:
        column = self.source.column(name)
        return column if self.rows is None else column[self.rows]

    def _renumbered(self, name: str, count: int) -> tuple[Int[np.ndarray, " count"], Int[np.ndarray, " queries"]]:
        """Number what a column holds, below `count`, in order of first use: return the number of each, -1 for what no
        query uses, and that of each query."""
        place, number, known = np.full(count, -1, dtype=np.int32), np.empty(len(self), dtype=np.int32), 0
        for start, rows in zip(range(0, len(self), CHUNK), self.parts(), strict=True):
            held = self.source.column(name)[rows]
            new, first = np.unique(held[place[held] < 0], return_index=True)
            place[new[first.argsort()]] = np.arange(known, known + len(new), dtype=np.int32)
            known += len(new)
            number[start : start + len(rows)] = place[held]
        return place, number
