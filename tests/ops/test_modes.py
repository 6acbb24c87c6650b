"""The operators under `set_backend`, autocast, and `torch.compile`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ops_oracles import HAS_CPP, attention_shapes, draw_inputs, gated_shapes, structure_of

from relgrounding import ops
from relgrounding.ops import _cpp, _dispatch

STRUCTURE = structure_of([5, 0, 1, 3], [(0, 1, 0), (1, 1, 0), (4, 2, 2), (6, 7, 1), (8, 7, 0)])
CALLS = [(ops.graph_attention, attention_shapes(9, 2, 3)), (ops.gated_sum, gated_shapes(9, 3, 4))]
operators = pytest.mark.parametrize(("operator", "shapes"), CALLS, ids=["graph_attention", "gated_sum"])


@pytest.fixture
def no_cpp(monkeypatch):
    monkeypatch.setattr(_cpp, "_library", lambda: (None, "no compiler here"))


@pytest.fixture
def calls(monkeypatch):
    """Names of the backends that ran."""
    seen = []
    choose = _dispatch.choose_backend
    monkeypatch.setattr(_dispatch, "choose_backend", lambda *args: seen.append(choose(*args)) or seen[-1])
    return seen


@operators
def test_set_backend_within_a_block_and_from_here_on(operator, shapes, no_cpp, calls):
    inputs = draw_inputs(0, shapes)
    with ops.set_backend("naive"):
        operator(STRUCTURE, *inputs)
        with ops.set_backend("dense"):
            operator(STRUCTURE, *inputs)
        operator(STRUCTURE, *inputs)
        operator(STRUCTURE, *inputs, backend="dgl")
    operator(STRUCTURE, *inputs)
    assert calls == ["naive", "dense", "naive", "dgl", "csr"]
    ops.set_backend("dgl")
    try:
        operator(STRUCTURE, *inputs)
    finally:
        ops.set_backend("auto")
    operator(STRUCTURE, *inputs)
    assert calls[5:] == ["dgl", "csr"]


def test_set_backend_comes_back_after_an_error(no_cpp, calls):
    with pytest.raises(KeyError), ops.set_backend("naive"):
        raise KeyError
    ops.graph_attention(STRUCTURE, *draw_inputs(0, CALLS[0][1]))
    assert calls == ["csr"]


def test_set_backend_refuses_an_unknown_name():
    with pytest.raises(
        ValueError, match="unknown backend 'fast'; the backends are auto, naive, cpp, csr, dense, dgl, triton"
    ):
        ops.set_backend("fast")


def test_auto_takes_dense_for_large_dense_graphs_and_csr_otherwise_without_a_compiler(no_cpp):
    def graph(items, nodes, every):
        pairs = [(j, i) for j in range(nodes) for i in range(nodes) if (i + 3 * j) % every == 0]
        return structure_of(
            [nodes] * items, [(b * nodes + j, b * nodes + i, 0) for b in range(items) for j, i in pairs]
        )

    x = torch.zeros(1)
    for structure, attention, gated in (
        (graph(5, 50, 1), "dense", "dense"),
        (graph(10, 50, 2), "dense", "csr"),
        (graph(10, 50, 8), "csr", "csr"),
        (graph(1, 50, 1), "csr", "csr"),
        (graph(100, 10, 1), "csr", "csr"),
    ):
        assert _dispatch.choose_backend("auto", "graph_attention", structure, x) == attention
        assert _dispatch.choose_backend("auto", "gated_sum", structure, x) == gated


@operators
@pytest.mark.parametrize("backend", ["naive", "cpp", "dense", "csr", "auto"])
def test_autocast_computes_in_the_type_of_the_features(operator, shapes, backend):
    first, *rest = draw_inputs(0, shapes, torch.float32)
    first = first.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = operator(STRUCTURE, first, *rest, backend=backend)
        gradients = torch.autograd.grad(out.float().square().sum(), [first, *rest])
    assert out.dtype == torch.bfloat16
    assert [g.dtype for g in gradients] == [x.dtype for x in (first, *rest)]
    exact = operator(STRUCTURE, *(x.double() for x in (first, *rest)), backend="naive")
    torch.testing.assert_close(out.double(), exact, rtol=0.03, atol=0.03)


def test_one_graph_under_torch_compile():
    # A process of its own: a compiler does not see through the shape checks that pytest puts around every function.
    script = Path(__file__).with_name("compiled_operators.py")
    path = os.pathsep.join([str(Path(ops.__file__).parents[2]), str(script.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["naive", *(["cpp"] if HAS_CPP else []), "dense", "csr", "auto"]


@operators
def test_dgl_under_torch_compile_says_why_not(operator, shapes, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(ValueError, match=r"'dgl' cannot run here: torch\.compile cannot see into DGL; use backend="):
        operator(STRUCTURE, *draw_inputs(0, shapes), backend="dgl")


def losses_of_training(backend):
    from relgrounding import nn

    torch.manual_seed(0)
    layers = torch.nn.ModuleList([nn.GraphAttention(6, 8, 2), nn.EdgeGatedGCN(8, 8, 3), nn.GraphAttention(8, 1, 1)])
    optimizer = torch.optim.Adam(layers.parameters(), lr=0.02)
    x, target, losses = torch.randn(9, 6), torch.randn(9), []
    with ops.set_backend(backend):
        for _ in range(50):
            h = x
            for layer in layers:
                h = torch.nn.functional.elu(layer(STRUCTURE, h))
            losses.append((h.squeeze(1) - target).square().mean())
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
    return torch.stack(losses).detach()


@pytest.mark.parametrize("backend", ["dgl", "cpp", "dense", "csr", pytest.param("triton", marks=pytest.mark.slow)])
def test_fifty_training_steps_have_the_losses_of_naive(backend, monkeypatch):
    if backend == "triton":
        pytest.importorskip("triton", reason="Triton is not installed: it was not trained with")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    expected = losses_of_training("naive")
    assert expected[-1] < 0.6 * expected[0]
    torch.testing.assert_close(losses_of_training(backend), expected, rtol=1e-3, atol=1e-5)
