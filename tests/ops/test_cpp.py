"""The C++ backend: with and without a compiler, its cache, its threads."""

import ctypes
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.memory import allocated
from relgrounding import nn, ops
from relgrounding.ops import _choice, _cpp
from relgrounding.ops.gated_sum import layer_cpp
from relgrounding.ops.gated_sum.cpp import relu_backward
from tests.ops.cases import draw_inputs, problem, random_structure, values_and_gradients

needs_compiler = pytest.mark.skipif(bool(_cpp.cpp_reason()), reason="there is no C++ compiler")

REPORT = """
import torch
from relgrounding import ops
from relgrounding.graphs import GraphStructure
from relgrounding.nn import EdgeGatedGCN, GraphAttention
one = torch.tensor([0])
structure = GraphStructure.from_edges(one, one, one, ["a"], torch.tensor([2]))
for layer in (GraphAttention(3, 4, 2), EdgeGatedGCN(3, 4, 1)):
    layer(structure, torch.ones(2, 3)).sum().backward()
print(ops.available_backends()["cpp"])
"""


def run_report(**environment):
    path = os.pathsep.join([str(Path(ops.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path} | environment
    done = subprocess.run([sys.executable, "-c", REPORT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip(), done.stderr


@pytest.mark.slow
def test_without_a_compiler_everything_runs_and_the_reason_is_said(tmp_path):
    reason, _ = run_report(PATH=str(tmp_path), RELGROUNDING_CACHE=str(tmp_path / "cache"), CXX="")
    assert reason.startswith("the PATH does not have a C++ compiler: c++, g++ or clang++; install one")
    reason, _ = run_report(CXX="no-such-compiler -O1")
    assert reason.startswith("the PATH does not have the compiler 'no-such-compiler -O1' that CXX names; install one")


def test_it_can_be_switched_off():
    assert run_report(RELGROUNDING_CPP="0")[0] == "the environment variable RELGROUNDING_CPP switches it off"


def test_a_compiler_that_fails_is_quoted(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'some.cpp:1: error: out of ideas' >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(_cpp.NoKernelsError, match=r"broken' cannot compile its kernels: some\.cpp:1: error: out"):
        _cpp.load([str(broken)], [tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == ["broken"], "nothing half made stays behind"


def test_a_backend_that_is_named_says_why_it_cannot_run(monkeypatch):
    monkeypatch.setattr(_cpp, "_library", lambda: (None, "no compiler here"))
    structure = random_structure([3], 1.0)
    with pytest.raises(ValueError, match="'cpp' cannot run here: no compiler here; use backend='naive' or 'auto'"):
        ops.gated_sum(structure, *draw_inputs(0, [(3, 2), (3,), (3,), (3, 2)]), backend="cpp")


@pytest.mark.slow
@needs_compiler
def test_a_broken_library_is_made_again_and_a_good_one_is_kept(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "relgrounding")
    assert isinstance(_cpp.load(_cpp.compiler(), [tmp_path]), ctypes.CDLL)
    (path,) = tmp_path.glob("*.so")
    whole = path.read_bytes()
    assert [record.getMessage().startswith("compiling the C++ kernels") for record in caplog.records] == [True]
    _cpp.load(_cpp.compiler(), [tmp_path])
    assert len(caplog.records) == 1
    path.unlink()  # what is loaded stays loaded
    path.write_bytes(whole[: len(whole) // 2])
    _cpp.load(_cpp.compiler(), [tmp_path])
    assert len(caplog.records) == 2
    assert len(path.read_bytes()) == len(whole)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".sha256", ".so"]


@needs_compiler
def test_auto_takes_it_on_the_cpu():
    structure = random_structure([3], 1.0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert _choice.choose_backend("auto", "gated_sum", structure, torch.zeros(1, dtype=dtype)) == "cpp"


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [0.05, 0.9])
@pytest.mark.parametrize("counts", [[150, 0, 97, 3], [50, 40] * 6])
def test_the_number_of_threads_changes_no_bit(counts, dtype, density, threads):
    cases = (
        ("graph_attention", 3, 33),
        ("graph_attention", 1, 256),
        ("gated_sum", 1, 170),
        ("additive_attention", 20, 37),
    )
    tasks = [problem(operator, counts, density, 2, heads, dim) for operator, heads, dim in cases]
    for task in tasks:
        inputs, results = draw_inputs(3, task.shapes, dtype), []
        for count in (1, 2, 5, 8):
            threads(count)
            results.append(values_and_gradients(task.run("cpp"), inputs))
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=0, atol=0)


@needs_compiler
@pytest.mark.parametrize("kind", [nn.EdgeGatedGCN, nn.GatedSum])
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5])
def test_a_batch_in_parts_gives_what_the_whole_gives(kind, density, monkeypatch):
    structure = random_structure([0, 40, 5, 0, 70, 1, 33, 0], density, copies=2)
    torch.manual_seed(1)
    layer, x = kind(150, 9, 3, backend="cpp").double(), torch.randn(149, 150, dtype=torch.float64, requires_grad=True)
    results, parts = [], []
    for size in (1, 60_000, layer_cpp.PART):
        monkeypatch.setattr(layer_cpp, "PART", size)
        out = layer(structure, x)
        results.append((out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])))
        parts.append(len(out.grad_fn.parts))
    assert parts[0] > parts[1] > parts[2] == 1 or density == 0
    for other in results[:-1]:
        torch.testing.assert_close(other, results[-1])


@needs_compiler
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (70, 37), (1500, 16)])
def test_the_gradient_of_a_relu_is_that_of_pytorch_into_rows_that_lie_apart(shape, threads):
    torch.manual_seed(0)
    before, grad = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    before[:1, 0] = torch.nan
    result, results = before.relu(), []
    for count in (1, 2, 5):
        threads(count)
        rows, d_bias = torch.full((shape[0], shape[1] + 4), 7.0, dtype=torch.float64), torch.ones(shape[1]).double()
        relu_backward(grad, result, rows[:, 2:-2], d_bias)
        results.append((rows, d_bias))
    (rows, d_bias), expected = results[0], torch.ops.aten.threshold_backward(grad, result, 0)
    torch.testing.assert_close(rows[:, 2:-2], expected, rtol=0, atol=0)
    torch.testing.assert_close(d_bias, 1 + expected.sum(0))
    assert (rows[:, :2] == 7).all()
    assert (rows[:, -2:] == 7).all()
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


# A large item beside small ones goes another way than many of one size.
@needs_compiler
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("counts", [[7, 0, 40], [5, 0, 11, 1, 7] * 2])
@pytest.mark.parametrize("density", [0.05, 0.5])
@pytest.mark.parametrize("width", [0, 5, 128, 300])
def test_layers_have_the_gradients_of_naive_also_with_a_frozen_input(width, density, counts, threads):
    threads(2)
    structure = random_structure(counts, density, copies=2)
    for make in (
        lambda name: nn.GraphAttention(width, 12, 3, backend=name),
        lambda name: nn.GatedSum(width, 9, 3, backend=name),
        lambda name: nn.EdgeGatedGCN(width, 9, 3, backend=name),
    ):
        torch.manual_seed(1)
        fast, slow = make("cpp").double(), make("naive").double()
        slow.load_state_dict(fast.state_dict())
        x = torch.randn(sum(counts), width, dtype=torch.float64)
        for leaf in (x, x.clone().requires_grad_()):
            results = []
            for layer in (fast, slow):
                leaves = [*([leaf] if leaf.requires_grad else []), *layer.parameters()]
                out = layer(structure, leaf)
                results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
            torch.testing.assert_close(*results)


@needs_compiler
@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize("kind", [nn.EdgeGatedGCN, nn.GatedSum])
def test_the_gated_layers_keep_to_their_memory(kind, density):
    structure = random_structure([50, 0, 30], density)
    layer, x = kind(256, 256, 3, backend="cpp"), torch.randn(80, 256, requires_grad=True)
    above = torch.ones(80, 256)
    peak, _ = allocated(lambda: torch.autograd.grad(layer(structure, x), [x, *layer.parameters()], above))
    weights = sum(p.numel() * 4 for p in layer.parameters())
    assert peak <= 4 * 80 * 256 * 4 + 16 * structure.num_edges + weights


@needs_compiler
def test_a_trace_is_refused(monkeypatch):
    # Its sizes are tensors: the kernels would read their addresses as numbers.
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record C\+\+ kernels; use torch\.compile, or"):
        nn.GatedSum(4, 4, 3, backend="cpp")(random_structure([5], 0.5), torch.randn(5, 4))


widths = st.integers(0, 70)


@needs_compiler
@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=4), width=widths, columns=widths, seed=st.integers(0, 99)
)
def test_additive_attention_of_any_size_with_factors_in_and_out_of_range(counts, width, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    items, nodes = len(counts), sum(counts)
    lengths = torch.randint(1, 20, (items,), generator=generator)
    length = int(lengths.max()) + 1
    inputs = draw_inputs(seed, [(nodes, width), (items, length, width), (width,), (items, length, columns)])
    # Some proposals and some sentences beyond what the exponentials of float64 hold.
    far = [1.0 + 400 * (torch.rand(size, 1, generator=generator) < 0.2) for size in (nodes, items)]
    inputs = [inputs[0] * far[0], inputs[1] * far[1].unsqueeze(2), *inputs[2:]]
    item = torch.arange(items).repeat_interleave(torch.tensor(counts))
    inputs = [x.detach().requires_grad_() for x in inputs]
    results = [
        values_and_gradients(lambda *x, b=name: ops.additive_attention(*x, lengths, item, b), inputs)
        for name in ("cpp", "naive")
    ]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-11)


@needs_compiler
@pytest.mark.parametrize(("width", "columns"), [(128, 96), (37, 5)])
def test_additive_attention_in_bfloat16_is_that_in_float32_rounded(width, columns):
    lengths, item = torch.tensor([3, 17, 1]), torch.arange(90) // 30
    shapes = [(90, width), (3, 17, width), (width,), (3, 17, columns)]
    short = [x.detach().requires_grad_() for x in draw_inputs(0, shapes, torch.bfloat16)]
    weight = draw_inputs(1, [(90, columns)], torch.bfloat16)[0].detach()
    results = []
    for inputs in (short, [x.detach().float().requires_grad_() for x in short]):
        out, gamma = ops.additive_attention(*inputs, lengths, item, "cpp")
        results.append([out, gamma, *torch.autograd.grad((out * weight.to(out)).sum(), inputs)])
    assert all(x.dtype == torch.bfloat16 for x in results[0])
    torch.testing.assert_close(results[0], [x.bfloat16() for x in results[1]], rtol=0, atol=0)
    broken = short[0].detach().index_fill(1, torch.tensor([0]), torch.nan)
    assert ops.additive_attention(broken, *short[1:], lengths, item, "cpp")[0].isnan().all()


@needs_compiler
@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    width=st.integers(1, 20),
    units=st.integers(1, 70),
    scale=st.sampled_from([1e-4, 0.3, 30.0]),
    seed=st.integers(0, 99),
)
def test_a_gru_of_any_size_with_gates_barely_and_fully_open(lengths, width, units, scale, seed):
    one = [(3 * units, width), (3 * units, units), (3 * units,), (3 * units,)]
    inputs = draw_inputs(seed, [(len(lengths), max(lengths), width), *one, *one], scale=scale / units**0.5)
    results = [
        values_and_gradients(lambda x, *w, b=name: ops.gru(x, torch.tensor(lengths), w, b), inputs)
        for name in ("cpp", "naive")
    ]
    # Relative to the largest: small states must be right in their last digits, too.
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-30 + 1e-11 * float(expected.abs().max()))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sequence_of_a_gru_depends_on_neither_the_threads_nor_the_others(dtype, threads):
    items, length, units = 37, 8, 37
    lengths = torch.randint(1, length + 1, (items,), generator=torch.Generator().manual_seed(0))
    shapes = [
        (length, 3 * units),
        (length, 3 * units),
        (3 * units, units),
        (3 * units, units),
        (3 * units,),
        (3 * units,),
    ]
    gates, gates_back, *weights = (x.detach() for x in draw_inputs(0, shapes, dtype))

    def run(lengths):
        # All sequences begin alike.
        rows, count = torch.cat([torch.arange(n) for n in lengths.tolist()]), int(lengths.sum())
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        rzn = [gates[rows].contiguous(), gates_back[rows].contiguous()]
        hidden, out = gates.new_empty(2, count, units), gates.new_empty(len(lengths), length, 2 * units)
        _cpp.call("gru_forward", len(lengths), length, units, starts, *rzn, *hidden, *weights, out)
        found = [gates.new_empty(2, count, columns) for columns in (3 * units, 3 * units, units)]
        read = *rzn, hidden, *weights[:2], out, torch.ones_like(out)
        _cpp.call("gru_backward", len(lengths), length, units, starts, *read, *found)
        return [out, *(x[:, starts[0] : starts[1]].contiguous() for x in found)]

    for first in (0, 20):
        of_all = []
        for count in (1, 2, 8):
            threads(count)
            of_all.append(run(lengths.roll(-first)))
        alone = run(lengths.roll(-first)[:1])
        assert not alone[0].isnan().any()
        for found in of_all:
            torch.testing.assert_close([found[0][:1], *found[1:]], alone, rtol=0, atol=0)
            torch.testing.assert_close(found[0], of_all[0][0], rtol=0, atol=0)


@needs_compiler
def test_under_autocast_additive_attention_reads_bfloat16_beside_weights_in_float32(monkeypatch):
    called = []
    monkeypatch.setattr(sys.modules["relgrounding.ops.additive_attention.cpp"], "call", lambda *x: called.append(x))
    shapes = [(4, 8), (1, 3, 8), (8,), (1, 3, 5)]
    a, b, w, s = draw_inputs(0, shapes, torch.bfloat16)
    rest = torch.tensor([3]), torch.zeros(4, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        ops.additive_attention(a, b, w.float(), s, *rest)
        ops.additive_attention(a, b, w.float(), s.float(), *rest)
    floats = [[x.dtype for x in call if isinstance(x, torch.Tensor) and x.is_floating_point()] for call in called]
    assert floats == [
        [torch.bfloat16, *[torch.float32] * 3, torch.bfloat16, torch.float32],
        [torch.float32] * 6,
    ]
