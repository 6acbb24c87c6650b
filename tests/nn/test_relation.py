import importlib

import pytest
import torch

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure, spatial_structure, temporal_structure
from relgrounding.nn import EdgeGatedGCN, GatedSum, GraphAttention

EDGES = [(0, 1, 0), (2, 1, 0), (2, 1, 1), (1, 1, 1), (1, 0, 2), (2, 0, 1), (4, 5, 2)]
COUNTS = [4, 2, 1]
KINDS = {
    "attention": lambda **options: GraphAttention(5, 6, 3, **options).double(),
    "gated": lambda **options: EdgeGatedGCN(5, 6, 3, **options).double(),
    "sum": lambda **options: GatedSum(5, 6, 3, **options).double(),
}
COLUMNS = {"attention": 3, "gated": 2, "sum": 1}
layers = pytest.mark.parametrize("kind", KINDS)
backends = pytest.mark.parametrize("backend", ["naive", "auto", "dgl", "cpp", "dense", "csr"])
# With these options all backends but naive run the same code.
both = pytest.mark.parametrize("backend", ["naive", "auto"])

orders = pytest.mark.parametrize("edges", [EDGES, EDGES[::-1], [EDGES[i] for i in (3, 5, 0, 6, 2, 4, 1)]])


def structure_of(edges=EDGES, counts=COUNTS):
    columns = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).unbind(1)
    return GraphStructure.from_edges(*(c.contiguous() for c in columns), ["a", "b", "c"], torch.tensor(counts))


def features(nodes=7, width=5):
    return torch.randn(nodes, width, dtype=torch.float64, requires_grad=True)


def gradients(out, leaves):
    return torch.autograd.grad(sum((x.sin() * (i + 1)).sum() for i, x in enumerate(out)), leaves)


@backends
@layers
def test_gradcheck(kind, backend):
    layer, structure = KINDS[kind](backend=backend), structure_of()
    assert torch.autograd.gradcheck(lambda x: layer(structure, x), features())


@both
@layers
@orders
def test_the_order_of_edges_and_the_rest_of_the_batch_do_not_matter(kind, backend, edges):
    layer, structure, x = KINDS[kind](backend=backend), structure_of(edges), features()
    out, weights = layer(structure, x, return_attention=True)
    for found, expected in zip((out, weights), layer(structure_of(), x, return_attention=True), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    items = [structure.select(torch.tensor([i])) for i in range(3)]
    alone = [layer(item, rows, return_attention=True) for item, rows in zip(items, x.split(COUNTS), strict=True)]
    torch.testing.assert_close((out, weights), tuple(torch.cat(parts) for parts in zip(*alone, strict=True)))
    plain = torch.cat([layer(item, rows) for item, rows in zip(items, x.split(COUNTS), strict=True)])
    torch.testing.assert_close(layer(structure, x), plain)


@layers
def test_numbering_the_nodes_differently_moves_the_rows_only(kind):
    layer, x, p = KINDS[kind](), torch.randn(4, 5, dtype=torch.float64), [2, 0, 3, 1]
    edges = [e for e in EDGES if max(e[:2]) < 4]
    moved = [(p[s], p[d], r) for s, d, r in edges]
    x_moved = torch.empty_like(x)
    x_moved[p] = x
    torch.testing.assert_close(layer(structure_of(moved, [4]), x_moved)[p], layer(structure_of(edges, [4]), x))


@backends
@layers
@pytest.mark.parametrize("counts", [[0], [1], [3]])
def test_a_proposal_without_neighbours_is_defined(kind, backend, counts):
    layer = KINDS[kind](backend=backend)
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
    layer, x = KINDS[kind](), torch.randn(3, 5, dtype=torch.float64)
    edges = [(i, i, 0) for i in range(3)] if kind == "attention" else []
    torch.testing.assert_close(layer.silent(x), layer(structure_of(edges, [3]), x))


@backends
@pytest.mark.parametrize("kind", [EdgeGatedGCN, GatedSum])
def test_a_graph_of_other_edge_types_is_refused(kind, backend):
    layer = kind(5, 6, 11, backend=backend)
    with pytest.raises(
        ValueError, match="the graph has 3 edge types, the layer was made for 11; make it with num_types=3"
    ):
        layer(structure_of(), torch.randn(7, 5))


def test_an_image_of_one_box_and_a_video_of_one_moment():
    one_box = spatial_structure(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), (8, 8))
    assert EdgeGatedGCN(5, 6, 11)(one_box, torch.randn(1, 5)).isfinite().all()
    x, layer = torch.randn(1, 5), GraphAttention(5, 6, 2)
    one_moment = temporal_structure(torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(layer(one_moment, x), layer.linear(x) + layer.bias)


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


@pytest.mark.parametrize(("heads", "piece"), [(1, 1), (2, 1), (2, 9), (3, 2**18)])
def test_attention_in_pieces_of_items_and_heads_gives_the_same_and_leaves_the_gradient_alone(heads, piece, monkeypatch):
    scored = importlib.import_module("relgrounding.ops.graph_attention.layer_csr")
    layer, structure = GraphAttention(5, 6, heads, backend="csr").double(), structure_of()
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


@backends
@layers
@pytest.mark.parametrize("edges", [EDGES, []], ids=["edges", "no edges"])
def test_values_weights_and_all_gradients_are_those_of_naive(kind, backend, edges):
    structure, x = structure_of(edges), features()
    bias = torch.randn(len(edges), COLUMNS[kind], dtype=torch.float64, requires_grad=True)
    layer, naive = KINDS[kind](backend=backend), KINDS[kind](backend="naive")
    naive.load_state_dict(layer.state_dict())
    out, weights = layer(structure, x, return_attention=True)
    assert weights.shape == (len(edges), COLUMNS[kind])
    plain = [run(structure, x) for run in (layer, naive)]
    torch.testing.assert_close(plain, [out, out])
    torch.testing.assert_close(
        *(gradients([out], [x, *run.parameters()]) for out, run in zip(plain, (layer, naive), strict=True))
    )
    results = [run(structure, x, edge_bias=bias, return_attention=True) for run in (layer, naive)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(
        *(gradients(out, [x, bias, *run.parameters()]) for out, run in zip(results, (layer, naive), strict=True))
    )


@both
@layers
def test_finite_differences_agree_twice(kind, backend):
    layer, structure = KINDS[kind](backend=backend), structure_of()
    bias = torch.randn(7, COLUMNS[kind], dtype=torch.float64, requires_grad=True)

    def run(x, bias):
        return layer(structure, x, edge_bias=bias, return_attention=True)

    assert torch.autograd.gradcheck(run, (features(), bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (features(), bias), fast_mode=True)


@both
@layers
def test_weights_are_the_formula_in_the_forward_order_and_make_the_output(kind, backend):
    layer, structure, x = KINDS[kind](backend=backend), structure_of(EDGES[::-1]), features()
    out, weights = layer(structure, x, return_attention=True)
    source, target, etype = structure.indices, structure.destinations, structure.etype
    expected = torch.zeros_like(out)
    if kind == "attention":
        feat = layer.linear(x).unflatten(1, (3, 2))
        logit = (layer.attention[0] * feat)[source].sum(2) + (layer.attention[1] * feat)[target].sum(2)
        logit = torch.nn.functional.leaky_relu(logit, 0.2)
        rows = [torch.softmax(logit[target == i], 0) for i in range(7)]
        torch.testing.assert_close(weights, torch.cat(rows))
        expected = expected.index_add(0, target, (weights.unsqueeze(2) * feat[source]).flatten(1)) + layer.bias
    else:
        directions = [(source, target), (target, source)][: layer.ways]
        for way, (j, i) in enumerate(directions):
            linear, gate = layer.parts[way], layer.parts[way - layer.ways]
            opened = torch.sigmoid((x @ gate.T)[j, 0] + layer.gate_bias[way][etype])
            torch.testing.assert_close(weights[:, way], opened)
            messages = opened[:, None] * (x[j] @ linear.T + layer.type_bias[way][etype])
            expected = expected.index_add(0, i, messages)
        assert ((weights > 0) & (weights < 1)).all()
    if kind == "gated":
        expected = (expected + x @ layer.parts[2].T + layer.bias).relu()
    torch.testing.assert_close(out, expected)
    leaves = [x, *layer.parameters()]
    torch.testing.assert_close(gradients([layer(structure, x)], leaves), gradients([expected], leaves))


@layers
@pytest.mark.parametrize("return_attention", [False, True])
def test_takes_a_dgl_graph(kind, return_attention):
    layer, structure, x = KINDS[kind](), structure_of(), features()
    results = [layer(graph, x, return_attention=return_attention) for graph in (structure, structure.to_dgl())]
    torch.testing.assert_close(*results)


@layers
def test_a_second_call_with_a_dgl_graph_converts_nothing_until_its_edges_change(kind, monkeypatch):
    layer, structure, x = KINDS[kind](), structure_of(), features()
    graph = structure.to_dgl()
    first = layer(graph, x)
    with monkeypatch.context() as patch:
        patch.setattr(GraphStructure, "from_edges", lambda *_, **__: pytest.fail("converted again"))
        assert torch.equal(layer(graph, x), first)
    graph.add_edges([0], [2], etype=structure.edge_types[1])
    columns = (structure.indices, structure.destinations, structure.etype)
    more = [torch.cat([column, torch.tensor([value])]) for column, value in zip(columns, (0, 2, 1), strict=True)]
    changed = layer(graph, x)
    expected = GraphStructure.from_edges(*more, structure.edge_types, structure.batch_num_nodes)
    torch.testing.assert_close(changed, layer(expected, x))
    assert not torch.allclose(changed, first)


@both
@layers
@pytest.mark.parametrize("taken", [[0], [0, 1, 2, 3], range(7)])
def test_a_bias_of_minus_infinity_takes_an_edge_out(kind, backend, taken):
    layer, structure, x = KINDS[kind](backend=backend), structure_of(), features()
    keep = torch.ones(7, dtype=torch.bool)
    keep[list(taken)] = False
    bias = torch.zeros(7, dtype=torch.float64).masked_fill(~keep, -torch.inf)
    out, weights = layer(structure, x, edge_bias=bias, return_attention=True)
    expected = layer(structure.keep_edges(keep), x, return_attention=True)
    assert (weights[~keep] == 0).all()
    torch.testing.assert_close((out, weights[keep]), expected)
    leaves = [x, *layer.parameters()]
    torch.testing.assert_close(gradients([out], leaves), gradients(expected[:1], leaves))


@layers
def test_one_bias_per_edge_counts_for_every_column(kind):
    layer, structure, x = KINDS[kind](), structure_of(), features()
    bias = torch.randn(7, dtype=torch.float64)
    results = [layer(structure, x, edge_bias=b) for b in (bias, bias[:, None].expand(7, COLUMNS[kind]))]
    torch.testing.assert_close(*results, rtol=0, atol=0)


@both
@layers
def test_dropout_of_weights_is_that_of_naive_and_only_in_training(kind, backend):
    structure, x, results = structure_of(), features(), []
    layer = KINDS[kind](attn_drop=0.5)
    plain = layer.eval()(structure, x)
    for name in (backend, "naive"):
        layer.backend = name
        torch.manual_seed(3)
        results.append(layer.train()(structure, x, return_attention=True))
        torch.testing.assert_close(layer.eval()(structure, x), plain)
    torch.testing.assert_close(*results)
    assert not torch.equal(results[0][0], plain)
    torch.testing.assert_close(results[0][1], layer.eval()(structure, x, return_attention=True)[1])
    layer.attn_drop = 1.0
    expected = layer.bias.expand(7, 6) if kind == "attention" else layer.silent(x)
    torch.testing.assert_close(layer.train()(structure, x), expected)


@layers
@pytest.mark.parametrize("out_dim", [5, 10])
def test_residual_and_dropout_of_features(kind, out_dim):
    make = {"attention": GraphAttention, "gated": EdgeGatedGCN, "sum": GatedSum}[kind]
    heads = 5 if kind == "attention" else 3
    layer = make(5, out_dim, heads, residual=True, feat_drop=0.5).double()
    plain, structure, x = make(5, out_dim, heads).double(), structure_of(), features()
    names = plain.load_state_dict(layer.state_dict(), strict=False)
    assert names.unexpected_keys == (["residual.weight"] if out_dim == 10 else [])
    torch.manual_seed(3)
    dropped = torch.nn.functional.dropout(x, 0.5)
    for run, simple in ((layer, plain), (layer.silent, plain.silent)):
        inputs = (x,) if run is not layer else (structure, x)
        for training, seen in ((True, dropped), (False, x)):
            layer.train(training)
            torch.manual_seed(3)
            expected = simple(*inputs[:-1], seen) + (seen @ layer.residual.weight.T if out_dim == 10 else seen)
            torch.testing.assert_close(run(*inputs), expected)


@layers
def test_a_state_dict_of_a_layer_without_options(kind):
    gated = ["bias", "gate_bias", "type_bias", "weight"]
    names = {"attention": ["attention", "bias", "linear.weight"], "gated": gated, "sum": gated[1:]}
    for options in ({}, {"feat_drop": 0.1, "attn_drop": 0.1}):
        assert sorted(KINDS[kind](**options).state_dict()) == names[kind]


def test_print_shows_the_settings():
    layer = GraphAttention(5, 6, 3, backend="csr", residual=True, attn_drop=0.1)
    settings = "in_dim=5, out_dim=6, num_heads=3, negative_slope=0.2, residual=True, attn_drop=0.1, backend='csr'"
    assert layer.extra_repr() == settings
    assert repr(EdgeGatedGCN(5, 6, 3)) == "EdgeGatedGCN(in_dim=5, out_dim=6, num_types=3, backend='auto')"


@both
@layers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_has_the_type_of_x_under_autocast(kind, backend, dtype):
    layer, structure = KINDS[kind](backend=backend, residual=True).float(), structure_of()
    x = features().detach().to(dtype).requires_grad_()
    exact = layer.double()(structure, x.double(), return_attention=True)
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, found, silent = layer(structure, x), layer(structure, x, return_attention=True), layer.silent(x)
        assert {t.dtype for t in (plain, *found, silent)} == {dtype}
        plain.float().sum().backward()
    for result in (found, (plain, found[1])):
        torch.testing.assert_close(tuple(t.double() for t in result), exact, rtol=0.05, atol=0.05)
    assert x.grad.dtype == dtype
    assert {p.grad.dtype for p in layer.parameters() if p.grad is not None} == {torch.float32}


@layers
@pytest.mark.usefixtures("_unchecked_types")
def test_misuse_is_one_sentence(kind):
    layer, structure, x = KINDS[kind](), structure_of(), features()
    name, edge_index = type(layer).__name__, torch.stack([structure.indices, structure.destinations])
    for graph in (structure, dgl.graph(([0], [1]))):
        with pytest.raises(TypeError, match=rf"^{name}: the graph is the first argument; call layer\(graph, x\)$"):
            layer(x, graph)
    remedy = (
        r"give a DGLGraph or a GraphStructure: graphs\.from_pyg makes one of a PyG graph, or of an edge_index and "
        r"num_nodes; graphs\.GraphStructure\.from_edges of sources and destinations$"
    )
    for wrong in (edge_index, ([0], [1]), [[0], [1]]):
        with pytest.raises(TypeError, match=rf"^the graph is a {type(wrong).__name__}; {remedy}"):
            layer(wrong, x)
    with pytest.raises(TypeError, match=rf"^{name}: x is a list; give a float tensor of shape \(nodes, 5\)$"):
        layer(structure, x.tolist())
    with pytest.raises(ValueError, match=r"^edge_bias has the shape \(5,\), the graph has 7 edges; give \(7,\) or"):
        layer(structure, x, edge_bias=torch.zeros(5))
    with pytest.raises(ValueError, match=r"the graph has 7 nodes, the features have 6 rows$"):
        layer(structure, x[:6], return_attention=True)
    with pytest.warns(DeprecationWarning, match=rf"call {name}\.silent\(x\)$"):
        assert torch.equal(layer(None, x), layer.silent(x))


@layers
def test_settings_are_checked_when_a_layer_is_made(kind):
    with pytest.raises(ValueError, match=r"^unknown backend 'fast'; the backends are auto, naive, cpp, csr, dense"):
        KINDS[kind](backend="fast")
    with pytest.raises(ValueError, match="out_dim 6 is not a multiple of num_heads 4; choose one that is"):
        GraphAttention(5, 6, 4)
    with pytest.raises(ValueError, match=r"^attn_drop 1\.5 is not a share from 0 to 1$"):
        KINDS[kind](attn_drop=1.5)
