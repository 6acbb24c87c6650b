"""Where runs fail: by length of the query, by size of the target, by relation word."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relgrounding.features import tokenize
from relgrounding.viz._predictions import Prediction

SPATIAL = (
    "left", "right", "above", "below", "under", "over", "behind", "front", "beside", "next", "near", "between",
    "middle", "center", "top", "bottom", "on", "in", "with", "holding", "wearing",
)  # fmt: skip
TEMPORAL = (
    "before", "after", "then", "while", "first", "again", "starts", "begins", "finally", "next", "on", "in", "into",
    "out", "off", "up", "down", "from", "through", "with",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One group of queries: its name, how many, and each run's share of hits and mean IoU, both in percent."""

    name: str
    queries: int
    hits: list[float]
    iou: list[float]


def breakdowns(matched: Sequence[list[Prediction]], video: bool) -> dict[str, list[Row]]:
    """Return tables by name; a hit is an answer of IoU 0.5 or more.

    Args:
        matched: for each query what each run answered.
        video: whether targets are moments.
    """
    words = [tokenize(row[0].text) for row in matched]
    size = [_extent(row[0].targets, video) for row in matched]
    lengths = _bins([len(w) for w in words], (2, 4, 6, 9, 13), "words")
    if video:
        sizes = _bins(size, (4, 7, 10, 15), "s")
    else:
        sizes = _bins([s**0.5 for s in size], (32, 96, 192), "px")
    tables = {
        "by length of the query": _group(matched, lengths),
        "by length of the window" if video else "by size of the target (root of its area)": _group(matched, sizes),
        "by relation word": _relations(matched, words, TEMPORAL if video else SPATIAL),
    }
    return {name: rows for name, rows in tables.items() if rows}


def _extent(targets: Sequence[Sequence[float]], video: bool) -> float:
    """Length or area; of several targets, that of the largest."""
    if video:
        return max(end - start for start, end in targets)
    return max(max(0.0, (x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in targets)


def _bins(values: Sequence[float | int], edges: Sequence[int], unit: str) -> list[tuple[str, np.ndarray]]:
    array, groups = np.asarray(values, dtype=float), []
    for low, high in zip((0, *edges), (*edges, np.inf), strict=True):
        if high == np.inf:
            name = f"{low} {unit} or more"
        elif unit == "words":
            name = f"{max(low, 1)} to {high - 1} {unit}" if high - 1 > max(low, 1) else f"{high - 1} word"
        else:
            name = f"{low} to under {high} {unit}" if low else f"under {high} {unit}"
        groups.append((name, (array >= low) & (array < high)))
    return groups


def _group(matched: Sequence[list[Prediction]], groups: Sequence[tuple[str, np.ndarray]]) -> list[Row]:
    iou = np.array([[p.iou for p in row] for row in matched])
    return [
        Row(name, int(mask.sum()), (100 * (iou[mask] >= 0.5).mean(0)).tolist(), (100 * iou[mask].mean(0)).tolist())
        for name, mask in groups
        if mask.any()
    ]


def _relations(matched: Sequence[list[Prediction]], words: list[list[str]], relations: Sequence[str]) -> list[Row]:

    found = [(word, np.array([word in w for w in words])) for word in relations]
    none = ~np.logical_or.reduce([mask for _, mask in found])
    rows = _group(matched, found)
    rows.sort(key=lambda row: -row.queries)
    return rows + _group(matched, [("none of these", none)])
