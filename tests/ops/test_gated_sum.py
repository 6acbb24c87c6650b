import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops_oracles import HAS_CPP, draw_inputs, edge_lists, gated_oracle, gated_shapes, structure_of, values_and_gradients

from relgrounding._dgl import dgl
from relgrounding.graphs import from_dgl
from relgrounding.ops import gated_sum

BACKENDS = ("naive", "dgl", "cpp", "dense", "csr")
backends = pytest.mark.parametrize("backend", BACKENDS)
dims = st.sampled_from([1, 3])
seeds = st.integers(0, 100)


@backends
@given(graph=edge_lists(), dim=dims, seed=seeds)
def test_equals_a_loop_over_edges(backend, graph, dim, seed):
    counts, edges = graph
    inputs = draw_inputs(seed, gated_shapes(sum(counts), 3, dim))
    out = gated_sum(structure_of(counts, edges), *inputs, backend=backend)
    expected = gated_oracle(edges, *(x.detach() for x in inputs))
    torch.testing.assert_close(out.detach(), expected, rtol=1e-12, atol=1e-12)


@given(graph=edge_lists(), dim=dims, seed=seeds)
def test_every_backend_has_the_values_and_gradients_of_naive(graph, dim, seed):
    counts, edges = graph
    structure = structure_of(counts, edges)
    inputs = draw_inputs(seed, gated_shapes(sum(counts), 3, dim))
    naive, *others = (
        values_and_gradients(lambda *x, b=b: gated_sum(structure, *x, backend=b), inputs)
        for b in BACKENDS
        if b != "cpp" or HAS_CPP
    )
    for other in others:
        torch.testing.assert_close(other, naive, rtol=1e-10, atol=1e-12)


@backends
@pytest.mark.parametrize("types", [1, 3])
def test_gradcheck(backend, types):
    edges = [(0, 1, 0), (2, 1, 0), (2, 1, 1), (1, 1, 0), (3, 0, 0), (5, 4, 2), (4, 5, 0)]
    structure = structure_of([4, 2, 1], [(j, i, r % types) for j, i, r in edges], types)
    inputs = draw_inputs(1, gated_shapes(7, types, 3))
    assert torch.autograd.gradcheck(lambda *x: gated_sum(structure, *x, backend=backend), inputs)


@backends
@given(graph=edge_lists(), seed=seeds, data=st.data())
def test_the_order_of_edges_does_not_matter(backend, graph, seed, data):
    counts, edges = graph
    inputs = draw_inputs(seed, gated_shapes(sum(counts), 3, 4))
    shuffled = data.draw(st.permutations(edges))
    out = [gated_sum(structure_of(counts, e), *inputs, backend=backend) for e in (edges, shuffled)]
    torch.testing.assert_close(*out, rtol=0, atol=0)


@backends
@given(graph=edge_lists(), seed=seeds)
def test_a_batch_equals_its_items(backend, graph, seed):
    counts, edges = graph
    structure = structure_of(counts, edges)
    feat, gate, *shared = draw_inputs(seed, gated_shapes(sum(counts), 3, 4))
    items = zip(feat.split(counts), gate.split(counts), strict=True)
    alone = [
        gated_sum(structure.select(torch.tensor([i])), *item, *shared, backend=backend) for i, item in enumerate(items)
    ]
    torch.testing.assert_close(gated_sum(structure, feat, gate, *shared, backend=backend), torch.cat(alone))


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 64])
def test_a_node_without_in_edges_gets_zeros(backend, dtype, dim):
    inputs = draw_inputs(0, gated_shapes(3, 3, dim), dtype)
    out, *gradients = values_and_gradients(
        lambda *x: gated_sum(structure_of([3], [(0, 1, 0), (1, 1, 2)]), *x, backend=backend), inputs
    )
    assert (out[[0, 2]] == 0).all()
    assert (out[1] != 0).any()
    assert (gradients[0][2] == 0).all()
    assert (gradients[3][1] == 0).all(), "no edge has this type"


@backends
@pytest.mark.parametrize("counts", [[0], [1], [2, 0, 1]])
def test_graphs_without_edges(backend, counts):
    inputs = draw_inputs(0, gated_shapes(sum(counts), 3, 4))
    results = values_and_gradients(lambda *x: gated_sum(structure_of(counts, []), *x, backend=backend), inputs)
    assert results[0].shape == (sum(counts), 4)
    assert all((x == 0).all() for x in results)


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_enormous_logits_open_and_close_the_gate(backend, dtype):
    feat, _, gate_bias, type_bias = draw_inputs(0, gated_shapes(3, 3, 8), dtype)
    gate = torch.tensor([1e4, -1e4, 0], dtype=dtype, requires_grad=True)
    out, *gradients = values_and_gradients(
        lambda *x: gated_sum(structure_of([3], [(0, 2, 1), (1, 2, 0)]), *x, backend=backend),
        [feat, gate, gate_bias, type_bias],
    )
    torch.testing.assert_close(out[2], (feat[0] + type_bias[1]).detach())
    assert all(g.isfinite().all() for g in gradients)


@backends
def test_parallel_edges_of_every_type_count(backend):
    inputs = draw_inputs(3, gated_shapes(2, 3, 4))
    edges = [(0, 1, 0), (0, 1, 0), (0, 1, 2), (1, 1, 1)]
    out = gated_sum(structure_of([2], edges), *inputs, backend=backend)
    torch.testing.assert_close(out.detach(), gated_oracle(edges, *(x.detach() for x in inputs)))


@backends
def test_takes_a_dgl_graph_and_its_types_in_the_order_of_the_structure(backend):
    graph = dgl.heterograph({("p", "b", "p"): ([0, 1], [1, 1]), ("p", "a", "p"): ([2], [1])}, {"p": 4})
    inputs = draw_inputs(0, gated_shapes(4, 2, 3))
    out = [gated_sum(g, *inputs, backend=backend) for g in (graph, from_dgl(graph))]
    torch.testing.assert_close(*out, rtol=0, atol=0)


@backends
def test_out_edges_through_the_reversed_structure(backend):
    edges = [(0, 1, 0), (2, 1, 1), (1, 2, 2)]
    inputs = draw_inputs(0, gated_shapes(3, 3, 4))
    out = gated_sum(structure_of([3], edges).reverse(), *inputs, backend=backend)
    expected = gated_oracle([(d, s, r) for s, d, r in edges], *(x.detach() for x in inputs))
    torch.testing.assert_close(out.detach(), expected)


def test_a_message_names_the_shapes():
    inputs = draw_inputs(0, gated_shapes(3, 2, 4))
    with pytest.raises(ValueError, match=r"the graph has 3 nodes and 3 edge types; .* = \(\(3, 4\), \(3,\), \(3,\)"):
        gated_sum(structure_of([3], []), *inputs)
