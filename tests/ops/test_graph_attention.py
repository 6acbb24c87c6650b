import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops_oracles import (
    HAS_CPP,
    attention_oracle,
    attention_shapes,
    draw_inputs,
    edge_lists,
    structure_of,
    values_and_gradients,
)

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops import graph_attention

BACKENDS = ("naive", "dgl", "cpp", "dense", "csr")
backends = pytest.mark.parametrize("backend", BACKENDS)
sizes = st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 3]), st.integers(0, 100))


@backends
@given(graph=edge_lists(), size=sizes, slope=st.sampled_from([0.0, 0.2, 1.0]))
def test_equals_a_loop_over_edges(backend, graph, size, slope):
    counts, edges = graph
    heads, dim, seed = size
    inputs = draw_inputs(seed, attention_shapes(sum(counts), heads, dim))
    out = graph_attention(structure_of(counts, edges), *inputs, negative_slope=slope, backend=backend)
    expected = attention_oracle(edges, *(x.detach() for x in inputs), slope)
    torch.testing.assert_close(out.detach(), expected, rtol=1e-12, atol=1e-12)


@given(graph=edge_lists(), size=sizes)
def test_every_backend_has_the_values_and_gradients_of_naive(graph, size):
    counts, edges = graph
    heads, dim, seed = size
    structure = structure_of(counts, edges)
    inputs = draw_inputs(seed, attention_shapes(sum(counts), heads, dim))
    naive, *others = (
        values_and_gradients(lambda *x, b=b: graph_attention(structure, *x, backend=b), inputs)
        for b in BACKENDS
        if b != "cpp" or HAS_CPP
    )
    for other in others:
        torch.testing.assert_close(other, naive, rtol=1e-10, atol=1e-12)


@backends
def test_gradcheck(backend):
    structure = structure_of([4, 2, 1], [(0, 1, 0), (2, 1, 0), (2, 1, 1), (1, 1, 0), (3, 0, 0), (5, 4, 2), (4, 5, 0)])
    inputs = draw_inputs(1, attention_shapes(7, 2, 3))
    assert torch.autograd.gradcheck(lambda *x: graph_attention(structure, *x, backend=backend), inputs)


@backends
@given(graph=edge_lists(), seed=st.integers(0, 100), data=st.data())
def test_the_order_of_edges_does_not_matter(backend, graph, seed, data):
    counts, edges = graph
    inputs = draw_inputs(seed, attention_shapes(sum(counts), 2, 3))
    shuffled = data.draw(st.permutations(edges))
    out = [graph_attention(structure_of(counts, e), *inputs, backend=backend) for e in (edges, shuffled)]
    torch.testing.assert_close(*out, rtol=0, atol=0)


@backends
@given(graph=edge_lists(), seed=st.integers(0, 100))
def test_a_batch_equals_its_items(backend, graph, seed):
    counts, edges = graph
    structure = structure_of(counts, edges)
    inputs = draw_inputs(seed, attention_shapes(sum(counts), 2, 3))
    items = zip(*(x.split(counts) for x in inputs), strict=True)
    alone = [
        graph_attention(structure.select(torch.tensor([i])), *item, backend=backend) for i, item in enumerate(items)
    ]
    torch.testing.assert_close(graph_attention(structure, *inputs, backend=backend), torch.cat(alone))


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 64])
def test_a_node_without_in_edges_gets_zeros(backend, dtype, dim):
    inputs = draw_inputs(0, attention_shapes(3, 1, dim), dtype)
    out, *gradients = values_and_gradients(
        lambda *x: graph_attention(structure_of([3], [(0, 1, 0), (1, 1, 0)]), *x, backend=backend), inputs
    )
    assert (out[[0, 2]] == 0).all()
    assert (out[1] != 0).any()
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][2] == 0).all()


@backends
@pytest.mark.parametrize("counts", [[0], [1], [2, 0, 1]])
def test_graphs_without_edges(backend, counts):
    inputs = draw_inputs(0, attention_shapes(sum(counts), 3, 4))
    results = values_and_gradients(lambda *x: graph_attention(structure_of(counts, []), *x, backend=backend), inputs)
    assert results[0].shape == (sum(counts), 3, 4)
    assert all((x == 0).all() for x in results)


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_in_edge_copies_its_source_whatever_the_score(backend, dtype):
    feat, source, destination = draw_inputs(0, attention_shapes(3, 3, 4), dtype, scale=1e4)
    out = graph_attention(structure_of([3], [(2, 0, 1)]), feat, source, destination, backend=backend)
    torch.testing.assert_close(out[0], feat[2])


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_enormous_scores_are_a_choice_and_not_an_overflow(backend, dtype):
    feat, _, _ = draw_inputs(0, attention_shapes(4, 1, 8), dtype)
    source = torch.tensor([[1e4], [-1e4], [9e3], [0.0]], dtype=dtype, requires_grad=True)
    for offset in (-1e4, 0.0, 1e4):
        destination = torch.full((4, 1), offset, dtype=dtype, requires_grad=True)
        out, *gradients = values_and_gradients(
            lambda *x: graph_attention(structure_of([4], [(0, 3, 0), (1, 3, 0), (2, 3, 0)]), *x, backend=backend),
            [feat, source, destination],
        )
        torch.testing.assert_close(out[3], feat[0].detach())
        assert all(g.isfinite().all() for g in gradients)


@backends
def test_parallel_edges_count_twice(backend):
    inputs = draw_inputs(3, attention_shapes(3, 2, 4))
    edges = [(0, 2, 0), (0, 2, 0), (0, 2, 1), (1, 2, 0)]
    out = graph_attention(structure_of([3], edges), *inputs, backend=backend)
    expected = attention_oracle(edges, *(x.detach() for x in inputs), 0.2)
    torch.testing.assert_close(out.detach(), expected)


@backends
def test_weights_sum_to_one(backend):
    structure = structure_of([3], [(j, i, 0) for i in range(3) for j in range(3)])
    _, source, destination = draw_inputs(0, attention_shapes(3, 2, 1))
    out = graph_attention(structure, torch.ones(3, 2, 5, dtype=torch.float64), source, destination, backend=backend)
    torch.testing.assert_close(out, torch.ones_like(out))


@backends
def test_takes_a_dgl_graph(backend):
    graph = dgl.heterograph({("p", "b", "p"): ([0, 1], [1, 1]), ("p", "a", "p"): ([2], [1])}, {"p": 4})
    structure = GraphStructure.from_edges(
        torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1]), torch.tensor([1, 1, 0]), ["a", "b"], torch.tensor([4])
    )
    inputs = draw_inputs(0, attention_shapes(4, 2, 3))
    out = [graph_attention(g, *inputs, backend=backend) for g in (graph, structure)]
    torch.testing.assert_close(*out, rtol=0, atol=0)


def test_agrees_with_the_gat_layer_of_dgl():
    structure = structure_of([5], [(j, i, 0) for i in range(5) for j in range(5) if (i + j) % 3], types=1)
    layer = dgl.nn.GATConv(6, 4, 3, bias=False)
    x = torch.randn(5, 6)
    feat = layer.fc(x).view(5, 3, 4)
    scores = [(feat * a).sum(-1) for a in (layer.attn_l, layer.attn_r)]
    torch.testing.assert_close(graph_attention(structure, feat, *scores), layer(structure.to_dgl(), x))


def test_a_message_names_the_shapes():
    feat, source, destination = draw_inputs(0, attention_shapes(3, 2, 4))
    with pytest.raises(ValueError, match=r"the graph has 2 nodes; feat \(3, 2, 4\), score_src \(3, 2\)"):
        graph_attention(structure_of([2], []), feat, source, destination)
