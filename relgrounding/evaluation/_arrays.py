"""Lists of one array a query, joined so that overlaps are computed for all queries at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Candidates of all queries in one array.

    Args:
        values: (rows, width) float64.
        counts: (queries,) int64 rows of each query, in order.
    """

    values: np.ndarray
    counts: np.ndarray

    @property
    def query(self) -> np.ndarray:
        """(rows,) int64: the query of each row."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def starts(self) -> np.ndarray:
        """(queries,) int64: the first row of each query."""
        return np.cumsum(self.counts) - self.counts


def join(arrays: Sequence, width: int, what: str) -> Ragged:
    """Join one (n, width) array a query; a query without rows or with a non-finite number raises `ValueError`."""
    parts = [np.asarray(a, dtype=np.float64) for a in arrays]
    if not parts:
        raise ValueError(f"no {what}: the list is empty; give one entry a query")
    for i, part in enumerate(parts):
        if part.ndim != 2 or part.shape[1] != width or len(part) == 0:
            raise ValueError(f"{what} of query {i} have shape {part.shape}; expected (n, {width}) with n >= 1")
    values = np.concatenate(parts)
    counts = np.array([len(part) for part in parts])
    if not np.isfinite(values).all():
        row = np.flatnonzero(~np.isfinite(values).all(axis=1))[0]
        query = np.searchsorted(np.cumsum(counts), row, side="right")
        raise ValueError(f"{what} of query {query} hold a number that is not finite; remove or repair that row")
    return Ragged(values, counts)


def check_lengths(what: str, count: int, other: str, expected: int) -> None:
    """Raise `ValueError` where two lists that go together differ in length."""
    if count != expected:
        raise ValueError(f"{count} {what} for {expected} {other}; give one entry a query in both lists")


def row_overlaps(iou: Callable[..., torch.Tensor], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of row i of a (rows, width) with every b_i (rows, k, width): (rows, k) float64."""
    return overlaps(iou, a[:, None], b)[:, 0]


def overlaps(iou: Callable[..., torch.Tensor], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of a (..., n, width) with b (..., m, width): (..., n, m) float64; 0 where neither has any extent."""
    values = iou(torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b))).numpy()
    # Annotated moments that end before they start exist: they overlap nothing, though 0 / 0 is not 0.
    return np.nan_to_num(values, nan=0.0)


def percent(values: np.ndarray) -> float:
    """100 times the mean."""
    return 100.0 * float(np.mean(values))
