import gc
import weakref

import pytest
import torch
from ops_oracles import HAS_CPP, attention_shapes, draw_inputs, gated_shapes, structure_of, values_and_gradients

from relgrounding import ops
from relgrounding._dgl import dgl
from relgrounding.ops import _dgl, _dispatch, _triton

STRUCTURE = structure_of([3], [(0, 1, 0), (2, 1, 1), (1, 0, 2)])
CALLS = [(ops.graph_attention, attention_shapes(3, 2, 4)), (ops.gated_sum, gated_shapes(3, 3, 4))]
operators = pytest.mark.parametrize(("operator", "shapes"), CALLS, ids=["graph_attention", "gated_sum"])


def test_public_api():
    assert ops.__all__ == [
        "additive_attention",
        "as_structure",
        "available_backends",
        "backend_names",
        "check_backend",
        "gated_sum",
        "graph_attention",
        "gru",
        "register_backend",
        "set_backend",
        "window_max",
    ]
    assert all(callable(getattr(ops, name)) for name in ops.__all__)


def test_every_backend_is_listed():
    assert set(ops.available_backends()) == {"naive", "dgl", "cpp", "dense", "csr", "triton"}
    assert ops.available_backends()["naive"] is None


def test_a_gpu_that_dgl_cannot_use_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(_dgl, "dgl_cuda_reason", lambda: "no CUDA in it")
    assert ops.available_backends()["dgl"] == "on CPU tensors only: no CUDA in it"
    monkeypatch.setattr(_dgl, "dgl_cuda_reason", lambda: None)
    assert ops.available_backends()["dgl"] is None


def test_uninitialised_memory_is_nan_in_these_tests_also_where_dgl_asks_for_it():
    assert torch.empty(3).isnan().all()
    assert dgl.backend.empty((3,), torch.float32, torch.device("cpu")).isnan().all()


@operators
def test_an_unknown_backend_is_refused_with_the_valid_names(operator, shapes):
    with pytest.raises(
        ValueError, match="unknown backend 'cuda'; the backends are auto, naive, cpp, csr, dense, dgl, triton"
    ):
        operator(STRUCTURE, *draw_inputs(0, shapes), backend="cuda")


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


@operators
@pytest.mark.parametrize("backend", ["auto", "naive", "dgl", "cpp", "dense", "csr"])
def test_float32_is_close_to_float64_and_keeps_its_type(operator, shapes, backend):
    inputs = draw_inputs(0, shapes, torch.float32)
    out = operator(STRUCTURE, *inputs, backend=backend)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), operator(STRUCTURE, *(x.double() for x in inputs), backend="naive"))


@operators
def test_two_float_types_are_refused(operator, shapes):
    first, *rest = draw_inputs(0, shapes)
    with pytest.raises(ValueError, match=r"torch.float32 on cpu, another input is torch.float64 on cpu; give all"):
        operator(STRUCTURE, first.float(), *rest)


@operators
def test_two_devices_are_refused(operator, shapes):
    with pytest.raises(ValueError, match=r"the graph is on cpu, the features are on meta; move one with .to\(\)"):
        operator(STRUCTURE, *(x.to("meta") for x in draw_inputs(0, shapes)))


def test_a_device_without_kernels_runs_naive_or_says_so():
    structure, tensor = STRUCTURE.to("meta"), torch.zeros(1, device="meta")
    assert _dispatch.choose_backend("auto", "gated_sum", structure, tensor) == "naive"
    for backend, reason in (
        ("dgl", "it runs on the CPU and on CUDA, not on meta"),
        ("csr", "it runs on the CPU and on CUDA, not on meta"),
        ("cpp", "it runs on the CPU, not on meta"),
    ):
        with pytest.raises(ValueError, match=f"'{backend}' cannot run here: {reason}; use backend='naive' or"):
            _dispatch.choose_backend(backend, "gated_sum", structure, tensor)


@operators
@pytest.mark.parametrize("backend", ["naive", "dgl", "cpp", "dense", "csr"])
def test_strided_inputs_and_gradients(operator, shapes, backend):
    inputs = draw_inputs(0, shapes)
    strided = [x.detach().mT.contiguous().mT.requires_grad_() if x.ndim > 1 else x for x in inputs]
    assert not all(x.is_contiguous() for x in strided)
    # A sum hands back one number, expanded to the shape of the output.
    results = [
        torch.autograd.grad(operator(STRUCTURE, *x, backend=b).sum(), x)
        for x, b in ((inputs, "naive"), (strided, backend))
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("heads", [1, 3])
def test_float32_gradients_in_every_shape_that_dgl_tells_apart(heads, dim):
    for operator, shapes in (
        (ops.graph_attention, attention_shapes(3, heads, dim)),
        (ops.gated_sum, gated_shapes(3, 3, dim)),
    ):
        inputs = draw_inputs(2, shapes, torch.float32)
        results = [
            values_and_gradients(lambda *x, b=b, run=operator: run(STRUCTURE, *x, backend=b), inputs)
            for b in ("naive", "dgl")
        ]
        torch.testing.assert_close(*results)


def test_a_structure_is_not_kept_alive_by_its_dgl_graph():
    structure = structure_of([2], [(0, 1, 0)])
    ops.graph_attention(structure, *draw_inputs(0, attention_shapes(2, 1, 1)), backend="dgl")
    seen = weakref.ref(structure)
    del structure
    gc.collect()
    assert seen() is None


def test_only_naive_makes_a_tensor_of_edges_times_features():
    nodes, dim = 40, 64
    structure = structure_of([nodes], [(j, i, 0) for i in range(nodes) for j in range(nodes)])
    for operator, shapes in (
        (ops.graph_attention, attention_shapes(nodes, 1, dim)),
        (ops.gated_sum, gated_shapes(nodes, 3, dim)),
    ):
        largest, inputs = {}, draw_inputs(0, shapes)
        for backend in ("naive", "dgl", "dense", "csr", *(["cpp"] if HAS_CPP else [])):
            cpu = [torch.profiler.ProfilerActivity.CPU]
            with torch.profiler.profile(profile_memory=True, activities=cpu) as profile:
                operator(structure, *inputs, backend=backend).sum().backward()
            largest[backend] = max(event.self_cpu_memory_usage for event in profile.events())
        assert max(size for b, size in largest.items() if b != "naive") < structure.num_edges * dim * 8 / 4
        assert largest["naive"] >= structure.num_edges * dim * 8, "or else the profiler does not see such tensors"
