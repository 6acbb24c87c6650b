"""Recall of segments at a rank and an IoU, mean IoU, and the proposal oracle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relgrounding.evaluation._arrays import Ragged, check_lengths, join, percent, row_overlaps
from relgrounding.graphs import temporal_iou

MEAN_IOU = "mIoU"


@dataclass(frozen=True)
class VideoEvaluator:
    """Recall of moments: the percentage of queries with a correct moment among the first n.

    R@n,IoU=m: a moment is correct if its temporal IoU with any of the right moments is >= m. mIoU: mean over queries of
    the best IoU of the first moment. IoU is exact, without "+ 1 second". If times are decimals, or k / n of a decimal
    duration, an IoU of m counts as such despite rounding, for m of up to six digits; times in float32 are read as the
    shortest decimals that round to them. (2D-TAN's evaluation requires > m, which on whole seconds gives lower
    recalls.)

    Args:
        ious: thresholds m, each in (0, 1].
        ranks: n, each >= 1.
        reversed_targets: admit right moments that end before they start or have no length. Nothing overlaps them, as in
            the official protocols of Charades-STA and ActivityNet Captions (four in each training split). If False,
            they are an error.

    >>> evaluator = VideoEvaluator(ious=(0.5,), ranks=(1, 2))
    >>> evaluator([[[0, 4], [0, 9]]], [(0, 10)])
    {'R@1,IoU=0.5': 0.0, 'R@2,IoU=0.5': 100.0, 'mIoU': 40.0}
    """

    ious: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)
    ranks: tuple[int, ...] = (1, 5)
    reversed_targets: bool = False

    def __post_init__(self) -> None:
        if not self.ious or not all(0 < iou <= 1 for iou in self.ious):
            raise ValueError(f"ious are {self.ious}; give one or more thresholds above 0, at most 1")
        if not self.ranks or not all(rank >= 1 for rank in self.ranks):
            raise ValueError(f"ranks are {self.ranks}; give one or more numbers of at least 1")

    def metric_name(self, rank: int, iou: float) -> str:
        """Return the name of a recall: `R@1,IoU=0.5`."""
        return f"R@{rank},IoU={iou}"

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics: the recalls of all ranks and thresholds, then mIoU."""
        return (*(self.metric_name(rank, iou) for rank in self.ranks for iou in self.ious), MEAN_IOU)

    def __call__(self, predictions: Sequence, targets: Sequence) -> dict[str, float]:
        """Score predictions against targets.

        Args:
            predictions: for each query (K, 2) start, end in seconds, best first, K >= 1.
            targets: for each query the right moment (start, end) in seconds, or several, (k, 2), in any order.

        Returns:
            Percentages by metric name: all ranks and thresholds, then mIoU.

        Raises:
            ValueError: lists of different lengths, a query without predictions or targets, a moment that is not finite
                or ends before it starts, or a right moment without length.
        """
        rows = join(predictions, 2, "predictions")
        ious = self.row_overlaps(rows, targets)
        column = np.arange(len(ious)) - np.repeat(rows.starts, rows.counts)
        table = np.zeros((len(rows.counts), max(*self.ranks, int(rows.counts.max()))))
        table[rows.query, column] = ious
        best = np.maximum.accumulate(table, axis=1)
        recalls = {self.metric_name(n, m): percent(best[:, n - 1] >= m) for n in self.ranks for m in self.ious}
        return {**recalls, MEAN_IOU: percent(best[:, 0])}

    def overlaps(self, predictions: Sequence, targets: Sequence) -> np.ndarray:
        """Best IoU of each query's first segment with a target, (queries,); arguments as for the call."""
        rows = join(predictions, 2, "predictions")
        return self.row_overlaps(rows, targets)[rows.starts]

    def row_overlaps(self, rows: Ragged, targets: Sequence) -> np.ndarray:
        """Best IoU of each of several candidates of each query with a target, (rows,)."""
        array = self.moments(targets)
        check_lengths("predictions", len(rows.counts), "targets", len(array))
        return row_overlaps(temporal_iou, rows.values, array[rows.query]).max(axis=1)

    def moments(self, targets: Sequence) -> np.ndarray:
        """(queries, max targets, 2): the right moments of each query; shorter lists repeat their last one."""
        arrays = [np.asarray(t) for t in targets]
        arrays = [a[None] if a.ndim == 1 and len(a) else a for a in arrays]
        return join(arrays, 2, "targets", "any" if self.reversed_targets else "positive").padded()


def video_oracle(evaluator: VideoEvaluator, proposals: Sequence, targets: Sequence) -> dict[str, float]:
    """Score the best proposal of every query: the recall of a perfect selection.

    Args:
        evaluator: the metrics.
        proposals: (P, 2) of each query, in seconds.
        targets: for each query the right moment (start, end) in seconds, or several.

    Returns:
        Percentages by metric name.
    """
    rows = join(proposals, 2, "proposals")
    best = np.maximum.reduceat(evaluator.row_overlaps(rows, targets), rows.starts)
    recalls = {evaluator.metric_name(n, m): percent(best >= m) for n in evaluator.ranks for m in evaluator.ious}
    return {**recalls, MEAN_IOU: percent(best)}
