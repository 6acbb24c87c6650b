"""The operators under `set_backend`, autocast, and `torch.compile`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from relgrounding import ops
from relgrounding.ops import _choice, _cpp, _dgl, _dispatch, _triton
from relgrounding.ops._cpp import cpp_reason
from tests.ops.cases import draw_inputs, structure_of

STRUCTURE = structure_of([5, 0, 1, 3], [(0, 1, 0), (1, 1, 0), (4, 2, 2), (6, 7, 1), (8, 7, 0)])
CALLS = [
    (ops.graph_attention, [(9, 2, 3), (9, 2), (9, 2)]),
    (ops.gated_sum, [(9, 4), (9,), (3,), (3, 4)]),
    (ops.typed_comparison, [(9, 4), (9,), (9, 3), (3, 4), (5,)]),
]
operators = pytest.mark.parametrize(("operator", "shapes"), CALLS, ids=[call.__name__ for call, _ in CALLS])


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
        ValueError,
        match="unknown backend 'fast'; the backends are auto, naive, cpp, csr, dense, dgl, triton, triton_dense",
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
        assert _choice.choose_backend("auto", "graph_attention", structure, x) == attention
        assert _choice.choose_backend("auto", "gated_sum", structure, x) == gated
        assert _choice.choose_backend("auto", "typed_comparison", structure, x) == "csr"


@pytest.mark.slow
def test_one_graph_under_torch_compile():
    # A process of its own: a compiler does not see through the shape checks that pytest puts around every function.
    script = Path(__file__).with_name("compiled_operators.py")
    path = os.pathsep.join(
        [str(Path(ops.__file__).parents[2]), str(script.parents[2]), os.environ.get("PYTHONPATH", "")]
    )
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["naive", *(["cpp"] if cpp_reason() is None else []), "dense", "csr", "auto"]


@operators
def test_dgl_under_torch_compile_says_why_not(operator, shapes, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(ValueError, match=r"'dgl' cannot run here: torch\.compile cannot see into DGL; use backend="):
        operator(STRUCTURE, *draw_inputs(0, shapes), backend="dgl")


def losses_of_training(backend):
    from relgrounding import nn

    torch.manual_seed(0)
    layers = torch.nn.ModuleList([nn.GraphAttention(6, 8, 2), nn.EdgeGatedGCN(8, 8, 3), nn.GraphAttention(8, 1, 1)])
    compare = nn.RelationalComparison(8, 4, 4, 3)
    torch.nn.init.normal_(compare.score.weight)  # where all gradients begin at zero Adam enlarges their rounding
    optimizer = torch.optim.Adam([*layers.parameters(), *compare.parameters()], lr=0.02)
    x, target, words, losses = torch.randn(9, 6), torch.randn(9), torch.randn(2, 9, 4), []
    with ops.set_backend(backend):
        for _ in range(50):
            h = x
            for layer in layers:
                before, h = h, torch.nn.functional.elu(layer(STRUCTURE, h))
            h = h.squeeze(1) + compare(STRUCTURE, before, compare.share(*words))
            losses.append((h - target).square().mean())
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


def test_every_backend_is_listed():
    assert set(ops.available_backends()) == {"naive", "dgl", "cpp", "dense", "csr", "triton", "triton_dense"}
    assert ops.available_backends()["naive"] is None


def test_a_gpu_that_dgl_cannot_use_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(_dgl, "dgl_cuda_reason", lambda: "no CUDA in it")
    assert ops.available_backends()["dgl"] == "on CPU tensors only: no CUDA in it"
    monkeypatch.setattr(_dgl, "dgl_cuda_reason", lambda: None)
    assert ops.available_backends()["dgl"] is None


@operators
def test_triton_says_why_it_cannot_run(operator, shapes, monkeypatch):
    monkeypatch.setattr(_triton, "_installed", False)
    with pytest.raises(
        ValueError, match=r"backend 'triton' cannot run here: Triton is not installed: .*; use backend='naive' or"
    ):
        operator(STRUCTURE, *draw_inputs(0, shapes), backend="triton")


@operators
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dgl_says_why_it_cannot_run_and_auto_runs_without_it(operator, shapes, dtype):
    inputs = draw_inputs(0, shapes, dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"takes? float32 and float64, not {name}; use backend='naive' or 'auto'"):
        operator(STRUCTURE, *inputs, backend="dgl")
    exact = operator(STRUCTURE, *(x.double() for x in inputs), backend="naive")
    torch.testing.assert_close(operator(STRUCTURE, *inputs).double(), exact, rtol=0.05, atol=0.05)


def test_a_device_without_kernels_runs_naive_or_says_so():
    structure, tensor = STRUCTURE.to("meta"), torch.zeros(1, device="meta")
    assert _choice.choose_backend("auto", "gated_sum", structure, tensor) == "naive"
    for backend, reason in (
        ("dgl", "it runs on the CPU and on CUDA, not on meta"),
        ("csr", "it runs on the CPU and on CUDA, not on meta"),
        ("cpp", "it runs on the CPU, not on meta"),
    ):
        with pytest.raises(ValueError, match=f"'{backend}' cannot run here: {reason}; use backend='naive' or"):
            _choice.choose_backend(backend, "gated_sum", structure, tensor)
