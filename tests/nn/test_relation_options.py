"""Weights per edge, biases per edge, dropout, residual connections, types under autocast, and misuse."""

import jaxtyping
import pytest
import torch

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.nn import EdgeGatedGCN, GatedSum, GraphAttention

EDGES = [(0, 1, 0), (2, 1, 0), (2, 1, 1), (1, 1, 1), (1, 0, 2), (4, 5, 2)]
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


def structure_of(edges=EDGES, counts=COUNTS):
    columns = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).unbind(1)
    return GraphStructure.from_edges(*(c.contiguous() for c in columns), ["a", "b", "c"], torch.tensor(counts))


def features(nodes=7, width=5):
    return torch.randn(nodes, width, dtype=torch.float64, requires_grad=True)


def gradients(out, leaves):
    return torch.autograd.grad(sum((x.sin() * (i + 1)).sum() for i, x in enumerate(out)), leaves)


@backends
@layers
@pytest.mark.parametrize("edges", [EDGES, []], ids=["edges", "no edges"])
def test_weights_biases_and_gradients_are_those_of_naive_and_the_output_that_of_the_kernel(kind, backend, edges):
    structure, x = structure_of(edges), features()
    bias = torch.randn(len(edges), COLUMNS[kind], dtype=torch.float64, requires_grad=True)
    layer, naive = KINDS[kind](backend=backend), KINDS[kind](backend="naive")
    naive.load_state_dict(layer.state_dict())
    out, weights = layer(structure, x, return_attention=True)
    assert weights.shape == (len(edges), COLUMNS[kind])
    torch.testing.assert_close(out, layer(structure, x))
    results = [run(structure, x, edge_bias=bias, return_attention=True) for run in (layer, naive)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(
        *(gradients(out, [x, bias, *run.parameters()]) for out, run in zip(results, (layer, naive), strict=True))
    )


@both
@layers
def test_finite_differences_agree_twice(kind, backend):
    layer, structure = KINDS[kind](backend=backend), structure_of()
    bias = torch.randn(6, COLUMNS[kind], dtype=torch.float64, requires_grad=True)

    def run(x, bias):
        return layer(structure, x, edge_bias=bias, return_attention=True)

    assert torch.autograd.gradcheck(run, (features(), bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (features(), bias), fast_mode=True)


@both
@layers
@pytest.mark.parametrize("edges", [EDGES, EDGES[::-1], [EDGES[i] for i in (3, 5, 0, 2, 4, 1)]])
def test_weights_are_in_the_forward_order_and_make_the_output(kind, backend, edges):
    layer, structure, x = KINDS[kind](backend=backend), structure_of(edges), features()
    out, weights = layer(structure, x, return_attention=True)
    source, target, etype = structure.indices, structure.destinations, structure.etype
    expected = torch.zeros_like(out)
    if kind == "attention":
        feat = layer.linear(x).unflatten(1, (3, 2))
        messages = (weights.unsqueeze(2) * feat[source]).flatten(1)
        expected = expected.index_add(0, target, messages) + layer.bias
        rows = torch.zeros(7, 3, dtype=torch.float64).index_add(0, target, weights)
        torch.testing.assert_close(rows, (structure.indptr.diff() > 0).double()[:, None].expand(7, 3))
    else:
        assert ((weights > 0) & (weights < 1)).all()
        for way, (j, i) in enumerate([(source, target), (target, source)][: layer.ways]):
            messages = weights[:, way, None] * (x[j] @ layer.parts[way].T + layer.type_bias[way][etype])
            expected = expected.index_add(0, i, messages)
        if kind == "gated":
            expected = (expected + x @ layer.parts[2].T + layer.bias).relu()
    torch.testing.assert_close(out, expected)


@layers
def test_weights_of_a_batch_are_those_of_its_items(kind):
    layer, structure, x = KINDS[kind](), structure_of(), features()
    items = [structure.select(torch.tensor([i])) for i in range(3)]
    alone = [layer(item, rows, return_attention=True)[1] for item, rows in zip(items, x.split(COUNTS), strict=True)]
    torch.testing.assert_close(layer(structure, x, return_attention=True)[1], torch.cat(alone))


@layers
def test_weights_of_a_dgl_graph_are_those_of_its_structure(kind):
    layer, structure, x = KINDS[kind](), structure_of(), features()
    results = [layer(graph, x, return_attention=True) for graph in (structure, structure.to_dgl())]
    torch.testing.assert_close(*results)


@both
@layers
@pytest.mark.parametrize("taken", [[0], [0, 1, 2, 3], range(6)])
def test_a_bias_of_minus_infinity_takes_an_edge_out(kind, backend, taken):
    layer, structure, x = KINDS[kind](backend=backend), structure_of(), features()
    keep = torch.ones(6, dtype=torch.bool)
    keep[list(taken)] = False
    bias = torch.zeros(6, dtype=torch.float64).masked_fill(~keep, -torch.inf)
    out, weights = layer(structure, x, edge_bias=bias, return_attention=True)
    expected = layer(structure.keep_edges(keep), x, return_attention=True)
    assert (weights[~keep] == 0).all()
    torch.testing.assert_close((out, weights[keep]), expected)
    leaves = [x, *layer.parameters()]
    torch.testing.assert_close(gradients([out], leaves), gradients(expected[:1], leaves))


@layers
def test_one_bias_per_edge_counts_for_every_column(kind):
    layer, structure, x = KINDS[kind](), structure_of(), features()
    bias = torch.randn(6, dtype=torch.float64)
    results = [layer(structure, x, edge_bias=b) for b in (bias, bias[:, None].expand(6, COLUMNS[kind]))]
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


@pytest.fixture
def _unchecked_types():
    """As outside these tests, where only the library itself checks what it is given."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@layers
@pytest.mark.usefixtures("_unchecked_types")
def test_misuse_is_one_sentence(kind):
    layer, structure, x = KINDS[kind](), structure_of(), features()
    name, edge_index = type(layer).__name__, torch.stack([structure.indices, structure.destinations])
    for graph in (structure, dgl.graph(([0], [1]))):
        with pytest.raises(TypeError, match=rf"^{name}: the graph is the first argument; call layer\(graph, x\)$"):
            layer(x, graph)
    remedy = (
        r"give a DGLGraph or a GraphStructure: graphs\.from_pyg\(data\) makes one from a PyG graph, "
        r"graphs\.GraphStructure\.from_edges from sources and destinations$"
    )
    for wrong in (edge_index, ([0], [1]), [[0], [1]]):
        with pytest.raises(TypeError, match=rf"^the graph is a {type(wrong).__name__}; {remedy}"):
            layer(wrong, x)
    with pytest.raises(TypeError, match=rf"^{name}: x is a list; give a float tensor of shape \(nodes, 5\)$"):
        layer(structure, x.tolist())
    with pytest.raises(ValueError, match=r"^edge_bias has the shape \(5,\), the graph has 6 edges; give \(6,\) or"):
        layer(structure, x, edge_bias=torch.zeros(5))
    with pytest.raises(ValueError, match=r"the graph has 7 nodes, the features have 6 rows$"):
        layer(structure, x[:6], return_attention=True)
    with pytest.warns(DeprecationWarning, match=rf"call {name}\.silent\(x\)$"):
        assert torch.equal(layer(None, x), layer.silent(x))


@layers
def test_settings_are_checked_when_a_layer_is_made(kind):
    with pytest.raises(ValueError, match=r"^unknown backend 'fast'; the backends are auto, naive, cpp, csr, dense"):
        KINDS[kind](backend="fast")
    with pytest.raises(ValueError, match=r"^attn_drop 1\.5 is not a share from 0 to 1$"):
        KINDS[kind](attn_drop=1.5)
