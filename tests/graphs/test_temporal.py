import dgl
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from relgrounding import graphs
from relgrounding.graphs import GraphStructure, TemporalRelation, naive
from tests.graphs.multigraphs import assert_equal

segment = st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1]))


def edges(graph) -> list[tuple[int, int]]:
    return sorted(zip(*(ends.tolist() for ends in graph.edges()), strict=True))


@given(
    st.lists(segment, min_size=1, max_size=9),
    st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0]),
    st.booleans(),
)
@example([(0, 10), (0, 3)], 0.3, True)
@example([(0, 10), (10, 12), (0, 10)], 0.0, False)
def test_edges_equal_the_reference(segments, threshold, self_loops):
    graph = graphs.temporal_graph(segments, threshold, self_loops)
    assert edges(graph) == naive.temporal_edges(segments, threshold, self_loops)
    assert graph.canonical_etypes == [("proposal", "overlaps", "proposal")]


def test_items_that_come_several_times_are_what_they_are_alone():
    first, second, third = [[0, 10], [5, 12]], [[0, 10], [5, 12], [6, 11]], [[0, 10], [5, 13]]
    items = [second, first, second, third, first, [[0, 10], [5, 12]]]
    alone = GraphStructure.batch([graphs.temporal_structure(item) for item in items])
    assert_equal(graphs.temporal_structure(items), alone)
    assert_equal(graphs.temporal_structure(torch.tensor([first, third, first])), alone.select(torch.tensor([1, 3, 1])))


def test_no_difference_on_fifty_thousand_random_pairs():
    generator = np.random.default_rng(0)
    items = []
    for _ in range(100):
        start = generator.integers(0, 30, 22)
        items.append(np.stack([start, start + generator.integers(1, 30, 22)], 1))
    for threshold in (0.3, 0.5):
        for part, item in zip(dgl.unbatch(graphs.temporal_graph(items, threshold)), items, strict=True):
            assert edges(part) == naive.temporal_edges(item.tolist(), threshold)


def test_an_iou_equal_to_the_threshold_joins_nothing():
    assert edges(graphs.temporal_graph([[0, 10], [0, 3]], 0.3, False)) == []
    assert edges(graphs.temporal_graph([[0, 10], [0, 4]], 0.3, False)) == [(0, 1), (1, 0)]
    assert edges(graphs.temporal_graph([[0, 10], [0, 10]], 1.0, False)) == []
    assert edges(graphs.temporal_graph([[0, 10], [10, 20]], 0.0, False)) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64, torch.float32])
def test_decimals_are_exact_in_every_type(dtype):
    for first in range(30):
        rows = [[first / 10, (first + 2) / 10], [(first + 1) / 10, (first + 2) / 10], [(first + 2) / 10, 5]]
        one = torch.tensor(rows, dtype=dtype) if isinstance(dtype, torch.dtype) else np.array(rows, dtype=dtype)
        for segments in (one, [one], list(one)):
            assert edges(graphs.temporal_graph(segments, 0.5, False)) == []
            relations = graphs.temporal_relations(segments)
            relations = relations[0] if isinstance(relations, list) else relations
            assert relations.view(3, 3)[0].tolist() == [0, TemporalRelation.FINISHED_BY, TemporalRelation.MEETS]


def test_self_loops_do_not_depend_on_the_threshold():
    assert edges(graphs.temporal_graph([[0, 10], [20, 21]], 1.0)) == [(0, 0), (1, 1)]
    assert edges(graphs.temporal_graph([[0, 10]], 0.0, self_loops=False)) == []


@given(st.lists(st.lists(segment, min_size=1, max_size=5), min_size=1, max_size=4))
def test_a_batch_equals_its_items(items):
    batch = graphs.temporal_graph([torch.tensor(item) for item in items])
    assert [edges(part) for part in dgl.unbatch(batch)] == [edges(graphs.temporal_graph(item)) for item in items]
    assert batch.batch_num_nodes().tolist() == [len(item) for item in items]


@given(st.lists(segment, min_size=1, max_size=5), st.lists(segment, min_size=1, max_size=5))
def test_temporal_iou_is_the_exact_quotient(a, b):
    found = graphs.temporal_iou(np.array(a), torch.tensor(b))
    expected = [[float(naive.temporal_iou(x, y)) for y in b] for x in a]
    assert found.dtype == torch.float64
    assert found.tolist() == expected


def test_iou_keeps_leading_dimensions_and_types():
    a = torch.rand(3, 1, 4, 4)
    a[..., 2:] += a[..., :2] + 0.1
    b = a[:, 0, :2].expand(3, 2, 4)[None].expand(2, 3, 2, 4).transpose(0, 1)
    found = graphs.box_iou(a, b)
    assert found.shape == (3, 2, 4, 2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, 0, 0, 0], torch.ones(3))
    assert graphs.box_iou(a.half(), b.half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([[0, 1], [3, 3]], r"segments, row 1: \[3.0, 3.0\] has end <= start; remove the segment or correct it"),
        ([[0, float("nan")]], r"segments, row 0: .* is not finite; remove the segment or correct it"),
        ([[-1e308, 1e308], [0, 1e308]], r"segments, row 0: .* is beyond 3e\+150; remove the segment or give it in a"),
        ([[[0, 1]], [[0, 1], [2, 1]]], r"segments, item 1, row 1: \[2.0, 1.0\] has end <= start"),
        (np.zeros(4), r"segments: shape \(4,\); give \(rows, 2\)"),
        ([], "segments: the list is empty"),
    ],
)
def test_errors_name_the_row(segments, message):
    with pytest.raises(ValueError, match=message):
        graphs.temporal_graph(segments)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_iou_is_refused(threshold):
    with pytest.raises(ValueError, match=r"iou_threshold: .* is not an IoU; give a number from 0 to 1"):
        graphs.temporal_graph([[0, 1]], threshold)
