"""Accuracy of boxes, with its query-agnostic floors and the oracle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relgrounding.evaluation._arrays import Ragged, check_lengths, join, percent, row_overlaps
from relgrounding.graphs import box_iou

READINGS = ("single", "union", "any")


@dataclass(frozen=True)
class ImageEvaluator:
    """Accuracy of boxes: the percentage of queries whose box is correct.

    Args:
        reading: what a box is compared with. "single" (RefCOCO): IoU > threshold with the one target;
            "union" (Flickr30k Entities): IoU >= threshold with the bounding box of all targets;
            "any" (Flickr30k Entities): IoU >= threshold with any one of them.
        threshold: in (0, 1], of up to six digits.

    >>> ImageEvaluator("union")([(0, 0, 10, 10)], [[(0, 0, 4, 10), (6, 0, 10, 10)]])
    {'Acc@0.5': 100.0}
    """

    reading: str
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.reading not in READINGS:
            raise ValueError(f"unknown reading {self.reading!r} of the targets; use one of {', '.join(READINGS)}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give an IoU above 0, at most 1")

    @property
    def metric_name(self) -> str:
        """Name of the accuracy: `Acc@0.5`."""
        return f"Acc@{self.threshold}"

    def __call__(
        self, predictions: Sequence, targets: Sequence, kinds: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Score one box per query.

        Args:
            predictions: for each query (4,) x1 y1 x2 y2 in pixels.
            targets: for each query (k, 4), k >= 1.
            kinds: a name for each query; adds the accuracy of each kind, `Acc@0.5,kind=relation`.

        Returns:
            Percentages by metric name.

        Raises:
            ValueError: lists of different lengths, a box that is not finite or has x2 < x1 or y2 < y1, a target without
                area, or several targets with "single".
        """
        return self.summary(self.hits(predictions, targets), kinds)

    def hits(self, predictions: Sequence, targets: Sequence) -> np.ndarray:
        """Whether each query's box is correct, (queries,) bool; arguments as for the call."""
        rows = join([np.asarray(p)[None] for p in predictions], 4, "predictions")
        return self.row_hits(rows, targets)

    def row_hits(self, rows: Ragged, targets: Sequence) -> np.ndarray:
        """Whether each of several candidates of each query is correct, (rows,) bool."""
        best = self._row_overlaps(rows, targets)
        return best > self.threshold if self.reading == "single" else best >= self.threshold

    def overlaps(self, predictions: Sequence, targets: Sequence) -> np.ndarray:
        """IoU of each query's box with its target, as `reading` says, (queries,); arguments as for the call."""
        rows = join([np.asarray(p)[None] for p in predictions], 4, "predictions")
        return self._row_overlaps(rows, targets)

    def _row_overlaps(self, rows: Ragged, targets: Sequence) -> np.ndarray:
        padded = self._targets(targets)
        check_lengths("predictions", len(rows.counts), "targets", len(padded))
        return row_overlaps(box_iou, rows.values, padded[rows.query]).max(axis=1)

    def summary(self, values: np.ndarray, kinds: Sequence[str] | None) -> dict[str, float]:
        """Percentages from one value in [0, 1] per query: of all queries, then of each kind."""
        result = {self.metric_name: percent(values)}
        if kinds is None:
            return result
        check_lengths("kinds", len(kinds), "queries", len(values))
        names = np.asarray(kinds, dtype=str)
        return {**result, **{f"{self.metric_name},kind={k}": percent(values[names == k]) for k in sorted(set(kinds))}}

    def _targets(self, targets: Sequence) -> np.ndarray:
        """(queries, max targets, 4): the boxes to compare with; shorter lists repeat their last box."""
        rows = join(targets, 4, "targets", "positive")
        if self.reading == "single" and (rows.counts > 1).any():
            query = int((rows.counts > 1).argmax())
            raise ValueError(
                f"query {query} has {rows.counts[query]} targets, but the reading is 'single'; use 'union' or 'any'"
            )
        if self.reading == "union":
            low = np.minimum.reduceat(rows.values[:, :2], rows.starts)
            high = np.maximum.reduceat(rows.values[:, 2:], rows.starts)
            return np.concatenate([low, high], axis=1)[:, None]
        return rows.padded()


def image_floors(
    evaluator: ImageEvaluator, boxes: Sequence, targets: Sequence, kinds: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """Score answers that ignore the query.

    "random": the exact expectation for one candidate drawn at random; "largest": the candidate with the largest area
    (the first of equal ones).

    Args:
        evaluator: reading and threshold.
        boxes: candidates of each query, (n, 4) x1 y1 x2 y2 in pixels, n >= 1.
        targets: for each query (k, 4).
        kinds: as for the evaluator.

    Returns:
        Percentages by metric name, by floor.
    """
    rows = join(boxes, 4, "boxes")
    hits = evaluator.row_hits(rows, targets)
    area = np.prod(rows.values[:, 2:] - rows.values[:, :2], axis=1)
    # Sorted by query, then by decreasing area; stable, so that the first of equal ones comes first.
    largest = np.lexsort((-area, rows.query))[rows.starts]
    return {
        "random": evaluator.summary(np.add.reduceat(hits.astype(np.float64), rows.starts) / rows.counts, kinds),
        "largest": evaluator.summary(hits[largest], kinds),
    }


def image_oracle(
    evaluator: ImageEvaluator, boxes: Sequence, targets: Sequence, kinds: Sequence[str] | None = None
) -> dict[str, float]:
    """Score the best candidate of every query: the accuracy of a perfect selection; arguments as for `image_floors`."""
    rows = join(boxes, 4, "boxes")
    return evaluator.summary(np.logical_or.reduceat(evaluator.row_hits(rows, targets), rows.starts), kinds)
