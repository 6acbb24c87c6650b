"""Floors of moment queries: answers that neither read the sentence nor look at the video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from relgrounding.evaluation._arrays import Ragged, check_lengths, doubles, join, overlaps, percent
from relgrounding.evaluation._video import MEAN_IOU, VideoEvaluator
from relgrounding.graphs import temporal_iou

_CHUNK = 2048


@dataclass(frozen=True)
class ConstantSegments:
    """Segments that answer every query alike, as fractions of the video.

    Args:
        fractions: segments (start, end) of each metric, best first, as many as its rank.
    """

    fractions: Mapping[str, tuple[tuple[float, float], ...]]


def fit_constant_segments(
    evaluator: VideoEvaluator, targets: Sequence, durations: Sequence, steps: int = 32
) -> ConstantSegments:
    """Find the constant segments that score highest on training queries, separately for each metric.

    The candidates are all segments from i/steps to j/steps of the video, i < j. For rank n: the best one, then the one
    that answers most of the remaining queries, and so on (greedy cover); ties go to the first in order of (start, end).

    Args:
        evaluator: the metrics.
        targets: for each training query the right moment (start, end) in seconds, or several.
        durations: for each training query the length of its video in seconds.
        steps: resolution of the grid, >= 1.

    Raises:
        ValueError: lists of different lengths, a duration that is not positive, steps < 1.

    >>> evaluator = VideoEvaluator(ious=(0.5,), ranks=(1,))
    >>> fit_constant_segments(evaluator, [(0, 5), (0, 12)], [10, 20], steps=4).fractions["R@1,IoU=0.5"]
    ((0.0, 0.5),)
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; the grid of constant segments needs at least 1")
    array, lengths = evaluator.moments(targets), _check_durations(durations, len(targets))
    segments = [(i / steps, j / steps) for i in range(steps) for j in range(i + 1, steps + 1)]
    table = _grid_overlaps(np.array(segments), array, lengths)
    fractions: dict[str, tuple[tuple[float, float], ...]] = {}
    for iou in evaluator.ious:
        order = _greedy_cover(table >= iou, max(evaluator.ranks))
        for rank in evaluator.ranks:
            fractions[evaluator.metric_name(rank, iou)] = tuple(segments[k] for k in order[:rank])
    fractions[MEAN_IOU] = (segments[int(table.mean(axis=0).argmax())],)
    return ConstantSegments(fractions)


def video_floors(
    evaluator: VideoEvaluator,
    proposals: Sequence,
    targets: Sequence,
    durations: Sequence,
    constants: ConstantSegments,
) -> dict[str, dict[str, float]]:
    """Score answers that ignore the query.

    "random": the exact expectation for proposals drawn without replacement; "constant": the segments fitted on the
    training split; "whole video".

    Args:
        evaluator: the metrics.
        proposals: (P, 2) of each query, in seconds.
        targets: for each query the right moment (start, end) in seconds, or several.
        durations: for each query the length of its video in seconds.
        constants: result of `fit_constant_segments` with the same evaluator on the training split.

    Returns:
        Percentages by metric name, by floor.

    Raises:
        ValueError: lists of different lengths, or constants fitted for other metrics.
    """
    lengths = _check_durations(durations, len(targets))
    whole = np.stack([np.zeros_like(lengths), lengths], axis=1)
    return {
        "random": _random(evaluator, join(proposals, 2, "proposals"), targets),
        "constant": _constant(evaluator, targets, lengths, constants),
        "whole video": evaluator(list(whole[:, None]), targets),
    }


def _random(evaluator: VideoEvaluator, rows: Ragged, targets: Sequence) -> dict[str, float]:
    ious = evaluator.row_overlaps(rows, targets)
    found = {}
    for iou in evaluator.ious:
        correct = np.add.reduceat((ious >= iou).astype(np.int64), rows.starts)
        for rank in evaluator.ranks:
            found[evaluator.metric_name(rank, iou)] = percent(_draw_hits(correct, rows.counts, rank))
    ordered = {evaluator.metric_name(n, m): found[evaluator.metric_name(n, m)] for n, m in _metrics(evaluator)}
    return {**ordered, MEAN_IOU: percent(np.add.reduceat(ious, rows.starts) / rows.counts)}


def _draw_hits(correct: np.ndarray, count: np.ndarray, draws: int) -> np.ndarray:
    """Probability that at least one of n draws without replacement from `count` is correct.

    It is 1 - C(count - correct, n) / C(count, n), computed as a product over the draws.
    """
    miss = np.ones(len(count))
    for i in range(draws):
        left = np.maximum(count - i, 0)
        # Once all are drawn, the probability stays.
        miss *= np.where(left > 0, np.maximum(left - correct, 0) / np.maximum(left, 1), 1.0)
    return 1.0 - miss


def _constant(
    evaluator: VideoEvaluator, targets: Sequence, lengths: np.ndarray, constants: ConstantSegments
) -> dict[str, float]:
    wanted = [evaluator.metric_name(n, m) for n, m in _metrics(evaluator)] + [MEAN_IOU]
    missing = [name for name in wanted if name not in constants.fractions]
    if missing:
        raise ValueError(f"no constant segments for {', '.join(missing)}; fit them with the same evaluator")
    found = {}
    for name in wanted:
        segments = np.array(constants.fractions[name])[None] * lengths[:, None, None]
        found[name] = evaluator(list(segments), targets)[name]
    return found


def _metrics(evaluator: VideoEvaluator) -> list[tuple[int, float]]:
    return [(n, m) for n in evaluator.ranks for m in evaluator.ious]


def _grid_overlaps(grid: np.ndarray, targets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(queries, grid segments): best IoU with any of the (queries, max targets, 2) targets."""
    found = np.empty((len(targets), len(grid)))
    # In chunks: the intermediate arrays of all queries at once would take several times the memory of the result.
    for k in range(0, len(targets), _CHUNK):
        segments = grid[None] * lengths[k : k + _CHUNK, None, None]
        found[k : k + _CHUNK] = overlaps(temporal_iou, segments, targets[k : k + _CHUNK]).max(axis=-1)
    return found


def _greedy_cover(hits: np.ndarray, count: int) -> list[int]:
    open_queries = np.ones(len(hits), dtype=bool)
    order: list[int] = []
    for _ in range(min(count, hits.shape[1])):
        gain = hits[open_queries].sum(axis=0)
        # If nothing is left to gain, any segment not yet taken will do.
        gain[order] = -1
        order.append(int(gain.argmax()))
        open_queries &= ~hits[:, order[-1]]
    return order


def _check_durations(durations: Sequence, count: int) -> np.ndarray:
    check_lengths("durations", len(durations), "targets", count)
    lengths = doubles(durations)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise ValueError(f"duration of query {bad[0]} is {lengths[bad[0]]}; give a positive number of seconds")
    return lengths
