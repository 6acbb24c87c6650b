import pytest
import torch

from relgrounding.nn import EdgeSimilarity, RelationalComparison
from tests.nn.test_relation import COUNTS, EDGES, features, gradients, structure_of
from tests.ops.cases import comparison_oracle

FORWARD = sorted(EDGES, key=lambda edge: (edge[1], edge[0], edge[2]))
backends = pytest.mark.parametrize("backend", ["naive", "auto", "dgl", "cpp", "dense", "csr"])


def layer_of(backend="auto", dim=6):
    """A layer that speaks: none of its weights is zero."""
    layer = RelationalComparison(5, 4, 3, num_types=3, dim=dim, backend=backend).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def language(nodes=7):
    return [torch.randn(nodes, width, dtype=torch.float64, requires_grad=True) for width in (4, 3)]


def bias_of(edges=7):
    return torch.randn(edges, dtype=torch.float64, requires_grad=True)


@backends
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_log_odds_are_the_formula(backend, with_bias):
    layer, x, (c, q), bias = layer_of(backend), features(), language(), bias_of() if with_bias else None
    r, gates = layer(structure_of(EDGES[::-1]), x, layer.share(c, q), bias, return_gates=True)
    type_gate, w = q @ layer.type_gate.weight.T + layer.type_gate.bias, layer.score.weight[0]
    message, gate = x @ layer.message.weight.T + layer.message.bias, x @ layer.gate.weight[0]
    m = comparison_oracle(EDGES, message, gate, type_gate, layer.type_bias, bias)
    m = m + x @ layer.itself.weight.T + layer.itself.bias
    expected = ((m @ layer.hidden.weight.T + layer.hidden.bias).relu() * (c @ layer.context.weight.T)) @ w
    expected = expected + layer.score.bias
    torch.testing.assert_close(r, expected)
    leaves = [x, c, q, *([bias] if with_bias else []), *layer.parameters()]
    torch.testing.assert_close(gradients([r], leaves), gradients([expected], leaves))
    opened = [torch.sigmoid(gate[j] + type_gate[i, t]) for j, i, t in FORWARD]
    if with_bias:
        opened = [torch.sigmoid(torch.logit(g) + b) for g, b in zip(opened, bias, strict=True)]
    torch.testing.assert_close(gates, torch.stack(opened))


@backends
def test_finite_differences_agree_twice(backend):
    layer, structure = layer_of(backend), structure_of()

    def run(x, c, q, bias):
        return layer(structure, x, layer.share(c, q), bias, return_gates=True)

    assert torch.autograd.gradcheck(run, (features(), *language(), bias_of()))
    assert torch.autograd.gradgradcheck(run, (features(), *language(), bias_of()), fast_mode=True)


def test_silent_at_first_and_silent_without_edges():
    layer, x, share = layer_of(), features(), torch.randn(7, 9, dtype=torch.float64)
    torch.testing.assert_close(layer.silent(x, share), layer(structure_of([]), x, share))
    assert (layer.silent(x, share) != layer(structure_of(), x, share))[[0, 1, 5]].all()
    layer.reset_parameters()
    assert (layer(structure_of(), x, share) == 0).all()
    gates = layer(structure_of(), 0 * x, layer.share(*language()), return_gates=True)[1]
    torch.testing.assert_close(gates, torch.full_like(gates, -2.0).sigmoid(), msg="Q q and a . x do not speak yet")


@backends
def test_a_bias_of_minus_infinity_takes_an_edge_out(backend):
    layer, x, keep = layer_of(backend), features(), torch.tensor([True, False, True, True, False, False, True])
    share = layer.share(*language())
    bias = torch.zeros(7, dtype=torch.float64).masked_fill(~keep, -torch.inf)
    found = layer(structure_of(), x, share, bias, return_gates=True)
    expected = layer(structure_of().keep_edges(keep), x, share, return_gates=True)
    torch.testing.assert_close((found[0], found[1][keep]), expected)
    leaves = [x, *layer.parameters()]
    torch.testing.assert_close(
        *(torch.autograd.grad(r.sum(), leaves, retain_graph=True) for r in (found[0], expected[0]))
    )
    assert (found[1][~keep] == 0).all()


@backends
def test_the_rest_of_the_batch_does_not_matter(backend):
    layer, structure, x, share = layer_of(backend), structure_of(), features(), layer_of().share(*language())
    items = [structure.select(torch.tensor([i])) for i in range(3)]
    alone = [layer(item, *rows) for item, *rows in zip(items, x.split(COUNTS), share.split(COUNTS), strict=True)]
    torch.testing.assert_close(torch.cat(alone), layer(structure, x, share))


def test_the_share_of_a_mean_is_the_mean_of_the_shares():
    layer, weights = layer_of(), torch.rand(2, 7, dtype=torch.float64).softmax(1)
    c, q = language()
    torch.testing.assert_close(weights @ layer.share(c, q), layer.share(weights @ c, weights @ q))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_results_have_the_type_of_x_under_autocast(dtype):
    layer, x, words = layer_of().float(), features().detach().to(dtype).requires_grad_(), language()
    words, bias = [w.detach().float() for w in words], bias_of().detach().float()
    exact = layer.double()(
        structure_of(), x.double(), layer.share(*(w.double() for w in words)), bias.double(), return_gates=True
    )
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        share = layer.share(*words)
        found, silent = layer(structure_of(), x, share, bias, return_gates=True), layer.silent(x, share)
    assert {t.dtype for t in (*found, silent)} == {dtype}
    found[0].float().sum().backward()
    assert x.grad.dtype == dtype
    torch.testing.assert_close(tuple(t.double() for t in found), exact, rtol=0.1, atol=0.3)


def test_similarity_is_a_scaled_cosine():
    similar, h = EdgeSimilarity(5, dim=4, scale=3.0).double(), features()
    keys, structure = similar.keys(h), structure_of()
    p = similar.linear.weight
    torch.testing.assert_close(p @ p.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)
    ends = [((p @ h[i]), (p @ h[j])) for j, i, _ in FORWARD]
    expected = torch.stack([3 * torch.cosine_similarity(a, b, 0) for a, b in ends])
    found = similar(structure, keys)
    torch.testing.assert_close(found, expected)
    leaves = [h, p]
    torch.testing.assert_close(gradients([found], leaves), gradients([expected], leaves))
    assert torch.autograd.gradcheck(lambda h, s: s * similar(structure, similar.keys(h)), (h, bias_of()))
    assert similar.keys(0 * h).isfinite().all()


def test_misuse_is_one_sentence():
    layer, x = layer_of(), features()
    share = layer.share(*language())
    with pytest.raises(ValueError, match=r"^the graph has 3 edge types, the layer was made for 11; make it with"):
        RelationalComparison(5, 4, 3, num_types=11).double()(structure_of(), x, share)
    with pytest.raises(ValueError, match=r"^the graph has 7 nodes; x has 6 rows, and share 6$"):
        layer(structure_of(), x[:6], share[:6])
    with pytest.raises(ValueError, match=r"^edge_bias has the shape \(5,\), the graph has 7 edges; give \(7,\)$"):
        layer(structure_of(), x, share, bias_of(5))
    with pytest.raises(ValueError, match=r"^unknown backend 'fast'; the backends are auto, naive, "):
        layer_of("fast")
    with pytest.raises(
        ValueError, match=r"^the graph has 7 nodes; keys have the shape \(6, 32\) .* \(nodes, dim\) floats$"
    ):
        EdgeSimilarity(5).double()(structure_of(), torch.randn(6, 32).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_keys_of_tiny_features_have_length_one_and_of_none_zero(dtype):
    similar, x = EdgeSimilarity(5).to(dtype), features().detach().to(dtype)
    smallest = 1e-30 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(
        similar.keys(x * smallest).norm(dim=-1), torch.ones(len(x), dtype=dtype), rtol=0, atol=1e-2
    )
    assert similar.keys(x * 0).tolist() == [[0.0] * 32] * len(x)
