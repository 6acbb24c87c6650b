from fractions import Fraction

import dgl
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from relgrounding import graphs
from relgrounding.graphs import GraphStructure, TemporalRelation, naive
from tests.graphs.multigraphs import assert_equal

# Hundredths of a second: few distinct times, so that boundaries coincide often.
segment = st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda s: (s[0], s[0] + s[1]))
segments = st.lists(segment, min_size=1, max_size=7)
names = {relation.name.lower(): relation for relation in TemporalRelation}


def typed_edges(graph: dgl.DGLGraph) -> set[tuple[int, int, int]]:
    return {
        (*ends, names[name])
        for name in graph.etypes
        for ends in zip(*(nodes.tolist() for nodes in graph.edges(etype=name)), strict=True)
    }


def as_edges(matrix: list[list[int]], sources: list[list[int]] | None = None) -> set[tuple[int, int, int]]:
    every = [range(len(matrix))] * len(matrix) if sources is None else sources
    return {(j, i, matrix[j][i]) for i, own in enumerate(every) for j in own if i != j}


@given(st.lists(segments, min_size=1, max_size=3))
@example([[(0, 3), (3, 6), (0, 9), (2, 5), (1, 3), (2, 3), (0, 3)]])
def test_relations_equal_the_reference_and_have_their_converses(items):
    found = graphs.temporal_relations([torch.tensor(item) for item in items])
    for item, matrix in zip(items, found, strict=True):
        own = matrix[: len(item), : len(item)]
        assert own.tolist() == naive.temporal_relations(item)
        assert int(matrix.count_nonzero()) == int(own.count_nonzero()) == len(item) * (len(item) - 1)
        converse = torch.where(own == TemporalRelation.EQUAL, own, own + 2 * (own % 2) - 1)
        assert torch.equal(own.T, converse * (own > 0))


@pytest.mark.parametrize(
    ("a", "b", "name", "converse"),
    [
        ((0, 1), (2, 3), "BEFORE", "AFTER"),
        ((0, 2), (2, 3), "MEETS", "MET_BY"),
        ((0, 2), (1, 3), "OVERLAPS", "OVERLAPPED_BY"),
        ((0, 2), (0, 3), "STARTS", "STARTED_BY"),
        ((1, 2), (0, 3), "DURING", "CONTAINS"),
        ((1, 3), (0, 3), "FINISHES", "FINISHED_BY"),
        ((0, 3), (0, 3), "EQUAL", "EQUAL"),
    ],
)
def test_each_relation_and_its_converse_by_name(a, b, name, converse):
    matrix = graphs.temporal_relations([a, b])
    assert matrix.tolist() == [[0, TemporalRelation[name]], [TemporalRelation[converse], 0]]


@given(segments, st.sampled_from([10, 100, 30]), st.integers(0, 5000))
@example([(0, 3), (3, 9)], 10, 1)
def test_rounding_of_decimal_times_decides_nothing(item, unit, origin):
    # A boundary is computed in one of three ways, which round differently.
    rows = []
    for row, (start, end) in enumerate(item):
        length, first = (end - start) / unit, (start + origin) / unit
        last = (first + length, (end + origin) / unit, sum([1 / unit] * (end - start), start=first))[row % 3]
        rows.append([first, last])
    exact = [[Fraction(start + origin, unit), Fraction(end + origin, unit)] for start, end in item]
    assert graphs.temporal_relations(rows).tolist() == naive.temporal_relations(exact)
    for k in (1, 3):
        found = graphs.temporal_relation_graph(rows, nearest=k)
        assert typed_edges(found) == as_edges(naive.temporal_relations(exact), naive.nearest(exact, k))


def test_a_tenth_and_two_tenths_meet_three_tenths():
    assert 0.1 + 0.2 != 0.3
    first, second = [0.0, 0.1 + 0.2], [0.3, 0.9]
    assert graphs.temporal_relations([first, second]).tolist() == [[0, 3], [4, 0]]
    assert graphs.temporal_relations([[0, 0.29], second]).tolist() == [[0, 1], [2, 0]]


@given(st.lists(segments, min_size=1, max_size=4), st.sampled_from([None, 1, 2, 4, 9]))
def test_graph_and_structure_of_a_batch_equal_the_reference_of_its_items(items, k):
    graph = graphs.temporal_relation_graph(items, nearest=k)
    for part, item in zip(dgl.unbatch(graph), items, strict=True):
        sources = None if k is None else naive.nearest(item, k)
        assert typed_edges(part) == as_edges(naive.temporal_relations(item), sources)
    structure = graphs.temporal_relation_structure(items, nearest=k)
    assert_equal(structure, graphs.from_dgl(graph))
    assert_equal(structure, GraphStructure.batch([graphs.temporal_relation_structure(item, k) for item in items]))
    assert structure.edge_types == tuple(names)


def test_nodes_without_neighbours():
    assert graphs.temporal_relation_graph([[0, 1]], nearest=3).num_edges() == 0
    empty = graphs.temporal_relation_structure([torch.zeros(0, 2), torch.tensor([[0, 1], [4, 5]])], nearest=1)
    assert (empty.batch_size, empty.num_edges) == (2, 2)
    assert graphs.temporal_relations(torch.zeros(0, 2)).shape == (0, 0)


@pytest.mark.parametrize(
    ("rows", "nearest", "message"),
    [
        ([[0, 1], [3, 3]], None, r"segments, row 1: \[3.0, 3.0\] has end <= start; remove"),
        ([[[0, 1]], [[0, 1], [2, float("inf")]]], 1, r"segments, item 1, row 1: .* is not finite"),
        ([[0, 1], [1e9, 1e9 + 1e-7]], None, r"segments, row 1: .* is no longer than rounding at times of this size"),
        ([[[0, 1]], [[0, 1]], [[1e9, 1e9 + 1e-7]]], None, "segments, item 2, row 0: .* is no longer than rounding"),
        ([[0, 1]], 0, "nearest: 0 neighbours; give an integer of at least 1"),
    ],
)
def test_errors_name_the_row(rows, nearest, message):
    for function in (graphs.temporal_relation_graph, graphs.temporal_relation_structure):
        with pytest.raises(ValueError, match=message):
            function(rows, nearest)
