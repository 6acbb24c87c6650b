import math

import pytest

from relgrounding.evaluation import Difference
from relgrounding.viz import ablation_figure, differences_figure

PARTS = {
    "first": {"a": {"Acc": (40.0, 1.0), "mIoU": (30.0, 0.5)}, "b": {"Acc": (42.0, 2.0)}, "floor": {"Acc": (20.0, 0.0)}},
    "second": {"b": {"Acc": (10.0, 0.1)}},
    "empty": {},
}


def test_each_row_is_a_line_and_each_metric_a_colour():
    pytest.importorskip("matplotlib")
    figure = ablation_figure(PARTS, ["a", "not run", "b"], line="a")
    first, second = figure.axes
    assert [axis.get_legend().get_title().get_text() for axis in figure.axes] == ["first", "second"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    points = {bar.get_label(): bar.lines[0].get_xdata().tolist() for bar in first.containers}
    assert points == {"Acc": [40.0, 42.0], "mIoU": [30.0]}
    assert second.containers[0].lines[0].get_ydata().tolist() == [1.0]
    # The first row is on top.
    assert first.get_ylim()[0] > first.get_ylim()[1]


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no run of the grid has results yet"):
        ablation_figure({"first": {"floor": {"Acc": (1.0, 0.0)}}}, ["a"])
    with pytest.raises(ValueError, match="no row and its reference have results yet"):
        differences_figure({"first": {"Acc": {}}}, {"a": "b"})


def test_differences_stand_at_their_rows_and_are_filled_where_their_interval_excludes_zero():
    pytest.importorskip("matplotlib")
    gain, loss = Difference(9, 52.0, 50.0, 0.5, 3.5), Difference(9, 49.0, 50.0, -2.0, -0.5)
    open_, single = Difference(9, 51.0, 50.0, -1.0, 3.0), Difference(1, 53.0, 50.0, math.nan, math.nan)
    parts = {
        "none": {"Acc": {}},
        "first": {"Acc": {"b": gain, "c": open_}, "mIoU": {"b": loss}},
        "second": {"Acc": {"d": single}},
    }
    first, second = differences_figure(parts, dict.fromkeys("bcd", "a")).axes
    assert [axis.get_legend().get_title().get_text() for axis in (first, second)] == ["first", "second"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["b\nagainst a", "c\nagainst a"]
    assert first.get_ylim()[0] > first.get_ylim()[1]

    def drawn(axis, marker):
        lines = [line for line in axis.lines if line.get_marker() == marker and len(line.get_xdata())]
        return [
            (round(line.get_ydata()[0]), *line.get_xdata(), line.get_markerfacecolor() != "white") for line in lines
        ]

    assert sorted(drawn(first, "o")) == [(0, -1.0, True), (0, 2.0, True), (1, 1.0, False)]
    assert {x[:-1] for x in drawn(first, "None")} - {(0, 0, 0)} == {(0, 0.5, 3.5), (0, -2.0, -0.5), (1, -1.0, 3.0)}
    assert drawn(second, "o") == [(0, 3.0, False)]
