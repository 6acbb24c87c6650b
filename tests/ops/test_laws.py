"""What holds for every operator on graphs and each of its backends alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops_oracles import HAS_CPP, attention_shapes, draw_inputs, edge_lists, gated_shapes, structure_of
from ops_oracles import values_and_gradients as run

from relgrounding._dgl import dgl
from relgrounding.graphs import from_dgl
from relgrounding.ops import gated_sum, graph_attention

BACKENDS = ("naive", "dgl", "cpp", "dense", "csr")
EDGES = [(0, 1, 0), (2, 1, 0), (2, 1, 1), (1, 1, 0), (3, 0, 0), (5, 4, 2), (4, 5, 0)]
backends = pytest.mark.parametrize("backend", BACKENDS)
operators = pytest.mark.parametrize("operator", [graph_attention, gated_sum])
seeds = st.integers(0, 100)


def shapes_of(operator, nodes, dim=3, heads=2, types=3):
    return attention_shapes(nodes, heads, dim) if operator is graph_attention else gated_shapes(nodes, types, dim)


def by_matrices(operator, structure, inputs, slope=0.2):
    """The operator on one matrix of edge counts per type: nodes x nodes, or heads x nodes x nodes."""
    count = torch.zeros(structure.num_types, structure.num_nodes, structure.num_nodes, dtype=torch.float64)
    places = structure.etype, structure.destinations, structure.indices
    count = count.index_put(places, torch.tensor(1.0, dtype=torch.float64), accumulate=True)
    if operator is gated_sum:
        feat, gate, gate_bias, type_bias = inputs
        opened = torch.sigmoid(gate[:, None] + gate_bias).T
        return (count @ (opened[:, :, None] * (feat + type_bias[:, None]))).sum(0)
    feat, source, target = inputs
    logit = torch.nn.functional.leaky_relu(source.T[:, None] + target.T[:, :, None], slope)
    weight = count.sum(0) * logit.exp()
    alpha = weight / weight.sum(2, keepdim=True).clamp(min=1e-300)
    return (alpha @ feat.transpose(0, 1)).transpose(0, 1)


@operators
@given(graph=edge_lists(), dim=st.sampled_from([1, 3]), seed=seeds)
def test_naive_is_the_formula_and_every_backend_is_naive_with_all_gradients(operator, graph, dim, seed):
    counts, edges = graph
    structure = structure_of(counts, edges)
    inputs = draw_inputs(seed, shapes_of(operator, sum(counts), dim))
    expected = run(lambda *x: by_matrices(operator, structure, x), inputs)
    for backend in BACKENDS:
        if backend != "cpp" or HAS_CPP:
            found = run(lambda *x, b=backend: operator(structure, *x, backend=b), inputs)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@backends
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_slopes_of_attention(backend, slope):
    structure, inputs = structure_of([4, 2, 1], EDGES), draw_inputs(1, attention_shapes(7, 2, 3))
    found = graph_attention(structure, *inputs, negative_slope=slope, backend=backend)
    torch.testing.assert_close(found, by_matrices(graph_attention, structure, inputs, slope))


@operators
@backends
@pytest.mark.parametrize("types", [1, 3])
def test_gradients_are_those_of_finite_differences(operator, backend, types):
    structure = structure_of([4, 2, 1], [(j, i, r % types) for j, i, r in EDGES], types)
    inputs = draw_inputs(1, shapes_of(operator, 7, types=types))
    assert torch.autograd.gradcheck(lambda *x: operator(structure, *x, backend=backend), inputs)


@operators
@backends
@given(graph=edge_lists(), seed=seeds, data=st.data())
def test_the_order_of_edges_does_not_matter_and_a_batch_equals_its_items(operator, backend, graph, seed, data):
    counts, edges = graph
    structure = structure_of(counts, edges)
    inputs = draw_inputs(seed, shapes_of(operator, sum(counts)))
    out = operator(structure, *inputs, backend=backend)
    shuffled = structure_of(counts, data.draw(st.permutations(edges)))
    torch.testing.assert_close(out, operator(shuffled, *inputs, backend=backend), rtol=0, atol=0)
    per_node = 3 if operator is graph_attention else 2
    items = zip(*(x.split(counts) for x in inputs[:per_node]), strict=True)
    alone = [
        operator(structure.select(torch.tensor([i])), *item, *inputs[per_node:], backend=backend)
        for i, item in enumerate(items)
    ]
    torch.testing.assert_close(out, torch.cat(alone))


@operators
@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 64])
def test_a_node_without_in_edges_gets_zeros(operator, backend, dtype, dim):
    structure, inputs = structure_of([3], [(0, 1, 0), (1, 1, 2)]), draw_inputs(0, shapes_of(operator, 3, dim), dtype)
    out, *gradients = run(lambda *x: operator(structure, *x, backend=backend), inputs)
    assert (out[[0, 2]] == 0).all()
    assert (out[1] != 0).any()
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][2] == 0).all()
    if operator is gated_sum:
        assert (gradients[3][1] == 0).all(), "no edge has this type"


@operators
@backends
@pytest.mark.parametrize("counts", [[0], [1], [2, 0, 1]])
def test_graphs_without_edges(operator, backend, counts):
    inputs = draw_inputs(0, shapes_of(operator, sum(counts)))
    results = run(lambda *x: operator(structure_of(counts, []), *x, backend=backend), inputs)
    assert results[0].shape == inputs[0].shape
    assert all((x == 0).all() for x in results)


@operators
@backends
def test_takes_a_dgl_graph_and_its_types_in_the_order_of_the_structure(operator, backend):
    graph = dgl.heterograph({("p", "b", "p"): ([0, 1], [1, 1]), ("p", "a", "p"): ([2], [1])}, {"p": 4})
    inputs = draw_inputs(0, shapes_of(operator, 4, types=2))
    by_hand = structure_of([4], [(0, 1, 1), (1, 1, 1), (2, 1, 0)], types=2)
    out = [operator(g, *inputs, backend=backend) for g in (graph, from_dgl(graph), by_hand)]
    torch.testing.assert_close(out[0], out[1], rtol=0, atol=0)
    torch.testing.assert_close(out[0], out[2], rtol=0, atol=0)


@operators
def test_a_message_names_the_shapes(operator):
    messages = {
        graph_attention: r"the graph has 2 nodes; feat \(3, 2, 3\), score_src \(3, 2\)",
        gated_sum: r"the graph has 2 nodes and 3 edge types; .* = \(\(2, 3\), \(2,\), \(3,\)",
    }
    with pytest.raises(ValueError, match=messages[operator]):
        operator(structure_of([2], []), *draw_inputs(0, shapes_of(operator, 3)))
