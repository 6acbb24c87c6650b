"""Where the `triton` backends can run, and that their kernels compile for a GPU that is not there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from relgrounding.ops import _triton

ROOT = Path(_triton.__file__).parents[3]


def run_python(*arguments, **environment):
    """Another process: one that imported Triton for its interpreter can neither forget it nor compile."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=ROOT,
    )


def test_the_reason_says_what_to_do(monkeypatch):
    monkeypatch.setattr(_triton, "_installed", True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu, float32 = torch.device("cpu"), torch.float32
    assert _triton.triton_reason(cpu, float32) == (
        "its kernels run on CUDA, not on cpu; for a check on the CPU set TRITON_INTERPRET=1"
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert _triton.triton_reason(cpu, float32) is None
    assert "run on CUDA, not on meta" in _triton.triton_reason(torch.device("meta"), float32)
    monkeypatch.setattr(_triton, "_installed", False)
    assert _triton.triton_reason(cpu, float32) == (
        'Triton is not installed: on Linux run python -m pip install "triton==3.7.1", '
        "or the release that your PyTorch asks for"
    )


def test_a_gpu_that_is_too_old_is_said(monkeypatch):
    monkeypatch.setattr(_triton, "_installed", True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for capability, reason in (
        ((6, 1), "Triton needs a GPU of compute capability 7.0, this one has 6.1"),
        ((9, 0), None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert _triton.triton_reason(torch.device("cuda", 0), torch.float32) == reason


def test_everything_can_be_imported_without_triton():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import relgrounding.ops, relgrounding.ops.gated_sum.triton, relgrounding.ops.graph_attention.triton, torch\n"
        "import relgrounding.ops.typed_comparison.triton\n"
        "print(relgrounding.ops._triton.triton_reason(torch.device('cpu'), torch.float32))"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("Triton is not installed: on Linux run")


def compiled_kernels(folder, *words):
    pytest.importorskip("triton", reason="Triton is not installed: its kernels were not compiled")
    program = str(Path(__file__).with_name("triton_ptx.py"))
    done = run_python(program, *words, TRITON_CACHE_DIR=str(folder))
    if "No module named 'triton.backends.nvidia'" in done.stderr or "Cannot find ptxas" in done.stderr:
        pytest.skip("this Triton has no compiler for NVIDIA GPUs: the kernels were not compiled")
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_kernels_on_tiles_leave_nothing_in_a_gpus_local_memory(tmp_path):
    """Registers that do not suffice are spilled to memory; a GPU has 227 KiB of shared memory for a program."""
    compiled = compiled_kernels(tmp_path, "tiles")
    kernels = {"attend", "attend_backward_rows", "attend_backward_columns"}
    kernels |= {"gather", "destinations", "scatter", "scatter_logits"}
    assert kernels < {entry["kernel"] for entry in compiled}
    for entry in compiled:
        known = [entry[key] for key in ("kernel", "inputs", "constants", "registers")]
        # Parallel edges, which graphs of moments and regions do not have, take one more loop.
        assert entry["spilled"] == 0 or entry["constants"].get("PARALLEL") == "True", known
        assert entry["shared"] <= 227 * 1024, known
        if entry["kernel"] in kernels and entry["constants"]["PRECISION"] == "tf32":
            assert re.search(r"\b(wg)?mma\.", entry["ptx"]), f"not on tensor cores: {known}"


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_atomics(tmp_path):
    """What the interpreter does not show: that the compiler takes each kernel, for each type, down to machine code."""
    compiled = compiled_kernels(tmp_path)
    assert {"attend", "row_products", "attend_backward", "sum_in_edges"} < {entry["kernel"] for entry in compiled}
    assert {"gather", "scatter", "sum_by_type", "table_products"} < {entry["kernel"] for entry in compiled}
    assert {"attend_backward_rows", "attend_backward_columns"} < {entry["kernel"] for entry in compiled}
    assert {"destinations", "scatter_logits"} < {entry["kernel"] for entry in compiled}
    for entry in compiled:
        assert not re.search(r"\b(atom|red)\.", entry["ptx"]), f"atomics in {entry['kernel']}"
        assert entry["shared"] <= 48 * 1024
        names = "attend", "attend_backward", "gather", "scatter"
        over_edges = entry["kernel"] in names and "BLOCK_E" in entry["constants"]
        if over_edges and entry["constants"]["BLOCK_D"] in ("64", "256"):
            assert "ld.global.v4.b32" in entry["ptx"], f"{entry['kernel']} reads its rows in pieces below 16 bytes"
