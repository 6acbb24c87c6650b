"""Queries as sequences that need not be in memory, and what is asked of all queries of a sequence at once."""

from relgrounding.datasets._stream._columns import CHUNK, Columns, columns, first_rows, numbered
from relgrounding.datasets._stream._index import Index, IndexWriter, SeenIds, open_index
from relgrounding.datasets._stream._queries import IndexedQueries

__all__ = [
    "CHUNK",
    "Columns",
    "Index",
    "IndexWriter",
    "IndexedQueries",
    "SeenIds",
    "columns",
    "first_rows",
    "numbered",
    "open_index",
]
