from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relgrounding.evaluation import (
    ConstantSegments,
    VideoEvaluator,
    fit_constant_segments,
    name_misses,
    video_floors,
    video_oracle,
)

segment = st.tuples(st.integers(0, 8), st.integers(1, 8)).map(lambda x: (float(x[0]), float(x[0] + x[1])))
queries = st.lists(st.tuples(st.lists(segment, min_size=1, max_size=7), segment), min_size=1, max_size=6)
SMALL = VideoEvaluator(ious=(0.3, 0.5), ranks=(1, 3))


def overlap(a: tuple, b: tuple) -> float:
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / ((a[1] - a[0]) + (b[1] - b[0]) - shared)


def slow_recall(predictions: list, targets: list, rank: int, iou: float) -> float:
    correct = [any(overlap(p, t) >= iou for p in ps[:rank]) for ps, t in zip(predictions, targets, strict=True)]
    return 100 * sum(correct) / len(correct)


@given(queries)
def test_recalls_agree_with_counting(cases: list) -> None:
    predictions, targets = zip(*cases, strict=True)
    found = VideoEvaluator()(predictions, targets)
    for rank in (1, 5):
        for iou in (0.1, 0.3, 0.5, 0.7):
            assert found[f"R@{rank},IoU={iou}"] == pytest.approx(slow_recall(predictions, targets, rank, iou))
    assert found["mIoU"] == pytest.approx(100 * np.mean([overlap(p[0], t) for p, t in cases]))


def test_a_target_that_ends_before_it_starts_is_never_found() -> None:
    # (8, 7) is annotated in Charades-STA; with (0, 1) the union has length 0.
    found = VideoEvaluator(reversed_targets=True)([[(0, 1)], [(7, 8)]], [(8, 7), (8, 7)])
    assert set(found.values()) == {0.0}


@given(queries)
def test_the_oracle_is_the_best_order_of_all_proposals(cases: list) -> None:
    proposals, targets = zip(*cases, strict=True)
    best_first = [sorted(ps, key=lambda p, t=t: -overlap(p, t)) for ps, t in cases]
    assert video_oracle(SMALL, proposals, targets) == pytest.approx(SMALL(best_first, targets))


@given(queries)
def test_the_random_floor_is_the_mean_over_all_draws(cases: list) -> None:
    proposals, targets = zip(*cases, strict=True)
    floor = video_floors(SMALL, proposals, targets, [16.0] * len(targets), every_whole(SMALL))["random"]
    for rank in SMALL.ranks:
        for iou in SMALL.ious:
            chances = []
            for ps, target in cases:
                draws = list(combinations([overlap(p, target) >= iou for p in ps], min(rank, len(ps))))
                chances.append(sum(any(d) for d in draws) / len(draws))
            assert floor[f"R@{rank},IoU={iou}"] == pytest.approx(100 * np.mean(chances))
    mean = np.mean([np.mean([overlap(p, t) for p in ps]) for ps, t in cases])
    assert floor["mIoU"] == pytest.approx(100 * mean)


def every_whole(evaluator: VideoEvaluator) -> ConstantSegments:
    names = [evaluator.metric_name(n, m) for n in evaluator.ranks for m in evaluator.ious]
    return ConstantSegments({name: ((0.0, 1.0),) for name in [*names, "mIoU"]})


def test_the_whole_video_is_the_constant_segment_from_0_to_1() -> None:
    targets, durations = [(0, 5), (2, 9), (3, 4)], [10.0, 10.0, 20.0]
    floors = video_floors(SMALL, [[(0, 1)]] * 3, targets, durations, every_whole(SMALL))
    assert floors["whole video"] == floors["constant"]
    assert floors["whole video"]["R@1,IoU=0.5"] == pytest.approx(200 / 3)


@settings(max_examples=15)
@given(st.lists(st.tuples(segment, st.integers(9, 20)), min_size=1, max_size=6))
def test_constants_are_the_best_of_the_grid(cases: list) -> None:
    targets, durations = zip(*cases, strict=True)
    steps = 4
    grid = [(i / steps, j / steps) for i in range(steps) for j in range(i + 1, steps + 1)]
    fitted = fit_constant_segments(SMALL, targets, durations, steps)

    def score(fractions: tuple, name: str) -> float:
        return SMALL([[(a * d, b * d) for a, b in fractions] for d in durations], targets)[name]

    for name in ("R@1,IoU=0.3", "R@1,IoU=0.5", "mIoU"):
        assert score(fitted.fractions[name], name) == pytest.approx(max(score((s,), name) for s in grid))
    for iou in SMALL.ious:
        several = fitted.fractions[f"R@3,IoU={iou}"]
        assert len(set(several)) == 3
        assert several[:1] == fitted.fractions[f"R@1,IoU={iou}"]
        # A greedy cover reaches at least 1 - (1 - 1/3)^3 of the best three.
        best = max(score(three, f"R@3,IoU={iou}") for three in combinations(grid, 3))
        assert score(several, f"R@3,IoU={iou}") >= (1 - (2 / 3) ** 3) * best - 1e-9


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        ([], [], "no predictions: the list is empty"),
        ([[(0, 1)]], [(0, 1), (0, 2)], "1 predictions for 2 targets"),
        ([[(0, 1)], []], [(0, 1), (0, 2)], "predictions of query 1 have shape .* expected"),
        (
            [[(0, 1), (0, 2)], [(0, np.nan)]],
            [(0, 1), (0, 2)],
            "predictions of query 1: .0.0, nan. is not finite",
        ),
        ([[(0, 1)]], [(0, np.inf)], "targets of query 0: .0.0, inf. is not finite"),
        (
            [[(0, 1)], [(2, 3), (3, 2)]],
            [(0, 1)] * 2,
            "predictions of query 1: .3.0, 2.0. ends before it starts.*length",
        ),
        (
            [[(0, 1)]] * 2,
            [(0, 1), [(2, 3), (3, 2)]],
            "targets of query 1: .3.0, 2.0. ends before.*reversed_targets=True",
        ),
        ([[(0, 1)]], [(3, 3)], "targets of query 0: .3.0, 3.0. has no length"),
        ([[(0, 1)]], [()], "targets of query 0 have shape"),
        ([[(0, 1)]], [(0, 1, 2)], "targets of query 0 have shape"),
    ],
)
def test_unusable_predictions_are_named(predictions: list, targets: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoEvaluator()(predictions, targets)
    with pytest.raises(ValueError, match=message.replace("predictions", "(predictions|proposals)")):
        video_oracle(SMALL, predictions, targets)
    if message.startswith("targets"):
        with pytest.raises(ValueError, match=message):
            fit_constant_segments(SMALL, targets, [9.0] * len(targets))
        with pytest.raises(ValueError, match=message):
            name_misses([(0, 1)] * len(targets), targets)


def test_unusable_settings_are_named() -> None:
    with pytest.raises(ValueError, match="give one or more thresholds above 0"):
        VideoEvaluator(ious=(0.0,))
    with pytest.raises(ValueError, match="give one or more numbers of at least 1"):
        VideoEvaluator(ranks=())
    with pytest.raises(ValueError, match=r"duration of query 1 is 0.0; give a positive number of seconds"):
        fit_constant_segments(SMALL, [(0, 1), (0, 1)], [1.0, 0.0])
    with pytest.raises(ValueError, match="steps is 0; the grid of constant segments needs at least 1"):
        fit_constant_segments(SMALL, [(0, 1)], [1.0], steps=0)
    other = VideoEvaluator(ious=(0.3,), ranks=(5,))
    with pytest.raises(ValueError, match=r"no constant segments for R@5,IoU=0.3.*fit them with the same evaluator"):
        video_floors(other, [[(0, 1)]], [(0, 1)], [1.0], every_whole(SMALL))
