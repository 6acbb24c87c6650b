"""Lists of one array per query, joined so that overlaps are computed for all queries at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

# Times and coordinates are the float64 numbers nearest to decimals, or to k * duration / clips. Their rounding changes
# an intersection or a union by at most 50 * 2^-53 of the largest coordinate.
_ROUNDING = 2.0**-47

Sides = Literal["any", "not negative", "positive"]


def doubles(values: Any) -> np.ndarray:
    """Return numbers as float64; one of a shorter type is read as the decimal of fewest digits that rounds to it.

    So that 0.1 is 0.1: as a float32 it is nearer to 0.100000001. Decimals of up to seven places are looked for.
    """
    given = np.asarray(values)
    exact = given.astype(np.float64)
    if given.dtype not in (np.float16, np.float32):
        return exact
    read = exact
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers that are not finite
        for places in range(7, -1, -1):
            decimal = np.round(exact, places)
            read = np.where(decimal.astype(given.dtype) == given, decimal, read)
    return read


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

    def padded(self) -> np.ndarray:
        """(queries, max rows, width): the rows of each query; shorter lists repeat their last row."""
        column = np.minimum(np.arange(self.counts.max())[None], self.counts[:, None] - 1)
        return self.values[self.starts[:, None] + column]


def join(arrays: Sequence, width: int, what: str, sides: Sides = "not negative") -> Ragged:
    """Join one (n, width) array per query.

    Args:
        arrays: segments (n, 2) or boxes (n, 4), n >= 1.
        width: 2 or 4.
        what: what the rows are called in messages.
        sides: which sides (end - start, width, height) are admitted.

    Raises:
        ValueError: a query without rows, a number that is not finite, a side that `sides` does not admit.
    """
    parts = [np.asarray(a) for a in arrays]
    if not parts:
        raise ValueError(f"no {what}: the list is empty; give one entry per query")
    for i, part in enumerate(parts):
        if part.ndim != 2 or part.shape[1] != width or len(part) == 0:
            raise ValueError(f"{what} of query {i} have shape {part.shape}; expected (n, {width}) with n >= 1")
    one_type = len({part.dtype for part in parts}) == 1  # then all are read at once
    values = doubles(np.concatenate(parts)) if one_type else np.concatenate([doubles(part) for part in parts])
    rows = Ragged(values, np.array([len(part) for part in parts]))
    check_rows(rows.values, lambda row: f"{what} of query {np.searchsorted(rows.starts, row, side='right') - 1}", sides)
    return rows


def check_rows(values: np.ndarray, name: Callable[[int], str], sides: Sides = "not negative") -> None:
    """Raise `ValueError` at the first row that is not finite or has a side that `sides` does not admit.

    Args:
        values: (rows, 2) segments or (rows, 4) boxes.
        name: maps the index of a row to its name in messages.
        sides: as for `join`.
    """
    half = values.shape[1] // 2
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1))[:1]:
        raise ValueError(f"{name(row)}: {values[row].tolist()} is not finite; remove or repair it")
    if sides == "any":
        return
    found = (values[:, half:] - values[:, :half]).min(axis=1)
    for row in np.flatnonzero(found <= 0 if sides == "positive" else found < 0)[:1]:
        if half == 1:
            wrong = "ends before it starts" if found[row] < 0 else "has no length"
            remedy = "a moment is start and end; is it start and length? add the start to the length"
            if sides == "positive":
                remedy += ". For official files with such moments: reversed_targets=True"
        else:
            wrong = "has x2 < x1 or y2 < y1" if found[row] < 0 else "has no area"
            remedy = "a box is x1 y1 x2 y2; is it x y width height? add x to width and y to height"
        raise ValueError(f"{name(row)}: {values[row].tolist()} {wrong}; {remedy}")


def check_lengths(what: str, count: int, other: str, expected: int) -> None:
    """Raise `ValueError` if two parallel lists differ in length."""
    if count != expected:
        raise ValueError(f"{count} {what} for {expected} {other}; give one entry per query in both lists")


def row_overlaps(iou: Callable[..., torch.Tensor], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of row i of a (rows, width) with every b_i (rows, k, width): (rows, k) float64."""
    return overlaps(iou, a[:, None], b)[:, 0]


def overlaps(iou: Callable[..., torch.Tensor], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of a (..., n, width) with b (..., m, width): (..., n, m) float64, safe to compare with a threshold.

    0 if neither has any extent or one of them ends before it starts.
    """
    values = iou(torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b))).numpy()
    # 0 / 0 is not 0.
    values = np.nan_to_num(values, nan=0.0)
    half = a.shape[-1] // 2
    reach = np.maximum(
        np.maximum(*np.split(np.abs(a), 2, axis=-1))[..., :, None, :],
        np.maximum(*np.split(np.abs(b), 2, axis=-1))[..., None, :, :],
    ).prod(axis=-1)
    size = (a[..., half:] - a[..., :half]).prod(axis=-1)[..., :, None]
    union = (size + (b[..., half:] - b[..., :half]).prod(axis=-1)[..., None, :]) / (1 + values)
    return as_decimals(values, reach, union)


def as_decimals(ratios: np.ndarray, reach: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Replace ratios that equal a six-digit decimal up to rounding by the float64 nearest to that decimal.

    They then compare correctly with any threshold of up to six digits. Other ratios are unchanged: with times of d
    decimals, videos of up to T seconds and n clips, the numerator of any other ratio differs from that of p / q by at
    least 1 / (q n 10^d) seconds. Rounding could only bridge 2^-47 T, for which q n T 10^d would have to exceed 10^14.

    Args:
        ratios: parts of `whole`.
        reach: the largest coordinate (for boxes, the product of the largest x and y) that they were computed from.
        whole: what they are ratios of.
    """
    decimal = np.round(ratios, 6)
    return np.where(np.abs(ratios - decimal) * whole <= _ROUNDING * reach, decimal, ratios)


def percent(values: np.ndarray) -> float:
    """100 times the mean."""
    return 100.0 * float(np.mean(values))
