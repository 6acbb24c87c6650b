"""How well segments answer queries: recall at a rank and an overlap, and mean overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relgrounding.evaluation._arrays import Ragged, check_lengths, join, percent, row_overlaps
from relgrounding.graphs import temporal_iou

MEAN_IOU = "mIoU"


@dataclass(frozen=True)
class VideoEvaluator:
    """Recall of moments: the percentage of queries with a correct one among the first n.

    R@n,IoU=m: a moment is correct when its exact temporal IoU with the target is >= m. mIoU: mean IoU of the first.

    Args:
        ious: thresholds m, each in (0, 1].
        ranks: n, each >= 1.

    >>> evaluator = VideoEvaluator(ious=(0.5,), ranks=(1, 2))
    >>> evaluator([[[0, 4], [0, 9]]], [(0, 10)])
    {'R@1,IoU=0.5': 0.0, 'R@2,IoU=0.5': 100.0, 'mIoU': 40.0}
    """

    ious: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)
    ranks: tuple[int, ...] = (1, 5)

    def __post_init__(self) -> None:
        if not self.ious or not all(0 < iou <= 1 for iou in self.ious):
            raise ValueError(f"ious are {self.ious}; give one or more thresholds above 0, at most 1")
        if not self.ranks or not all(rank >= 1 for rank in self.ranks):
            raise ValueError(f"ranks are {self.ranks}; give one or more numbers of at least 1")

    def metric_name(self, rank: int, iou: float) -> str:
        """Return the name of a recall: `R@1,IoU=0.5`."""
        return f"R@{rank},IoU={iou}"

    def __call__(self, predictions: Sequence, targets: Sequence) -> dict[str, float]:
        """Score predictions against targets.

        Args:
            predictions: for each query (K, 2) start, end in seconds, best first, K >= 1.
            targets: for each query (start, end) in seconds.

        Returns:
            Percentages by metric name: all ranks and thresholds, then mIoU.

        Raises:
            ValueError: lists that do not match, or a query without a finite prediction.
        """
        rows = join(predictions, 2, "predictions")
        ious = segment_overlaps(rows, targets)
        column = np.arange(len(ious)) - np.repeat(rows.starts, rows.counts)
        table = np.zeros((len(rows.counts), max(*self.ranks, int(rows.counts.max()))))
        table[rows.query, column] = ious
        best = np.maximum.accumulate(table, axis=1)
        recalls = {self.metric_name(n, m): percent(best[:, n - 1] >= m) for n in self.ranks for m in self.ious}
        return {**recalls, MEAN_IOU: percent(best[:, 0])}

    def overlaps(self, predictions: Sequence, targets: Sequence) -> np.ndarray:
        """IoU of each query's first segment with its target, (queries,); arguments as for the call."""
        rows = join(predictions, 2, "predictions")
        return segment_overlaps(rows, targets)[rows.starts]


def segment_overlaps(rows: Ragged, targets: Sequence) -> np.ndarray:
    """IoU of every row with the target of its query, (rows,)."""
    array = target_segments(targets)
    check_lengths("predictions", len(rows.counts), "targets", len(array))
    return row_overlaps(temporal_iou, rows.values, array[rows.query][:, None])[:, 0]


def target_segments(targets: Sequence) -> np.ndarray:
    """Return the targets, one (start, end) a query, as (queries, 2) float64."""
    rows = join([np.asarray(t, dtype=np.float64)[None] for t in targets], 2, "targets")
    return rows.values


def video_oracle(evaluator: VideoEvaluator, proposals: Sequence, targets: Sequence) -> dict[str, float]:
    """Score the best proposal of every query: what a perfect choice among them would reach.

    Args:
        evaluator: which metrics.
        proposals: for each query (P, 2) in seconds.
        targets: for each query (start, end) in seconds.

    Returns:
        Percentages by metric name.
    """
    rows = join(proposals, 2, "proposals")
    best = np.maximum.reduceat(segment_overlaps(rows, targets), rows.starts)
    recalls = {evaluator.metric_name(n, m): percent(best >= m) for n in evaluator.ranks for m in evaluator.ious}
    return {**recalls, MEAN_IOU: percent(best)}
