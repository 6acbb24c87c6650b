"""Queries with several right moments."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.evaluation import (
    VideoEvaluator,
    fit_constant_segments,
    name_misses,
    video_floors,
    video_oracle,
)

segment = st.tuples(st.integers(0, 8), st.integers(1, 8)).map(lambda x: (float(x[0]), float(x[0] + x[1])))
query = st.tuples(st.lists(segment, min_size=1, max_size=6), st.lists(segment, min_size=1, max_size=4))
SMALL = VideoEvaluator(ious=(0.3, 0.5), ranks=(1, 3))


def overlap(a: tuple, b: tuple) -> float:
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / ((a[1] - a[0]) + (b[1] - b[0]) - shared)


@given(st.lists(query, min_size=1, max_size=5))
def test_an_answer_is_right_if_it_matches_any_and_the_mean_takes_the_best(cases: list) -> None:
    predictions, targets = zip(*cases, strict=True)
    found = SMALL(predictions, targets)
    best = [[max(overlap(p, t) for t in ts) for p in ps] for ps, ts in cases]
    for rank in SMALL.ranks:
        for iou in SMALL.ious:
            share = np.mean([any(v >= iou for v in row[:rank]) for row in best])
            assert found[f"R@{rank},IoU={iou}"] == pytest.approx(100 * share)
    assert found["mIoU"] == pytest.approx(100 * np.mean([row[0] for row in best]))
    assert SMALL.overlaps(predictions, targets).tolist() == pytest.approx([row[0] for row in best])


@given(st.lists(query, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_right_moments_changes_nothing(cases: list, random) -> None:
    proposals, targets = zip(*cases, strict=True)
    shuffled = [random.sample(ts, len(ts)) for ts in targets]
    durations = [20.0] * len(cases)

    def everything(targets: list) -> list:
        constants = fit_constant_segments(SMALL, targets, durations, 4)
        floors = video_floors(SMALL, proposals, targets, durations, constants)
        misses = name_misses([ps[0] for ps in proposals], targets)
        return [SMALL(proposals, targets), video_oracle(SMALL, proposals, targets), constants.fractions, floors, misses]

    assert everything(list(targets)) == everything(shuffled)


@given(st.lists(st.tuples(st.lists(segment, min_size=1, max_size=4), segment), min_size=1, max_size=4))
def test_one_moment_may_be_given_alone_or_in_a_list(cases: list) -> None:
    predictions, targets = zip(*cases, strict=True)
    assert SMALL(predictions, targets) == SMALL(predictions, [[t] for t in targets])


def test_a_miss_is_named_after_the_moment_that_the_choice_overlaps_most() -> None:
    several = [(0, 10), (40, 90)]
    choices = [(0, 4), (40, 60), (35, 100), (88, 100), (20, 30)]
    found = [miss.value for miss in name_misses(choices, [several] * 5)]
    assert found == ["too short", "too short", "right", "shifted", "elsewhere"]


@pytest.mark.parametrize(("first", "column"), [(False, "published"), (True, "first")])
def test_the_published_predictions_on_qvhighlights_reach_the_published_recalls(data_root, first, column) -> None:
    """moment_detr counts IoU >= m with any window of the query; times are whole seconds, so > would count less."""
    root = data_root / "qvhighlights"
    lines = [json.loads(line) for line in (root / "highlight_val_release.jsonl").read_text().splitlines()]
    windows = {line["qid"]: line["relevant_windows"] for line in lines}
    answers = [json.loads(line) for line in (root / "sample_val_preds.jsonl").read_text().splitlines()]
    published = json.loads((root / "sample_val_preds_metrics.json").read_text())["full"]["MR-R1"]
    expected = {"0.5": 45.16, "0.7": 30.71} if first else published
    evaluator = VideoEvaluator(ious=tuple(map(float, expected)), ranks=(1,))
    targets = [windows[answer["qid"]] for answer in answers]
    found = evaluator(
        [[window[:2] for window in answer["pred_relevant_windows"]] for answer in answers],
        [several[0] for several in targets] if first else targets,
    )
    assert len(published) == 10
    assert {m: round(found[f"R@1,IoU={m}"], 2) for m in expected} == expected
