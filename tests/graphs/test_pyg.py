"""The bridge to PyTorch Geometric."""

import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding import graphs
from relgrounding.graphs import GraphStructure
from tests.graphs.multigraphs import TYPES, assert_equal, build, multigraphs


@pytest.fixture(scope="module")
def pyg():
    with warnings.catch_warnings():
        # It scripts a class at import, which newer releases of PyTorch warn about.
        warnings.simplefilter("ignore", DeprecationWarning)
        return pytest.importorskip("torch_geometric.data")


@given(drawn=multigraphs())
def test_there_and_back_is_the_structure_and_items_are_items(pyg, drawn):
    structure = build(drawn)
    batch = graphs.to_pyg(structure)
    assert_equal(graphs.from_pyg(batch, edge_types=TYPES), structure)
    assert torch.equal(batch.edge_index, structure.edge_index)
    assert torch.equal(batch.edge_type, structure.etype)
    assert torch.equal(batch.batch, structure.node_item)
    items = batch.to_data_list()
    assert len(items) == structure.batch_size
    for number, item in enumerate(items):
        assert_equal(graphs.from_pyg(item, edge_types=TYPES), structure.select([number]))
    assert_equal(graphs.from_pyg(pyg.Batch.from_data_list(items), edge_types=TYPES), structure)


@given(drawn=multigraphs(), data=st.data())
def test_edges_in_any_order_and_form_give_the_same(pyg, drawn, data):
    structure, (edges, counts) = build(drawn), drawn
    edges = torch.tensor(data.draw(st.permutations(edges)), dtype=torch.int64).reshape(-1, 3).t()
    for form in (lambda tensor: tensor, np.asarray, torch.Tensor.tolist, torch.Tensor.int):
        plain = graphs.from_pyg(form(edges[:2]), counts, form(edges[2]), TYPES)
        assert_equal(plain, structure)
    node_item = torch.repeat_interleave(torch.tensor(counts))
    graph = pyg.Data(x=torch.zeros(sum(counts), 2), edge_index=edges[:2], edge_type=edges[2])
    whole = graphs.from_pyg(graph, edge_types=TYPES)
    assert_equal(whole, GraphStructure.from_edges(*edges, TYPES, [sum(counts)]))
    # `batch` says nothing of items without nodes after the last node.
    graph.batch = node_item
    items = int(node_item.max()) + 1 if len(node_item) else 0
    assert_equal(graphs.from_pyg(graph, edge_types=TYPES), structure.select(range(items)))


def test_a_layer_of_pyg_sums_over_the_in_edges(pyg):
    structure = graphs.spatial_structure(
        [[[0, 0, 40, 40], [10, 10, 20, 20], [60, 10, 80, 20]], [[0, 0, 9, 9]]], (100, 80)
    )
    x = torch.randn(4, 5)
    found = sys.modules["torch_geometric"].nn.SimpleConv("sum")(x, graphs.to_pyg(structure).edge_index)
    expected = torch.zeros(4, 5).index_add_(0, structure.destinations, x[structure.sources])
    torch.testing.assert_close(found, expected)


def test_types_are_named_by_number_and_one_without_types():
    edge_index = torch.tensor([[0, 1, 1], [1, 0, 1]])
    assert graphs.from_pyg(edge_index, 2).edge_types == ("0",)
    typed = graphs.from_pyg(edge_index, 2, [4, 0, 2])
    assert typed.edge_types == ("0", "1", "2", "3", "4")
    assert typed.etype.tolist() == [0, 4, 2]
    empty = graphs.from_pyg(torch.zeros(2, 0, dtype=torch.int64), [3, 0])
    assert (empty.num_nodes, empty.num_edges, empty.batch_size, empty.edge_types) == (3, 0, 2, ("0",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0], [1]],), "an edge_index does not say how many nodes there are; give num_nodes"),
        ((torch.zeros(3, 2, dtype=torch.int64), 4), r"edge_index has shape \(3, 2\); give \(2, E\), sources and dest"),
        ((torch.zeros(2, dtype=torch.int64), 4), r"edge_index has shape \(2,\); give \(2, E\), sources and dest"),
        ((torch.tensor(3), 4), r"edge_index has shape \(\); give \(2, E\), sources and destinations"),
        (([[0], [1], [2]], 4), r"edge_index has 3 rows; give \(2, E\), sources and destinations"),
        (([[0], [1]], 2, [10**9]), "edge_type holds 1000000000; give numbers from 0 to 65535, or names of types"),
        ((torch.zeros(2, 2), 4), r"sources: torch.float32 of shape \(2,\); give a list of whole numbers"),
        (([[0], [4]], 4), "edge 0: destination 4 does not exist; there are 4, counted from 0"),
        (([[0], [3]], [2, 2]), "edge 0: 0 -> 3 joins item 0 to item 1"),
        (([[0], [1]], 2, [0, 0]), "edges: 1 sources, 1 destinations, 2 types; give one of each per edge"),
        (([[0], [1]], 2, [2], ["a", "b"]), "edge 0: type 2 does not exist; there are 2"),
        (([[0], [1]], [2.0]), r"num_nodes: torch.float64 of shape \(1,\); give a list of whole numbers"),
        ((object(),), r"the object has no edge_index; give a Data, a Batch or an edge_index"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        graphs.from_pyg(*arguments)


def test_nodes_must_be_sorted_by_item_and_a_batch_has_items(pyg):
    for dtype in (torch.int64, torch.uint8):
        batch = torch.tensor([0, 1, 0], dtype=dtype)
        with pytest.raises(ValueError, match="batch is not ascending; sort the nodes by item"):
            graphs.from_pyg(pyg.Data(edge_index=torch.zeros(2, 0, dtype=torch.int64), batch=batch))
    with pytest.raises(ValueError, match="the structure has no items"):
        graphs.to_pyg(graphs.temporal_structure([[0, 1]]).select([]))


def test_pyg_is_imported_by_to_pyg_only_and_its_absence_is_one_sentence(monkeypatch):
    for name in ("torch_geometric", "torch_geometric.data"):
        monkeypatch.setitem(sys.modules, name, None)
    structure = graphs.from_pyg([[0, 1], [1, 1]], 2)
    with pytest.raises(ImportError, match=r'to_pyg needs PyTorch Geometric, .* pip install "torch-geometric>=2.4"$'):
        graphs.to_pyg(structure)
