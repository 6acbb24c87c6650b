"""What counts as right in a run: any of several moments, and an IoU that equals the threshold."""

import json

import pytest

from relgrounding.evaluation import VideoEvaluator
from relgrounding.viz import read_run
from tests.cases import several_moments, threshold
from tests.evaluation.recount import recount
from tests.training.tiny import tool


def test_the_order_of_right_moments_changes_nothing_and_any_of_them_is_right(case):
    folder = case(several_moments) / "runs/several"
    assert tool("train").main(["--config", "own.yaml"]) == 0
    for entry in json.loads((folder / "results.json").read_text()):
        # [60, 64] is a candidate, [2, 32] is not.
        assert set(entry["oracle"].values()) == {100.0}
        assert entry["floors"]["whole video"]["mIoU"] == pytest.approx(100 * 30 / 64)
    for written, again in recount(folder):
        assert written == again
    predictions = read_run(folder).predictions
    for first, second in zip(predictions[::2], predictions[1::2], strict=True):
        assert first.targets == second.targets[::-1]
        assert first.iou == second.iou
        assert first.iou == VideoEvaluator().overlaps([[first.top[0][0]]], [first.targets])[0]
    assert tool("misses").main([str(folder)]) == 0
    assert tool("report").main([str(folder)]) == 0


def test_the_figure_shows_every_right_moment(case):
    pytest.importorskip("matplotlib", reason="figures need the extra `plot`")
    from relgrounding.viz import Shown, moments_figure

    figure = moments_figure("a person talks", 64, [Shown("ground truth", [(2, 32), (60, 64)], truth=True)])
    axes = figure.axes[0]
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert bars == [(2, 32), (60, 64)]
    assert axes.texts[0].get_text() == "2.0 to 32.0 s, 60.0 to 64.0 s"


def test_an_overlap_of_exactly_one_half_is_found_and_stays_one_half_in_the_file(case):
    folder = case(threshold)
    assert tool("train").main(["--config", "own.yaml"]) == 0
    for entry in json.loads((folder / "runs/threshold/results.json").read_text()):
        assert entry["oracle"]["R@1,IoU=0.5"] == 100.0
        assert entry["oracle"]["mIoU"] == 50.0
    for written, again in recount(folder / "runs/threshold"):
        assert written == again
