"""Comparisons with thresholds, against exact rational arithmetic on times and coordinates that are decimals."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from relgrounding import graphs
from relgrounding.datasets import load_charades, load_durations
from relgrounding.evaluation import ImageEvaluator, Miss, VideoEvaluator, name_misses, temporal_nms
from relgrounding.evaluation._arrays import doubles, join
from relgrounding.graphs import naive, window_proposals

THRESHOLDS = (0.1, 0.3, 0.5, 0.55, 0.7, 0.95)


def grid(value: Fraction, places: int) -> Fraction:
    return Fraction(round(value * 10**places), 10**places)


@st.composite
def near_the_threshold(draw: st.DrawFn) -> tuple[float, list[Fraction], list[float], list[Fraction]]:
    """A threshold; k * duration / n, exact and in float64; a moment whose IoU with it is at most a step off."""
    iou, places = draw(st.sampled_from(THRESHOLDS)), draw(st.integers(0, 3))
    step, m = Fraction(1, 10**places), Fraction(repr(iou))
    n = draw(st.integers(1, 2048))
    duration = draw(st.integers(1, 10**4 * 10**places)) * step
    start = draw(st.integers(0, n - 1))
    ends = [start, draw(st.integers(start + 1, n))]
    low, high = (k * duration / n for k in ends)
    inner = min(high, max(low, grid(low + (high - low) * draw(st.integers(0, 4)) / 4, places)))
    target = draw(
        st.sampled_from(
            [
                [inner, inner + m * (high - low)],  # within
                [low, low + (high - low) / m],  # around
                [inner, low + (high - inner) / m],  # overlapping
            ]
        )
    )
    target = [grid(t, places) for t in target]
    target[1] = max(target[0] + step, target[1] + draw(st.integers(-1, 1)) * step)
    # As the library computes them: both roundings count.
    computed = [k * float(duration) / n for k in ends]
    return iou, [low, high], computed, target


@given(near_the_threshold())
def test_a_moment_counts_if_and_only_if_the_exact_iou_reaches_the_threshold(case: tuple) -> None:
    iou, exact, computed, target = case
    right = naive.temporal_iou(exact, target) >= Fraction(repr(iou))
    moment = tuple(map(float, target))
    found = VideoEvaluator(ious=(iou,), ranks=(1,))([[computed]], [moment])
    assert found[f"R@1,IoU={iou}"] == (100.0 if right else 0.0)
    assert (name_misses([computed], [moment], iou) == [Miss.NONE]) == right


@given(st.integers(0, 9_999_999), st.integers(0, 7), st.sampled_from([np.float32, np.float16]))
def test_a_number_of_a_shorter_type_is_the_decimal_that_it_stands_for(digits, places, dtype):
    if dtype == np.float16:
        digits %= 1000
    decimal = digits / 10**places
    (found,) = doubles(np.array([decimal], dtype=dtype))
    assert found == decimal or (np.abs(decimal) < 1e-3 and dtype(found) == dtype(decimal))


@pytest.mark.parametrize("kind", [np.float32, torch.float32])
def test_ties_count_whatever_the_type_of_the_times(kind):
    def given(rows):
        return torch.tensor(rows, dtype=kind) if isinstance(kind, torch.dtype) else np.array(rows, dtype=kind)

    for first in range(60):
        moment, target = [first / 10, (first + 2) / 10], [first / 10, (first + 4) / 10]
        for right in (given(target), target):
            assert VideoEvaluator((0.5,), (1,))([given([moment])], [right])["R@1,IoU=0.5"] == 100
        assert name_misses([given(moment)], [given([(first + 2) / 10, 9.0])]) == [Miss.ELSEWHERE]
        box, wanted = [*moment, moment[0] + 1, 7.5], [target[0] + 0, moment[1], moment[0] + 1, 7.5]
        assert ImageEvaluator("any", 1.0)([given(box)], [[wanted]]) == {"Acc@1.0": 100.0}


@given(near_the_threshold())
@example((0.7, [Fraction("9.4"), Fraction("11.7")], [9.4, 11.7], [Fraction("9.4"), Fraction("11.01")]))
def test_suppression_and_edges_compare_exactly(case: tuple) -> None:
    iou, exact, computed, target = case
    more = naive.temporal_iou(exact, target) > Fraction(repr(iou))
    segments = [computed, list(map(float, target))]
    picked = temporal_nms(torch.tensor(segments, dtype=torch.float64), torch.tensor([[1.0, 0.5]]), iou, 2)
    assert picked.tolist() == [[0, -1 if more else 1]]
    assert graphs.temporal_graph(segments, iou, self_loops=False).num_edges() == 2 * more


@st.composite
def near_half(draw: st.DrawFn) -> tuple[list[Fraction], list[Fraction]]:
    """Two boxes x y width height with two decimals whose IoU is at most a step off 1/2."""
    step = Fraction(1, 100)
    x, y = (draw(st.integers(0, 100_000)) * step for _ in "xy")
    width, height = (draw(st.integers(2, 100_000)) * step for _ in "wh")
    shorter = max(step, grid(height / 2, 2) + draw(st.integers(-1, 1)) * step)
    return [x, y, width, height], [x, y, width, shorter]


@given(near_half())
def test_boxes_of_decimals_compare_exactly(case: tuple) -> None:
    exact = [(x, y, x + w, y + h) for x, y, w, h in case]
    computed = [[float(x), float(y), float(x) + float(w), float(y) + float(h)] for x, y, w, h in case]
    value = naive.box_iou(*exact)
    for reading, right in (("single", value > Fraction(1, 2)), ("any", value >= Fraction(1, 2))):
        assert ImageEvaluator(reading).hits([computed[1]], [[computed[0]]]).tolist() == [right]


def test_charades_sta(data_root) -> None:
    """All windows of the default sizes, on 32 clips, with every test query, against integer arithmetic."""
    root, clips = data_root / "charades_sta", 32
    durations, queries = load_durations(root), load_charades(root, "test")
    windows = window_proposals(clips, [4, 8, 12, 16, 20, 24, 28, 32], 1).numpy()
    seconds = np.array([durations[q.item] for q in queries])
    targets = np.array([q.targets[0] for q in queries])
    # In hundredths of a second, times the number of clips, everything is an integer.
    a = windows[None] * np.rint(100 * seconds).astype(np.int64)[:, None, None]
    b = clips * np.rint(100 * targets).astype(np.int64)[:, None]
    shared = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    union = a[..., 1] - a[..., 0] + b[..., 1] - b[..., 0] - shared
    proposals = windows[None] * seconds[:, None, None] / clips
    evaluator = VideoEvaluator()
    found = evaluator.row_overlaps(join(list(proposals), 2, "proposals"), list(targets)).reshape(shared.shape)
    plain = graphs.temporal_iou(proposals, targets[:, None])[..., 0].numpy()
    equal, lost = 0, 0
    for iou in evaluator.ious:
        tenths = round(10 * iou)
        assert ((found >= iou) == (10 * shared >= tenths * union)).all()
        at_threshold = (10 * shared == tenths * union)[:1201]
        equal += at_threshold.sum()
        lost += (at_threshold & (plain[:1201] < iou)).sum()
    # Most of the pairs at a threshold would be lost to the rounding of the quotient.
    assert (equal, lost) == (24, 17)


@pytest.mark.parametrize("iou", [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
def test_more_than_rounding_is_needed_to_change_an_answer(iou: float) -> None:
    evaluator = VideoEvaluator(ious=(iou,), ranks=(1,))
    found = [evaluator([[(0.0, 1000 * iou * (1 - off))]], [(0.0, 1000.0)])[f"R@1,IoU={iou}"] for off in (1e-15, 1e-12)]
    assert found == [100.0, 0.0]
