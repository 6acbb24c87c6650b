import sys
from itertools import combinations

import numpy as np
import pytest

from relgrounding import graphs, viz
from relgrounding.datasets.demo import make_scenes
from relgrounding.predictor import Neighbour

pytest.importorskip("matplotlib", reason="figures need the extra `plot`")
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.patches import FancyArrowPatch

BOXES = [[10, 20, 90, 130], [120, 55, 180, 95], [15, 30, 45, 50]]
TRUTH = viz.Shown("ground truth", [(5.0, 12.5)], truth=True)


def _many_boxes(count):
    rng = np.random.default_rng(0)
    middle, side = rng.uniform(60, 420, (count, 2)), rng.uniform(20, 110, (count, 2))
    return np.concatenate([middle - side / 2, middle + side / 2], 1).round()


def _texts(figure):
    """All texts that are drawn and where, in pixels."""
    figure.canvas.draw()
    found = [t for axes in figure.axes for t in axes.texts if t.get_text()]
    return [(t.get_text(), t.get_window_extent()) for t in found]


def _apart(figure):
    return not any(a.overlaps(b) for (_, a), (_, b) in combinations(_texts(figure), 2))


def test_moments_lie_where_they_are():
    shown = [TRUTH, viz.Shown("a", [(4.0, 12.0), (20.0, 28.0)], "IoU 0.82"), viz.Shown("b", [(0.0, 31.0)])]
    figure = viz.moments_figure("person opens the door", 31.2, shown)
    bars = [(b.get_x(), b.get_x() + b.get_width()) for b in figure.axes[0].patches]
    assert np.allclose(bars, [(5.0, 12.5), (4.0, 12.0), (20.0, 28.0), (0.0, 31.0)])
    assert figure.axes[0].get_xlim() == (0, 31.2)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ground truth", "a", "b"]
    assert len({b.get_facecolor()[:3] for b in figure.axes[0].patches}) == 3
    assert _apart(figure)


@pytest.mark.parametrize("query", ["costs $5 and $6_", "x" * 500, "two\nlines", "\\frac{", "日本 犬"])
def test_any_sentence_can_stand_above(tmp_path, query):
    hostile = viz.Shown("run_$1_$2", [(1.0, 2.0)], note="$x")
    viz.save_figure(viz.moments_figure(query, 10.0, [TRUTH, hostile]), tmp_path / "sub" / "m.png", dpi=40)
    boxes = viz.Shown("run_$1_$2", [(1.0, 2.0, 30.0, 40.0)], note="$x", labels=["$1"])
    viz.save_figure(viz.regions_figure(query, (100, 50), [boxes]), tmp_path / "r.png", dpi=40)
    assert (tmp_path / "sub" / "m.png").read_bytes()[:4] == b"\x89PNG"


def test_scripts_without_a_font_are_named_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("relgrounding.viz._fonts._candidates", list)
    monkeypatch.setattr("relgrounding.viz._fonts._mentioned", set())
    for query in ("日本のドア", "日本 ठीक", "日本 x\u200d\ufe0f"):
        viz.save_figure(viz.moments_figure(query, 10.0, [TRUTH]), tmp_path / "m.png", dpi=40)
    assert [message.split(",")[0] for message in caplog.messages] == [
        "figures: no font here has CJK",
        "figures: no font here has DEVANAGARI",
    ]
    assert caplog.messages[0].endswith("HIRAGANA, KATAKANA, boxes stand for it; install a Noto font for it")


def test_an_installed_font_draws_what_the_first_one_lacks(tmp_path, monkeypatch, caplog):
    first, second = (font_manager.findfont(name) for name in ("DejaVu Sans", "STIXNonUnicode"))
    lacking = min(set(FT2Font(second).get_charmap()) - set(FT2Font(first).get_charmap()))
    monkeypatch.setattr("relgrounding.viz._fonts._candidates", lambda: [("STIXNonUnicode", second)])
    figure = viz.moments_figure(f"a{chr(lacking)}", 10.0, [TRUTH])
    viz.save_figure(figure, tmp_path / "m.png", dpi=40)
    assert figure.texts[0].get_fontfamily()[-1] == "STIXNonUnicode"
    figure.savefig(tmp_path / "m.png")  # a missing glyph would be a warning, and a failure
    assert not caplog.messages


def test_control_characters_are_shown_as_text():
    figure = viz.moments_figure("a\x1bb \u202e", 10.0, [viz.Shown("r\x07", [(1.0, 2.0)])])
    assert figure.get_suptitle() == r"a\x1bb \u202e"
    assert figure.axes[0].get_yticklabels()[0].get_text() == r"r\x07"


def test_every_panel_has_its_boxes_and_the_truth():
    queries, store = make_scenes("test", 3)
    scene = store.scene(queries[4].item)
    shown = [
        viz.Shown("ground truth", queries[4].targets, truth=True),
        viz.Shown("a", scene.boxes[:1].tolist(), "IoU 0.00"),
        viz.Shown("b", scene.boxes[:3].tolist(), labels=["1", "2", "3"]),
    ]
    blank = viz.regions_figure("the red one", scene.size, shown, context=scene.boxes.tolist())
    counts = [len(axes.patches) - len(scene.boxes) for axes in blank.axes]
    assert counts == [1, 2, 4]
    drawn = viz.regions_figure("the red one", scene.size, shown, picture=scene)
    assert [len(axes.patches) - len(scene.objects) for axes in drawn.axes] == counts
    assert [axes.get_title() for axes in drawn.axes] == ["ground truth", "a   IoU 0.00", "b"]
    photo = viz.regions_figure("the red one", (8, 6), shown[:1], picture=np.zeros((6, 8, 3), dtype=np.uint8))
    assert len(photo.axes[0].images) == 1


def _said(proposal, weight, *words):
    return Neighbour(proposal, "relation.0", "after", weight, words)


def test_neighbours_that_spoke_have_a_bar_or_an_arrow_and_a_line():
    said = [_said((4.0, 12.0), 0.95), _said((20.0, 28.0), 0.9, ("then", 0.5), ("the", -0.1)), _said((20.0, 28.0), 0.8)]
    said += [_said((30.0 + k, 31.0), 0.7 - 0.2 * k) for k in range(4)]
    shown = [TRUTH, viz.Shown("a", [(4.0, 12.0)], neighbours=said), viz.Shown("b", [(0.0, 31.0)])]
    figure = viz.moments_figure("person then opens the door", 40, shown)
    bars = [(b.get_x(), b.get_x() + b.get_width()) for b in figure.axes[0].patches]
    assert np.allclose(bars, [(5, 12.5), (4, 12), (20, 28), (30, 31), (31, 31), (0, 31)])
    assert [text for text, _ in _texts(figure)][2] == 'after, weight 0.90\nopened by "then" +0.50'
    assert _apart(figure)
    said = [n._replace(proposal=(*n.proposal, n.proposal[0] + 9, n.proposal[1] + 9)) for n in said]
    panel = viz.Shown("a", [said[0].proposal], neighbours=said)
    figure = viz.regions_figure("the left one", (100, 80), [panel, viz.Shown("b", [(1, 2, 3, 4)])])
    arrows = [[p for p in axes.patches if isinstance(p, FancyArrowPatch)] for axes in figure.axes]
    assert [len(found) for found in arrows] == [3, 0]
    assert arrows[0][0].get_linewidth() > arrows[0][1].get_linewidth() > arrows[0][2].get_linewidth()
    lines = figure.axes[0].get_xlabel().splitlines()
    assert lines[0] == '1: after, weight 0.90, opened by "then" +0.50'
    assert [line[:2] for line in lines] == ["1:", "2:", "3:"]
    assert figure.axes[1].get_xlabel() == ""


def test_labels_of_overlapping_boxes_stay_apart():
    boxes = [[10, 10, 200, 150], [12, 11, 190, 148], [15, 12, 201, 151], [9, 8, 205, 149], [10, 20, 199, 140]]
    shown = viz.Shown("top five", boxes, labels=[f"{k}: 0.99" for k in range(5)])
    assert _apart(viz.regions_figure("the dog", (640, 480), [shown]))


def test_names_of_other_boxes_stand_in_the_first_panel_apart_from_labels_where_there_is_no_picture():
    boxes = [[10, 10, 200, 150], [12, 11, 190, 148], [300, 200, 320, 210], [400, 10, 620, 470]]
    shown = [viz.Shown(name, boxes[:1], labels=["refrigerator"]) for name in ("truth", "a")]
    names = ["", "dining table", "cup", "person"]
    figure = viz.regions_figure("the fridge", (640, 480), shown, context=boxes, names=names)
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["refrigerator", "person", "dining table", "cup"], ["refrigerator"]]
    assert _apart(figure)
    photo = viz.regions_figure("the fridge", (640, 480), shown, np.zeros((48, 64, 3), np.uint8), boxes, names)
    assert [len(axes.texts) for axes in photo.axes] == [1, 1]


def test_a_small_spatial_graph_is_drawn_whole():
    graph = graphs.spatial_graph(BOXES, image_size=(200, 150))
    figure = viz.draw_graph(graph, boxes=BOXES, image_size=(200, 150))
    (axes,) = figure.axes
    assert len(axes.patches) == len(BOXES) + graph.num_edges()
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["inside", "cover", "angle_4", "angle_8"]
    assert len({line.get_color() for line in axes.get_legend().get_lines()}) == 4
    assert axes.get_title() == ""


def test_a_spatial_graph_of_thirty_boxes_can_be_read():
    boxes = _many_boxes(30)
    graph = graphs.spatial_graph(boxes, image_size=(480, 480))
    figure = viz.draw_graph(graphs.from_dgl(graph), boxes=boxes, image_size=(480, 480))
    (axes,) = figure.axes
    assert axes.get_title() == f"90 of {graph.num_edges()} edges: from each box to its 3 nearest neighbours"
    assert len(axes.patches) == 30 + 90
    assert _apart(figure)
    whole = viz.draw_graph(graph, boxes=boxes, image_size=(480, 480), nearest=30)
    assert len(whole.axes[0].patches) == 30 + graph.num_edges()
    same = np.tile(boxes[:1], (4, 1))
    assert _apart(viz.draw_graph(graphs.spatial_graph(same, image_size=(480, 480)), boxes=same, image_size=(480, 480)))


def test_a_temporal_graph_has_an_arc_for_every_pair():
    segments = graphs.window_proposals(16, [2, 4, 8, 12], 2).float()
    graph = graphs.temporal_graph(segments)
    bars, arcs = viz.draw_graph(graph, segments=segments).axes
    assert len(bars.patches) == len(segments)
    pairs = (graph.num_edges() - len(segments)) // 2
    assert len(arcs.patches) == pairs
    assert arcs.get_xlabel() == f"{pairs} overlapping pairs"
    alone = viz.draw_graph(graphs.temporal_graph([[0.0, 1.0]]), segments=[[0.0, 1.0]])
    assert alone.axes[1].get_xlabel() == "0 overlapping pairs"


def test_a_graph_needs_its_own_places():
    graph = graphs.spatial_graph(BOXES, image_size=(200, 150))
    with pytest.raises(ValueError, match=r"boxes have shape \(2, 4\); the graph's 3 nodes need \(3, 4\)"):
        viz.draw_graph(graph, boxes=BOXES[:2])
    with pytest.raises(ValueError, match="give either boxes="):
        viz.draw_graph(graph)


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'relgrounding\[plot\]'"):
        viz.moments_figure("q", 1.0, [TRUTH])
