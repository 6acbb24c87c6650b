import pytest

from relgrounding.viz import ablation_figure

PARTS = {
    "first": {"a": {"Acc": (40.0, 1.0), "mIoU": (30.0, 0.5)}, "b": {"Acc": (42.0, 2.0)}, "floor": {"Acc": (20.0, 0.0)}},
    "second": {"b": {"Acc": (10.0, 0.1)}},
    "empty": {},
}


def test_each_row_is_a_line_and_each_metric_a_colour():
    pytest.importorskip("matplotlib")
    figure = ablation_figure(PARTS, ["a", "b"], line="a")
    first, second = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["first", "second"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    points = {bar.get_label(): bar.lines[0].get_xdata().tolist() for bar in first.containers}
    assert points == {"Acc": [40.0, 42.0], "mIoU": [30.0]}
    assert second.containers[0].lines[0].get_ydata().tolist() == [1.0]
    # The first row is on top.
    assert first.get_ylim()[0] > first.get_ylim()[1]


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no run of the grid has results yet"):
        ablation_figure({"first": {"floor": {"Acc": (1.0, 0.0)}}}, ["a"])
