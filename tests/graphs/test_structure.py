import copy
import dataclasses
import pickle
from collections import Counter

import dgl
import networkx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.memory import allocated
from relgrounding import graphs, nn, ops
from relgrounding.graphs import GraphStructure
from relgrounding.graphs._items._flat import counted_by_source, sorted_by_source
from tests.graphs.multigraphs import FIELDS, TYPES, assert_equal, build, in_edges, multigraphs


@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("made_there", [False, True])
@pytest.mark.parametrize("backend", [name for name in ops.backend_names() if "triton" not in name])
def test_a_graph_that_was_used_in_inference_mode_can_be_trained_on(backend, made_there, as_tensors):
    layers = {
        nn.GraphAttention(4, 6, 2, backend=backend): lambda: graphs.temporal_graph([[0, 4], [2, 6]], 0.1),
        nn.EdgeGatedGCN(4, 6, 11, backend=backend): lambda: graphs.spatial_graph([[0, 0, 4, 4], [3, 3, 9, 9]], (9, 9)),
    }
    for layer, make in layers.items():
        with torch.inference_mode(made_there):
            graph = graphs.from_dgl(make()) if as_tensors else make()
        with torch.inference_mode():
            layer(graph, torch.ones(2, 4))
        out, *_ = layer(graph, torch.ones(2, 4), return_attention=True)
        loss = out.sum() + layer(graph, torch.ones(2, 4)).sum()
        torch.autograd.grad(loss, list(layer.parameters()), create_graph=True)


@given(multigraphs(), st.data())
def test_kept_edges_are_those_and_every_node_stays(drawn, data):
    structure = build(drawn)
    keep = data.draw(st.lists(st.booleans(), min_size=structure.num_edges, max_size=structure.num_edges))
    keep = torch.tensor(keep, dtype=torch.bool)
    columns = structure.indices[keep], structure.destinations[keep], structure.etype[keep]
    assert_equal(structure.keep_edges(keep), GraphStructure.from_edges(*columns, TYPES, structure.batch_num_nodes))
    assert_equal(structure.without_edges(), structure.keep_edges(torch.zeros_like(keep)))


@given(multigraphs())
def test_tiles_hold_every_edge_once(drawn):
    structure, (edges, _) = build(drawn), drawn
    parallel = Counter((source, destination) for source, destination, _ in edges)
    assert structure.most_parallel == max(parallel.values(), default=1)
    assert structure.to("meta").most_parallel == structure.most_parallel
    assert structure.most_parallel > 1 or structure.select([0]).__dict__["most_parallel"] == 1
    plane, row, column = (structure.tiles.planes != len(TYPES)).nonzero().unbind(1)
    types = structure.tiles.planes[plane, row, column]
    sources = structure.item_indptr[structure.node_item[row]] + column
    assert sorted(zip(sources.tolist(), row.tolist(), types.tolist(), strict=True)) == sorted(edges)
    assert structure.tiles.planes.shape[2] % 16 == 0


@given(multigraphs())
def test_edges_are_sorted_both_ways(drawn):
    structure, (edges, counts) = build(drawn), drawn
    assert in_edges(structure) == sorted(edges, key=lambda e: (e[1], e[0], e[2]))
    found = []
    for node in range(structure.num_nodes):
        for position in range(int(structure.out_indptr[node]), int(structure.out_indptr[node + 1])):
            edge = int(structure.out_edges[position])
            assert int(structure.indices[edge]) == node
            assert int(structure.destinations[edge]) == int(structure.out_indices[position])
            found.append((node, int(structure.out_indices[position]), int(structure.etype[edge])))
    assert found == sorted(edges)
    assert structure.edge_index.t().tolist() == [
        [source, destination] for source, destination, _ in in_edges(structure)
    ]
    assert structure.sources is structure.indices
    assert structure.item_indptr.tolist() == [sum(counts[:item]) for item in range(len(counts) + 1)]
    assert structure.node_item.tolist() == [item for item, count in enumerate(counts) for _ in range(count)]
    assert (structure.num_nodes, structure.num_edges, structure.num_types) == (sum(counts), len(edges), 3)
    assert structure.batch_size == len(counts)


@given(multigraphs())
def test_reverse_turns_every_edge_and_twice_is_the_same(drawn):
    structure, (edges, _) = build(drawn), drawn
    turned = structure.reverse()
    columns = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).unbind(1)
    expected = GraphStructure.from_edges(columns[1], columns[0], columns[2], TYPES, structure.batch_num_nodes)
    assert_equal(turned, expected)
    assert_equal(turned.reverse(), structure)
    assert structure.reverse() is turned


@given(multigraphs())
def test_dgl_and_back(drawn):
    structure = build(drawn)
    assert_equal(graphs.from_dgl(structure.to_dgl()), structure)
    assert structure.to_dgl() is structure.to_dgl()


@given(multigraphs())
def test_unbatch_gives_what_select_gives(drawn):
    structure, (_, counts) = build(drawn), drawn
    for item, part in enumerate(dgl.unbatch(structure.to_dgl())):
        assert part.num_nodes() == counts[item]
        assert_equal(graphs.from_dgl(part), structure.select(torch.tensor([item])))


@given(multigraphs())
def test_homogeneous_edges_are_in_the_forward_order(drawn):
    structure, (_, counts) = build(drawn), drawn
    graph = structure.homogeneous()
    sources, destinations = graph.edges(order="eid")
    assert torch.equal(sources, structure.indices)
    assert torch.equal(destinations, structure.destinations)
    assert [part.num_nodes() for part in dgl.unbatch(graph)] == counts


@given(multigraphs(), multigraphs())
def test_batch_then_select_gives_the_parts(first, second):
    first, second = build(first), build(second)
    both = GraphStructure.batch([first, second])
    split, items = len(first.batch_num_nodes), len(both.batch_num_nodes)
    assert_equal(both.select(torch.arange(split)), first)
    assert_equal(both.select(torch.arange(split, items)), second)
    parts = [both.select(torch.tensor([item])) for item in range(items)]
    assert_equal(GraphStructure.batch(parts), both)


@given(multigraphs(), st.data())
def test_select_with_repeats_equals_a_batch_of_single_items(drawn, data):
    structure, (_, counts) = build(drawn), drawn
    items = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=6))
    alone = [structure.select(torch.tensor([item])) for item in items]
    assert_equal(structure.select(torch.tensor(items)), GraphStructure.batch(alone))


def several_times(nearest: int | None) -> tuple[GraphStructure, GraphStructure]:
    """Items of which some are equal, built in one call and one by one; without `nearest`, edges are symmetric."""
    sets = [graphs.window_proposals(clips, (1, 3, 4, 8), 1) for clips in (20, 9, 24)]
    items = [sets[number] for number in (1, 0, 1, 2, 0, 0)]
    alone = [graphs.temporal_relation_structure(item, nearest) for item in items]
    return graphs.temporal_relation_structure(items, nearest), GraphStructure.batch(alone)


@pytest.mark.usefixtures("_unchecked_types")
def test_a_choice_of_edges_that_is_not_one_is_refused():
    structure = GraphStructure.from_edges([0, 1, 0], [1, 0, 0], [0, 0, 0], ["a"], [2])
    keep = torch.tensor([True, False, True])
    for wrong in (keep[:2], torch.tensor([0, 2, 1]), keep[:, None]):
        with pytest.raises(ValueError, match=r"give one truth value per edge, \(3,\) of torch.bool$"):
            structure.keep_edges(wrong)
    for count in (1, 3, -1):
        with pytest.raises(ValueError, match=f"^count is {count}, but keep is True for 2 edges$"):
            structure.keep_edges(keep, count)
    assert_equal(structure.keep_edges(keep, 2), structure.keep_edges(keep))
    with pytest.raises(ValueError, match="no edge types, and DGL needs one"):
        GraphStructure.of_nodes((), torch.tensor([2])).to_dgl()


@pytest.mark.parametrize("nearest", [None, 5])
@pytest.mark.parametrize("long", [0, 10**9])
def test_equal_items_built_once_are_those_built_alone(nearest, long, monkeypatch):
    monkeypatch.setattr("relgrounding.graphs._items._flat.LONG", long)
    for function in (
        lambda s: s,
        lambda s: s.select([3, 0, 3, 5]),
        lambda s: GraphStructure.batch([s, s.select([1])]),
        lambda s: s.reverse(),
        lambda s: s.keep_edges(torch.arange(s.num_edges) % 3 > 0),
        lambda s: s.without_edges(),
        lambda s: pickle.loads(pickle.dumps(s)),
        copy.copy,
        copy.deepcopy,
        dataclasses.replace,
        lambda s: dataclasses.replace(s, edge_types=tuple(reversed(s.edge_types))),
        lambda s: graphs.from_dgl(s.to_dgl()),
        lambda s: GraphStructure.batch([piece for *_, piece in s.pieces(2000)]),
    ):
        found, expected = map(function, several_times(nearest))
        assert_equal(found, expected)
        assert (found.num_nodes, found.num_edges) == (expected.num_nodes, expected.num_edges)
        for name in FIELDS:
            assert getattr(found, name) is getattr(found, name)


def test_both_orders_of_a_symmetric_graph_are_held_once_and_move_as_one():
    for nearest in (None, 5):
        for structure in several_times(nearest):
            for other in (structure, structure.select([2, 1]), structure.to("meta")):
                assert (other.out_indices is other.indices) == (nearest is None)
                assert (other.out_indptr is other.indptr) == (nearest is None)


def test_equal_items_take_memory_once_until_their_edges_are_read():
    moments = graphs.map_proposals(32, dense_width=32)
    one, many = (allocated(lambda n=n: graphs.temporal_structure([moments] * n))[1] for n in (2, 64))
    assert many < 1.5 * one
    structure = graphs.temporal_structure([moments] * 64)
    assert allocated(lambda: structure.indices)[1] == 8 * structure.num_edges > 8 * one


def test_select_of_nothing_is_empty():
    structure = graphs.temporal_structure([[0, 1], [0, 2]])
    empty = structure.select(torch.tensor([], dtype=torch.int64))
    assert (empty.num_nodes, empty.num_edges, len(empty.batch_num_nodes)) == (0, 0, 0)


@given(multigraphs())
def test_builders_and_from_edges_agree(drawn):
    boxes = [torch.rand(count, 4) for count in drawn[1]]
    for box in boxes:
        box[:, 2:] += box[:, :2] + 0.01
    built = graphs.spatial_structure(boxes, (2, 2))
    columns = (built.indices, built.destinations, built.etype)
    order = torch.randperm(built.num_edges)
    shuffled = GraphStructure.from_edges(*(c[order] for c in columns), built.edge_types, built.batch_num_nodes)
    assert_equal(built, shuffled)
    assert_equal(graphs.from_dgl(built.to_dgl()), built)


@given(multigraphs())
def test_networkx_holds_the_same_edges(drawn):
    structure, (edges, _) = build(drawn), drawn
    for source in (structure, structure.to_dgl()):
        found = graphs.to_networkx(source)
        assert isinstance(found, networkx.MultiDiGraph)
        assert list(found) == list(range(structure.num_nodes))
        assert sorted(found.edges(data="type")) == sorted((s, d, TYPES[t]) for s, d, t in edges)
    assert [item for _, item in graphs.to_networkx(structure).nodes(data="item")] == structure.node_item.tolist()


@given(multigraphs())
def test_edges_counted_by_source_are_those_sorted_by_source(drawn):
    structure = build(drawn)
    columns = (structure.indptr.diff(), structure.indices)
    for found, expected in zip(counted_by_source(*columns), sorted_by_source(*columns), strict=True):
        assert torch.equal(found.long(), expected)


def test_spatial_edge_types_come_back_in_the_order_of_the_relations():
    graph = graphs.spatial_graph([[0, 0, 10, 10], [2, 2, 4, 4]], (20, 20))
    assert graphs.from_dgl(graph).edge_types == tuple(r.name.lower() for r in graphs.SpatialRelation)


def _edges(structure: GraphStructure) -> list[tuple[int, int]]:
    return [(source, destination) for source, destination, _ in in_edges(structure)]


def test_the_structure_of_a_dgl_graph_is_kept_until_its_edges_nodes_or_batch_change():
    graph = dgl.graph(([0, 2], [1, 0]))
    kept = graphs.from_dgl(graph)
    assert graphs.from_dgl(graph) is kept
    graph.ndata["h"] = torch.zeros(3)
    assert graphs.from_dgl(graph) is kept
    with graph.local_scope():
        assert graphs.from_dgl(graph) is kept
    graph.add_edges([1], [2])
    assert _edges(graphs.from_dgl(graph)) == [(2, 0), (0, 1), (1, 2)]
    graph.remove_edges([0])
    assert _edges(graphs.from_dgl(graph)) == [(2, 0), (1, 2)]
    graph.add_nodes(1)
    assert graphs.from_dgl(graph).num_nodes == 4
    graph.remove_nodes([0])
    assert _edges(graphs.from_dgl(graph)) == [(0, 1)]
    for counts in ([2, 1], [3, 0]):
        graph.set_batch_num_nodes(torch.tensor(counts))
        assert graphs.from_dgl(graph).batch_num_nodes.tolist() == counts
    graph.batch_num_nodes().copy_(torch.tensor([2, 1]))
    assert graphs.from_dgl(graph).batch_num_nodes.tolist() == [2, 1]
    another = pickle.loads(pickle.dumps(graph))
    another.add_edges([1], [0])
    assert _edges(graphs.from_dgl(another)) == [(1, 0), (0, 1)]
    assert _edges(graphs.from_dgl(graph)) == [(0, 1)]


def test_a_graph_that_was_handed_out_and_changed_is_built_again():
    structure = graphs.temporal_structure([[0, 10], [5, 12], [11, 20]])
    for build_graph in (structure.to_dgl, structure.homogeneous):
        build_graph().add_edges([0], [2])
        assert build_graph().num_edges() == structure.num_edges
        assert build_graph() is build_graph()


def test_nodes_of_items_that_do_not_exist_or_of_a_mask_are_refused():
    structure = graphs.temporal_structure([[[0, 10], [5, 12]], [[0, 3], [1, 4]]])
    assert structure.item_nodes(torch.tensor([1, 0, 1])).tolist() == [2, 3, 0, 1, 2, 3]
    for function in (structure.item_nodes, structure.select):
        with pytest.raises(ValueError, match="item -1 does not exist; the batch has 2 items"):
            function(torch.tensor([-1]))
        with pytest.raises(ValueError, match=r"items: torch.bool of shape \(2,\); give a list of whole numbers"):
            function(torch.tensor([True, False]))


def test_nodes_alone_are_selected_as_with_edges_that_are_taken_away():
    structure = graphs.temporal_structure([[[0, 10], [5, 12]], [[0, 3], [1, 4]]])
    items = [1, 0, 1]
    for whole in (structure, structure.without_edges()):
        selected, nodes = whole.select_with_nodes(items)
        assert_equal(selected, whole.select(items))
        assert torch.equal(nodes, structure.item_nodes(items))
        assert_equal(selected.without_edges(), structure.without_edges().select(items))
    none: list[int] = []
    counts = structure.batch_num_nodes
    expected = GraphStructure.from_edges(none, none, none, structure.edge_types, counts)
    assert_equal(structure.without_edges(), expected)
    assert_equal(GraphStructure.of_nodes(structure.edge_types, counts), expected)


def test_from_dgl_takes_other_graphs():
    structure = graphs.from_dgl(dgl.graph(([0, 0, 2], [1, 1, 0]), idtype=torch.int32))
    assert in_edges(structure) == [(2, 0, 0), (0, 1, 0), (0, 1, 0)]
    two = dgl.heterograph({("x", "r", "y"): ([0], [0])})
    with pytest.raises(ValueError, match=r"the graph has the node types \['x', 'y'\]; a structure has one"):
        graphs.from_dgl(two)


def test_pickling_leaves_what_was_computed_behind():
    structure = graphs.temporal_structure([[0, 1], [0, 2]])
    before = len(pickle.dumps(structure))
    structure.to_dgl(), structure.homogeneous(), structure.reverse(), structure.destinations
    assert len(pickle.dumps(structure)) == before
    assert_equal(pickle.loads(pickle.dumps(structure)), structure)


def test_to_the_same_device_is_free_and_to_another_moves_every_tensor():
    structure = graphs.temporal_structure([[0, 1], [0, 2]])
    assert structure.to("cpu") is structure
    moved = structure.to("meta")
    assert {getattr(moved, name).device.type for name in FIELDS} == {"meta"}
    assert repr(structure) == "GraphStructure(items=1, nodes=2, edges=4, types=1, device='cpu')"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_on_a_gpu():
    boxes = torch.tensor([[0, 0, 10, 10], [2, 2, 4, 4], [8, 9, 12, 13]])
    expected = graphs.spatial_structure(boxes, (20, 20))
    on_gpu = graphs.spatial_structure(boxes.cuda(), (20, 20))
    assert on_gpu.device.type == "cuda"
    assert_equal(on_gpu.to("cpu"), expected)
    assert expected.pin_memory().indices.is_pinned()
    assert_equal(graphs.from_dgl(on_gpu.to_dgl()).to("cpu"), expected)
    assert_equal(
        on_gpu.select(torch.tensor([0, 0])).reverse().to("cpu"), expected.select(torch.tensor([0, 0])).reverse()
    )


def test_lists_and_arrays_are_taken_as_tensors_are():
    edges, counts = [(2, 0, 1), (0, 1, 0)], [3, 0]
    columns = list(zip(*edges, strict=True))
    for form in (list, np.array, torch.tensor):
        assert_equal(GraphStructure.from_edges(*map(form, columns), TYPES, form(counts)), build((edges, counts)))
    structure, given = build((edges, counts)), torch.tensor(counts)
    assert_equal(structure.select([1, 0]), structure.select(torch.tensor([1, 0])))
    copied = GraphStructure.from_edges(*columns, TYPES, given)
    given.zero_()
    assert_equal(copied, structure)


@pytest.mark.parametrize(
    ("columns", "counts", "message"),
    [
        (([0, 5], [0, 0], [0, 0]), [2], "edge 1: source 5 does not exist; there are 2, counted from 0"),
        (([0], [-1], [0]), [2], "edge 0: destination -1 does not exist"),
        (([0], [1], [3]), [2], "edge 0: type 3 does not exist; there are 3"),
        (([0], [1], [0]), [1, 1], "edge 0: 0 -> 1 joins item 0 to item 1; an edge stays inside its item"),
        (([], [], []), [3, -1], r"batch_num_nodes: \[3, -1\] holds a negative number"),
        (([0.0], [1], [0]), [2], r"sources: torch.float64 of shape \(1,\); give a list of whole numbers"),
        (([0], [[1]], [0]), [2], r"destinations: torch.int64 of shape \(1, 1\); give a list of whole numbers"),
        (([0], [1], [True]), [2], "etype: torch.bool of shape"),
        (([0], [1], [0]), torch.tensor(2), r"batch_num_nodes: torch.int64 of shape \(\); give a list"),
    ],
)
def test_errors_of_from_edges(columns, counts, message):
    with pytest.raises(ValueError, match=message):
        GraphStructure.from_edges(*columns, TYPES, counts)


def test_errors_of_types_batch_and_select():
    structure = graphs.temporal_structure([[0, 1]])
    with pytest.raises(ValueError, match="holds a name twice"):
        GraphStructure.from_edges([0], [0], [0], ("a", "a"), [1])
    with pytest.raises(ValueError, match=r"the list is empty; give at least one structure"):
        GraphStructure.batch([])
    with pytest.raises(ValueError, match=r"structure 1 has the edge types .* batch only structures of one kind"):
        GraphStructure.batch([structure, graphs.spatial_structure([[0, 0, 1, 1]], (2, 2))])
    with pytest.raises(ValueError, match="item 1 does not exist; the batch has 1 items"):
        structure.select(torch.tensor([0, 1]))
