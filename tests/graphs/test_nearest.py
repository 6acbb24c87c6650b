from fractions import Fraction

import dgl
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from relgrounding import graphs
from relgrounding.graphs import naive
from tests.graphs.multigraphs import assert_equal

coordinate = st.integers(0, 6)
box = st.tuples(coordinate, coordinate, st.integers(1, 4), st.integers(1, 4)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
item = st.lists(st.tuples(box, st.integers(0, 2)), min_size=1, max_size=8)
among = st.sampled_from(["any", "same", "different", "different_first"])


def sources(graph: dgl.DGLGraph) -> list[list[int]]:
    return [sorted(graph.predecessors(node).tolist()) for node in range(graph.num_nodes())]


@given(st.lists(item, min_size=1, max_size=3), st.sampled_from([1, 2, 5, 20]), among)
def test_edges_and_offsets_equal_the_reference(items, k, among):
    boxes, categories = ([[row[column] for row in item] for item in items] for column in (0, 1))
    graph = graphs.nearest_graph(boxes, k, categories, among)
    for part, own, category in zip(dgl.unbatch(graph), boxes, categories, strict=True):
        assert sources(part) == naive.nearest(own, k, category, among)
        for source, destination, found in zip(*part.edges(), part.edata["offset"], strict=True):
            expected = torch.tensor([float(value) for value in naive.offset(own[destination], own[source])])
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    structure, offset = graphs.nearest_structure(boxes, k, categories, among)
    assert_equal(structure, graphs.from_dgl(graph))
    assert torch.equal(offset, graph.edata["offset"])


@given(st.lists(box, min_size=1, max_size=8), st.sampled_from([10, 30, 100]), st.integers(1, 4), st.booleans())
@example([(0, 0, 2, 10), (1, 0, 3, 10), (2, 0, 4, 10)], 10, 1, True)
def test_rounding_of_decimals_breaks_no_tie(boxes, unit, k, short):
    rows = [
        [x1 / unit, y1 / unit, x1 / unit + (x2 - x1) / unit, y2 / unit - 1 / unit + 1 / unit]
        for x1, y1, x2, y2 in boxes
    ]
    exact = [[Fraction(value, unit) for value in row] for row in boxes]
    assert sources(graphs.nearest_graph(torch.tensor(rows) if short else rows, k)) == naive.nearest(exact, k)


@given(st.lists(st.tuples(*[st.integers(0, 1500)] * 2, *[st.integers(1, 500)] * 2), min_size=3, max_size=8))
@example([(0, 0, 2, 2), (851, 5, 1, 1), (850, 30, 2, 1)])
def test_integers_are_exact_in_every_type(boxes):
    rows = [[x, y, x + width, y + height] for x, y, width, height in boxes]
    for dtype in (torch.float32, torch.float64, torch.int64):
        assert sources(graphs.nearest_graph(torch.tensor(rows, dtype=dtype), 1)) == naive.nearest(rows, 1)


def test_offsets_by_hand():
    structure, offset = graphs.nearest_structure([[10, 10, 30, 20], [20, 15, 60, 25]], 1)
    assert structure.indices.tolist() == [1, 0]
    assert offset.tolist() == [[0.0, 0.0, 2.0, 1.0, 2.0], [-0.75, -1.0, -0.25, 0.0, 0.5]]
    xywh = [[10, 10, 20, 10], [20, 15, 40, 10]]
    assert torch.equal(graphs.nearest_structure(xywh, 1, box_format="xywh")[1], offset)


def test_regions_without_neighbours():
    structure, offset = graphs.nearest_structure([[[0, 0, 1, 1]], np.zeros((0, 4))], categories=[[1], []], among="same")
    assert (structure.batch_size, structure.num_edges, offset.shape) == (2, 0, (0, 5))
    assert graphs.nearest_graph([[0, 0, 1, 1], [0, 0, 1, 1]], categories=[1, 2], among="same").num_edges() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": [[0, 0, 1, 1], [5, 0, 5, 1]]}, r"boxes, row 1: \[5.0, 0.0, 5.0, 1.0\] \(xyxy\) has no area"),
        ({"boxes": [[[0, 0, 1, 1]], [[0, 0, 1, float("nan")]]]}, r"boxes, item 1, row 0: .* is not finite"),
        ({"boxes": [[20, 0, 21, 1]], "image_size": (10, 10)}, r"boxes, row 0: .* wholly outside of its image"),
        ({"k": 0}, "k: 0 neighbours; give an integer of at least 1"),
        ({"among": "other"}, "among: 'other' is unknown; give one of 'any', 'same', 'different', 'different_first'"),
        ({"among": "same"}, "categories: among='same' compares them; give one whole number per box, or among='any'"),
        (
            {"among": "same", "categories": [1, 2]},
            r"categories: \[2\] of them for \[1\] boxes \(per item\); give one per",
        ),
        ({"among": "same", "categories": [0.5]}, r"categories: torch.float64 of shape \(1,\); give a list of whole"),
    ],
)
def test_errors_say_what_to_give(options, message):
    for function in (graphs.nearest_graph, graphs.nearest_structure):
        with pytest.raises(ValueError, match=message):
            function(**{"boxes": [[0, 0, 1, 1]], **options})
