"""Gradients of gradients: those of `naive` on every backend, and of finite differences in every module."""

import pytest
import torch

from relgrounding import nn, ops
from tests.ops.cases import penalised, structure_of

STRUCTURE = structure_of([4], [(0, 1, 0), (2, 1, 1), (1, 0, 2), (3, 3, 1), (0, 3, 0)])
LAYERS = {
    "GraphAttention": lambda backend: nn.GraphAttention(3, 4, 2, backend=backend),
    "GatedSum": lambda backend: nn.GatedSum(3, 4, 3, backend=backend),
    "EdgeGatedGCN": lambda backend: nn.EdgeGatedGCN(3, 4, 3, backend=backend),
}
layers = pytest.mark.parametrize("kind", LAYERS)
backends = pytest.mark.parametrize(
    "backend", ["auto", *(b for b in ops.backend_names() if b not in ("naive", "triton", "triton_dense"))]
)
LENGTHS, ITEM = torch.tensor([3, 1, 4]), torch.tensor([2, 0, 2, 1, 0])
SPANS = torch.tensor([[0, 4], [1, 3], [2, 3], [0, 1], [0, 3]])
MODULES = {
    "BiGRUEncoder": (lambda: nn.BiGRUEncoder(3, 2), [(3, 4, 3)], (LENGTHS,)),
    "ProposalPooling": (nn.ProposalPooling, [(3, 4, 2)], (SPANS, ITEM)),
    "ProposalToWordAttention": (lambda: nn.ProposalToWordAttention(3, 2, 4), [(5, 3), (3, 4, 2)], (LENGTHS, ITEM)),
    "GatedFusion": (lambda: nn.GatedFusion(2, 3), [(4, 2), (4, 3)], ()),
    "TopRScore": (lambda: nn.TopRScore(2), [(5,)], (torch.tensor([3, 2]),)),
    "ProposalPooling, mean": (lambda: nn.ProposalPooling("mean", 0.5), [(3, 4, 2)], (SPANS, ITEM)),
    "WordEmbedding": (lambda: nn.WordEmbedding(torch.ones(4, 2)), [], (torch.tensor([[0, 1, 3]]),)),
    "trained_embedding": (lambda: nn.trained_embedding(4, 2), [], (torch.tensor([[0, 1, 3]]),)),
}


def set_up(make, shapes):
    module = make().double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module, [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("name", MODULES)
def test_finite_differences_agree(name):
    make, shapes, rest = MODULES[name]
    module, inputs = set_up(make, shapes)
    names = [key for key, _ in module.named_parameters()]

    def function(*values):
        weights = dict(zip(names, values[len(shapes) :], strict=True))
        return torch.func.functional_call(module, weights, (*values[: len(shapes)], *rest))

    assert torch.autograd.gradgradcheck(function, [*inputs, *module.parameters()])


@backends
@layers
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("frozen", ["", "weight", "bias", "x"])
def test_layers_have_the_gradient_penalty_of_naive(kind, backend, linear, frozen):
    results = []
    for name in (backend, "naive"):
        torch.manual_seed(1)
        layer, x = LAYERS[kind](name).double(), torch.randn(4, 3, dtype=torch.float64, requires_grad=frozen != "x")
        for parameter, tensor in layer.named_parameters():
            tensor.requires_grad_(not frozen or frozen not in parameter)
        leaves = [t for t in (x, *layer.parameters()) if t.requires_grad]
        results.append(penalised(lambda x, run=layer: run(STRUCTURE, x), [x], leaves, linear))
    torch.testing.assert_close(*results)


@backends
@layers
def test_a_penalty_on_the_gradient_of_x_alone_as_wgan_gp_has_it(kind, backend):
    results = []
    for name in (backend, "naive"):
        torch.manual_seed(1)
        layer, x = LAYERS[kind](name).double(), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        value = layer(STRUCTURE, x).sum()
        (g,) = torch.autograd.grad(value, x, create_graph=True)
        (value + 10 * g.pow(2).sum()).backward()
        results.append([x.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*results)


@backends
@layers
def test_a_third_derivative_and_a_hessian(kind, backend):
    x, hessians = torch.randn(4, 3, dtype=torch.float64), []
    for name in (backend, "naive"):
        torch.manual_seed(1)
        layer = LAYERS[kind](name).double()
        of = torch.autograd.functional.hessian(lambda x, run=layer: run(STRUCTURE, x).sin().sum(), x, create_graph=True)
        hessians.append(of)
    torch.testing.assert_close(*hessians)
