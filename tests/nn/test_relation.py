import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.graphs import GraphStructure, spatial_structure, temporal_structure
from relgrounding.nn import EdgeGatedGCN, GatedSum, GraphAttention

EDGES = [(0, 1, 0), (2, 1, 0), (2, 1, 1), (1, 1, 1), (1, 0, 2), (4, 5, 2)]
COUNTS = [4, 2, 1]
backends = pytest.mark.parametrize("backend", ["naive", "dgl", "cpp", "dense", "csr"])


def structure_of(edges, counts):
    columns = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).unbind(1)
    return GraphStructure.from_edges(*(c.contiguous() for c in columns), ["a", "b", "c"], torch.tensor(counts))


def make(kind, backend="auto"):
    if kind == "attention":
        return GraphAttention(5, 6, 3, backend=backend).double()
    return (GatedSum if kind == "sum" else EdgeGatedGCN)(5, 6, 3, backend=backend).double()


layers = pytest.mark.parametrize("kind", ["attention", "gated", "sum"])


def attention_loop(layer, edges, x):
    feat = (x @ layer.linear.weight.T).view(len(x), layer.num_heads, -1)
    out = torch.zeros_like(feat)
    for i in range(len(x)):
        sources = [s for s, d, _ in edges if d == i]
        for k in range(layer.num_heads):
            a_src, a_dst = layer.attention[:, k]
            logits = [a_src @ feat[j, k] + a_dst @ feat[i, k] for j in sources]
            weights = [torch.exp(z if z > 0 else layer.negative_slope * z) for z in logits]
            for j, weight in zip(sources, weights, strict=True):
                out[i, k] += weight / sum(weights) * feat[j, k]
    return out.flatten(1) + layer.bias


def gated_loop(layer, edges, x):
    w_in, w_out, w_self, gate_in, gate_out = layer.parts
    directions = [(w_in, gate_in, *(p[0] for p in (layer.gate_bias, layer.type_bias)))]
    directions += [(w_out, gate_out, *(p[1] for p in (layer.gate_bias, layer.type_bias)))]
    out = x @ w_self.T + layer.bias
    for source, destination, r in edges:
        for part, j, i in zip(directions, (source, destination), (destination, source), strict=True):
            weight, gate, gate_bias, type_bias = part
            message = torch.sigmoid(gate[0] @ x[j] + gate_bias[r]) * (weight @ x[j] + type_bias[r])
            out = out + message * torch.eye(len(x), dtype=x.dtype)[i].unsqueeze(1)
    return out.relu()


def sum_loop(layer, edges, x):
    weight, gate = layer.parts
    out = torch.zeros(len(x), layer.out_dim, dtype=x.dtype)
    for j, i, r in edges:
        message = torch.sigmoid(gate[0] @ x[j] + layer.gate_bias[0, r]) * (weight @ x[j] + layer.type_bias[0, r])
        out = out + message * torch.eye(len(x), dtype=x.dtype)[i].unsqueeze(1)
    return out


@backends
@layers
def test_equals_a_loop_with_all_gradients(kind, backend):
    layer = make(kind, backend)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    loop = {"attention": attention_loop, "gated": gated_loop, "sum": sum_loop}[kind]
    results = [layer(structure_of(EDGES, COUNTS), x), loop(layer, EDGES, x)]
    weight = torch.randn(7, 6, dtype=torch.float64)
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()]) for out in results]
    torch.testing.assert_close(*gradients)


@backends
@layers
def test_gradcheck(kind, backend):
    layer, structure = make(kind, backend), structure_of(EDGES, COUNTS)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(structure, x), x)


@layers
@given(seed=st.integers(0, 99), edges=st.permutations(EDGES))
def test_the_order_of_edges_and_the_rest_of_the_batch_do_not_matter(kind, seed, edges):
    torch.manual_seed(seed)
    layer, structure = make(kind), structure_of(edges, COUNTS)
    x = torch.randn(7, 5, dtype=torch.float64)
    out = layer(structure, x)
    torch.testing.assert_close(out, layer(structure_of(EDGES, COUNTS), x), rtol=0, atol=0)
    alone = [layer(structure.select(torch.tensor([i])), item) for i, item in enumerate(x.split(COUNTS))]
    torch.testing.assert_close(out, torch.cat(alone))


@layers
def test_numbering_the_nodes_differently_moves_the_rows_only(kind):
    layer, x, p = make(kind), torch.randn(4, 5, dtype=torch.float64), [2, 0, 3, 1]
    edges = [e for e in EDGES if max(e[:2]) < 4]
    moved = [(p[s], p[d], r) for s, d, r in edges]
    x_moved = torch.empty_like(x)
    x_moved[p] = x
    torch.testing.assert_close(layer(structure_of(moved, [4]), x_moved)[p], layer(structure_of(edges, [4]), x))


@layers
def test_takes_a_dgl_graph(kind):
    layer, structure = make(kind), structure_of(EDGES, COUNTS)
    x = torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(structure.to_dgl(), x), layer(structure, x))


@backends
@layers
@pytest.mark.parametrize("counts", [[0], [1], [3]])
def test_a_proposal_without_neighbours_is_defined(kind, backend, counts):
    layer = make(kind, backend)
    x = torch.randn(sum(counts), 5, dtype=torch.float64)
    out = layer(structure_of([], counts), x)
    assert out.shape == (sum(counts), 6)
    if kind == "gated":
        torch.testing.assert_close(out, (x @ layer.parts[2].T + layer.bias).relu())
    if kind == "sum":
        assert (out == 0).all()
    alone = layer.bias.expand(len(x), 6) if kind == "attention" else layer.silent(x)
    torch.testing.assert_close(out, alone)
    out.sum().backward()


@layers
def test_silent_is_what_a_node_gets_from_itself_alone(kind):
    layer, x = make(kind), torch.randn(3, 5, dtype=torch.float64)
    edges = [(i, i, 0) for i in range(3)] if kind == "attention" else []
    torch.testing.assert_close(layer.silent(x), layer(structure_of(edges, [3]), x))


@backends
@pytest.mark.parametrize("kind", [EdgeGatedGCN, GatedSum])
def test_a_graph_of_other_edge_types_is_refused(kind, backend):
    layer = kind(5, 6, 11, backend=backend)
    with pytest.raises(
        ValueError, match="the graph has 3 edge types, the layer was made for 11; make it with num_types=3"
    ):
        layer(structure_of(EDGES, COUNTS), torch.randn(7, 5))


def test_an_image_of_one_box_and_a_video_of_one_moment():
    one_box = spatial_structure(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), (8, 8))
    assert EdgeGatedGCN(5, 6, 11)(one_box, torch.randn(1, 5)).isfinite().all()
    x, layer = torch.randn(1, 5), GraphAttention(5, 6, 2)
    one_moment = temporal_structure(torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(layer(one_moment, x), layer.linear(x) + layer.bias)


def test_two_layers_make_a_relation_module_that_trains():
    structure = structure_of(EDGES, COUNTS)
    layers = [GraphAttention(5, 8, 2), GraphAttention(8, 1, 1)]
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer, x = torch.optim.Adam(parameters, lr=0.05), torch.randn(7, 5)
    target, losses = torch.tensor([1.0, -1, 0, 0, 0, 1, 0]), []
    for _ in range(60):
        out = layers[1](structure, torch.nn.functional.elu(layers[0](structure, x))).squeeze(1)
        losses.append((out - target)[[0, 1, 5]].square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_weights_start_as_documented():
    attention = GraphAttention(32, 64, 4)
    gated, one_way = (kind(16, 400, 11, gate_init=-3.0) for kind in (EdgeGatedGCN, GatedSum))
    assert (attention.bias == 0).all()
    assert attention.attention.abs().max() <= (6 / 17) ** 0.5
    assert (gated.bias == 0).all()
    for layer in (gated, one_way):
        assert (layer.gate_bias == -3).all()
        torch.testing.assert_close(layer.type_bias[-1].std(), torch.tensor(1.0), rtol=0.1, atol=0)
    for part in (*gated.parts, *one_way.parts):
        bound = (6 / sum(part.shape)) ** 0.5
        assert 0.8 * bound < part.abs().max() <= bound
    assert not torch.equal(gated.parts[0], gated.parts[1])


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="out_dim 6 is not a multiple of num_heads 4; choose one that is"):
        GraphAttention(5, 6, 4)


@pytest.mark.parametrize(("heads", "piece"), [(1, 1), (2, 1), (2, 9), (3, 2**18)])
def test_attention_in_pieces_of_items_and_heads_gives_the_same_and_leaves_the_gradient_alone(heads, piece, monkeypatch):
    scored = importlib.import_module("relgrounding.ops.graph_attention.layer_csr")
    layer, structure = GraphAttention(5, 6, heads, backend="csr").double(), structure_of(EDGES, COUNTS)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    above = torch.randn(7, 6, dtype=torch.float64)
    results = []
    for backend, edges in (("naive", scored.PIECE), ("csr", piece)):
        layer.backend, grad = backend, above.clone()
        monkeypatch.setattr(scored, "PIECE", edges)
        out = layer(structure, x)
        results.append((out, *torch.autograd.grad(out, [x, *layer.parameters()], grad)))
        torch.testing.assert_close(grad, above, rtol=0, atol=0)
    torch.testing.assert_close(*results)
