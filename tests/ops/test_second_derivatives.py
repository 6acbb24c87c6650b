"""Gradients of gradients: those of `naive` on every backend, or an error; never a number that is wrong."""

import itertools

import pytest
import torch
from ops_oracles import attention_shapes, draw_inputs, gated_shapes, structure_of

from relgrounding import nn, ops

STRUCTURE = structure_of([4], [(0, 1, 0), (2, 1, 1), (1, 0, 2), (3, 3, 1), (0, 3, 0)])
BACKENDS = ["auto", "dgl", "cpp", "dense", "csr"]
backends = pytest.mark.parametrize("backend", BACKENDS)
CALLS = [(ops.graph_attention, attention_shapes(4, 2, 3)), (ops.gated_sum, gated_shapes(4, 3, 3))]
operators = pytest.mark.parametrize(("operator", "shapes"), CALLS, ids=["graph_attention", "gated_sum"])
LAYERS = {
    "GraphAttention": lambda backend: nn.GraphAttention(3, 4, 2, backend=backend),
    "GatedSum": lambda backend: nn.GatedSum(3, 4, 3, backend=backend),
    "EdgeGatedGCN": lambda backend: nn.EdgeGatedGCN(3, 4, 3, backend=backend),
}
layers = pytest.mark.parametrize("kind", LAYERS)


def penalised(function, inputs, wanted, linear):
    """Gradients of a value and of the penalty on its gradients, for an incoming gradient without and with its own."""
    out = function(*inputs)
    value = out.sum() if linear else out.square().sum()
    gradients = torch.autograd.grad(value, wanted, create_graph=True, materialize_grads=True)
    loss = value + 10 * sum(g.pow(2).sum() for g in gradients)
    return [loss.detach(), *torch.autograd.grad(loss, wanted, materialize_grads=True)]


@backends
@operators
@pytest.mark.parametrize("linear", [True, False])
def test_operators_have_the_gradient_penalty_of_naive_for_all_subsets_of_their_inputs(
    operator, shapes, backend, linear
):
    drawn = draw_inputs(0, shapes)
    for needed in itertools.product([False, True], repeat=len(shapes)):
        inputs = [x.detach().requires_grad_(need) for x, need in zip(drawn, needed, strict=True)]
        wanted = [x for x in inputs if x.requires_grad]
        if wanted:
            results = [
                penalised(lambda *x, b=name: operator(STRUCTURE, *x, backend=b), inputs, wanted, linear)
                for name in (backend, "naive")
            ]
            torch.testing.assert_close(*results)


@backends
@operators
def test_inputs_may_depend_on_each_other_and_be_strided(operator, shapes, backend):
    (x,) = draw_inputs(0, [(6, 40)])

    def function(x, name):
        pieces = x.T.sin().flatten()
        pieces = [pieces[i :: len(shapes)][: torch.Size(shape).numel()].view(shape) for i, shape in enumerate(shapes)]
        return operator(STRUCTURE, pieces[0], *(p * pieces[0].sum() for p in pieces[1:]), backend=name)

    results = [penalised(lambda x, b=name: function(x, b), [x], [x], False) for name in (backend, "naive")]
    torch.testing.assert_close(*results)


@backends
@operators
def test_finite_differences_agree(operator, shapes, backend):
    inputs = draw_inputs(0, shapes)
    assert torch.autograd.gradgradcheck(lambda *x: operator(STRUCTURE, *x, backend=backend), inputs)


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


@operators
def test_triton_refuses(operator, shapes, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed: its second derivative was not tried")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    drawn = draw_inputs(0, shapes, torch.float32)
    for i in range(len(drawn)):
        inputs = [x.detach().requires_grad_(i == k) for k, x in enumerate(drawn)]
        for linear in (True, False):
            # What no derivative depends on is zero with `naive`, and refused here.
            with pytest.raises(RuntimeError, match="'triton' has no second derivative; use backend='naive'"):
                penalised(lambda *x: operator(STRUCTURE, *x, backend="triton"), inputs, [inputs[i]], linear)


@backends
@operators
def test_half_precision_and_autocast(operator, shapes, backend):
    if backend == "dgl":
        pytest.skip("DGL has no half precision on a CPU")
    inputs = draw_inputs(0, shapes, torch.bfloat16)
    results = [
        penalised(
            lambda *x, b=name: operator(STRUCTURE, *x, backend=b).float(), [x.to(dtype) for x in inputs], inputs, True
        )
        for name, dtype in ((backend, torch.bfloat16), ("naive", torch.float64))
    ]
    torch.testing.assert_close(*results, rtol=0.1, atol=0.1)
    inputs = draw_inputs(0, shapes, torch.float32)
    expected = penalised(lambda *x: operator(STRUCTURE, *x, backend="naive"), inputs, inputs, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = penalised(lambda *x: operator(STRUCTURE, *x, backend=backend), inputs, inputs, False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@backends
@operators
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's own, in jvp
def test_transforms_of_functions_are_right_or_refused(operator, shapes, backend):
    inputs = [x.detach() for x in draw_inputs(0, shapes)]
    directions = [torch.ones_like(x) for x in inputs]

    def call(*tensors):
        return operator(STRUCTURE, *tensors, backend=backend)

    attempts = (
        lambda: torch.func.jvp(call, tuple(inputs), tuple(directions)),
        lambda: torch.func.grad(lambda *x: call(*x).sum())(*inputs),
        lambda: torch.func.vmap(call)(*(torch.stack([x, x]) for x in inputs)),
    )
    for attempt in attempts:
        with pytest.raises(RuntimeError, match=r"must override the setup_context|Cannot access data pointer"):
            attempt()
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(*pair) for pair in zip(inputs, directions, strict=True)]
        with pytest.raises(NotImplementedError, match="forward mode AD"):
            call(*duals)
