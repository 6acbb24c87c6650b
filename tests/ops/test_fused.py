"""Parts of models with a backward of their own, against plain PyTorch."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from relgrounding.ops._fused import linear, open_gates

ROWS = (0, 1, 3, 9, 17, 100, 450, 4000)


def gates_of(proposals, contexts, proposal_dim):
    h, g = proposals[:, :proposal_dim], proposals[:, proposal_dim:]
    c, a = contexts[:, : g.shape[1]], contexts[:, g.shape[1] :]
    return torch.cat([h * a.sigmoid(), c * g], 1)


@pytest.mark.parametrize("nodes", [0, 1, 5])
@pytest.mark.parametrize(("proposal_dim", "context_dim"), [(3, 3), (1, 4), (4, 2)])
def test_gates_and_their_gradients_are_those_of_the_formula(nodes, proposal_dim, context_dim):
    generator = torch.Generator().manual_seed(nodes)
    width = proposal_dim + context_dim
    whole = torch.randn(nodes, 3 * width, generator=generator, dtype=torch.float64, requires_grad=True)
    inputs = whole[:, :width], whole[:, width::2]  # of which neither is contiguous
    above = torch.randn(nodes, width, generator=generator, dtype=torch.float64)
    found, expected = open_gates(*inputs, proposal_dim), gates_of(*inputs, proposal_dim)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradients = [torch.autograd.grad(out, whole, above)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-14, atol=1e-15)
    if nodes:
        assert torch.autograd.gradgradcheck(lambda p, c: open_gates(p, c, proposal_dim), inputs)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_short_maps_are_those_of_pytorch(rows, bias):
    generator = torch.Generator().manual_seed(rows)
    inputs = [torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((rows, 24), (16, 24), (16,))]
    inputs, above = inputs[: 2 + bias], torch.randn(rows, 16, generator=generator).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = linear(*inputs, *[None][bias:]), functional.linear(*inputs)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    exact = torch.autograd.grad(functional.linear(*(x.double() for x in inputs)), inputs, above.double())
    for gradient, right in zip(torch.autograd.grad(found, inputs, above), exact, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - right).norm() <= 1e-2 * right.norm()


def test_short_maps_take_any_number_of_dimensions():
    x, weight = torch.randn(2, 5, 3), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(linear(x, weight, None).view(10, 4), linear(x.view(10, 3), weight, None))
        wide = linear(x.double(), weight.double(), None)
    torch.testing.assert_close(wide, functional.linear(x.double(), weight.double()))
    torch.testing.assert_close(linear(x, weight, None), functional.linear(x, weight), rtol=0, atol=0)


@pytest.mark.parametrize("part", [(slice(1, 4), slice(None)), (slice(None), slice(2, 4)), (slice(0, 2), slice(1, 3))])
@pytest.mark.parametrize("shape", [(0,), (5,), (2, 3)])
def test_a_part_of_a_weight_has_the_map_and_the_gradients_of_its_copy(part, shape):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    rows, columns = whole[part].shape
    x = torch.randn(*shape, columns, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(rows, generator=generator, dtype=torch.float64, requires_grad=True)
    inputs, above = (x, whole, bias), torch.randn(*shape, rows, generator=generator, dtype=torch.float64)
    found, expected = linear(*inputs, *part), functional.linear(x, whole[part].clone(), bias)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
    gradients = (torch.autograd.grad(out, inputs, above) for out in (found, expected))
    for gradient, right in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(linear(x, whole, None, *part), expected - bias, rtol=1e-13, atol=1e-14)
    if x.numel():
        assert torch.autograd.gradgradcheck(lambda *of: linear(*of, *part), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(linear(*inputs, *part).double(), expected, rtol=3e-2, atol=3e-2)


class Products(TorchDispatchMode):
    """The shapes of all matrix products."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.shapes.add(tuple(tuple(x.shape) for x in args[-2:]))
        return function(*args, **(kwargs or {}))


def test_short_maps_of_batches_of_many_sizes_are_products_of_few_shapes():
    weight, bias = torch.randn(8, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    with Products() as products:
        for rows in range(2048, 4096, 7):
            with torch.autocast("cpu", torch.bfloat16):
                out = linear(torch.randn(rows, 8, requires_grad=True), weight, bias)
            out.sum().backward()
    # Forward, to x and to the weight: eight sizes and that of the last rows.
    assert len(products.shapes) <= 3 * 9
