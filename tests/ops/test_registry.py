"""Backends register themselves, also from outside the package."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from relgrounding import nn, ops
from relgrounding.ops import _choice, _registry
from relgrounding.ops.graph_attention.naive import graph_attention_naive
from tests.ops.cases import draw_inputs, structure_of, values_and_gradients

SHAPES = [(3, 2, 4), (3, 2), (3, 2)]


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch):
    monkeypatch.setattr(_registry, "_operators", {name: dict(found) for name, found in _registry._operators.items()})
    monkeypatch.setattr(_registry, "_candidates", {})


@pytest.mark.parametrize("module", [_choice, _registry, sys.modules["relgrounding.ops.window_max"]])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > result.failed == 0


def test_a_name_that_is_taken_and_an_operator_that_is_not_there_are_refused():
    with pytest.raises(ValueError, match="'gated_sum' has a backend 'csr'; choose another name"):
        ops.register_backend("gated_sum", "csr")(lambda *_: None)
    with pytest.raises(ValueError, match="'gated_sum' has a backend 'auto'; choose another name"):
        ops.register_backend("gated_sum", "auto")(lambda *_: None)
    with pytest.raises(ValueError, match=r"unknown operator 'gated_sums'; did you mean 'gated_sum'\?"):
        ops.register_backend("gated_sums", "mine")
    with pytest.raises(ValueError, match="unknown operator 'xyz'; the operators are "):
        ops.register_backend("xyz", "mine")


def test_what_a_registration_says_decides_where_the_backend_runs():
    calls = []

    @ops.register_backend(
        "graph_attention",
        "mine",
        devices=["cpu"],
        dtypes=[torch.float32],
        reason=lambda device, dtype: "it is Sunday" if calls == ["closed"] else None,
        auto={"cpu": 99},
        suits=lambda graph: graph.num_edges > 1,
        widen_half=True,
    )
    def mine(structure, feat, score_src, score_dst, negative_slope):
        calls.append(feat.dtype)
        return graph_attention_naive(structure, feat, score_src, score_dst, negative_slope)

    few, many = structure_of([3], [(0, 1, 0)]), structure_of([3], [(0, 1, 0), (2, 1, 1)])
    inputs = draw_inputs(0, SHAPES, torch.float32)
    assert "mine" in ops.backend_names("graph_attention")
    assert "mine" not in ops.backend_names("gated_sum")
    assert ops.available_backends()["mine"] is None
    ops.graph_attention(few, *inputs)
    assert calls == []
    ops.graph_attention(many, *inputs)
    assert ops.graph_attention(few, *(x.bfloat16() for x in inputs), backend="mine").dtype == torch.bfloat16
    assert calls == [torch.float32] * 2
    with pytest.raises(ValueError, match="'mine' cannot run here: its kernels take float32, not float64; use backend="):
        ops.graph_attention(many, *(x.double() for x in inputs), backend="mine")
    with pytest.raises(ValueError, match="'mine' cannot run here: it runs on the CPU, not on meta; use backend="):
        ops.graph_attention(many.to("meta"), *(x.to("meta") for x in inputs), backend="mine")
    calls[:] = ["closed"]
    assert ops.available_backends("graph_attention")["mine"] == "it is Sunday"
    with pytest.raises(ValueError, match="'mine' cannot run here: it is Sunday; use backend='naive' or 'auto'"):
        nn.GraphAttention(3, 4, 2, backend="mine")(many, torch.ones(3, 3))
    with pytest.raises(ValueError, match="unknown backend 'mine'; the backends are auto, naive, cpp"):
        ops.check_backend("mine", "gated_sum")
    ops.check_backend("mine", "graph_attention")


def test_a_backend_without_a_rank_runs_by_its_name_alone():
    @ops.register_backend("graph_attention", "doubled")
    def doubled(structure, *inputs, negative_slope):
        return 2 * graph_attention_naive(structure, *inputs, negative_slope)

    structure, inputs = structure_of([3], [(0, 1, 0)]), draw_inputs(0, SHAPES)

    def found(**options):
        return values_and_gradients(lambda *x: ops.graph_attention(structure, *x, **options), inputs)

    torch.testing.assert_close(found(), found(backend="naive"))
    expected = [2 * x for x in found(backend="naive")]
    torch.testing.assert_close(found(backend="doubled"), expected)
    with ops.set_backend("doubled"):
        torch.testing.assert_close(found(), expected)
        ops.gated_sum(structure, *draw_inputs(0, [(3, 2), (3,), (3,), (3, 2)]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["right", "wrong"])
def test_the_grid_runs_on_a_backend_from_outside(kind):
    chosen = "toy and (parallel or penalties or order)"
    # The types of a package are checked only where no plugin imports it first.
    options = ["-q", "-o", "addopts=--import-mode=importlib", "-p", "tests.ops.toy_backend", "-k", chosen]
    command = [sys.executable, "-m", "pytest", *options, "tests/ops/test_grid.py"]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TOY_BACKEND": kind, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == (kind == "wrong"), done.stdout[-3000:] + done.stderr[-3000:]
    if kind == "wrong":
        assert "many steps of a loop-float64-gated_sum-toy]" in done.stdout
    else:
        assert int(done.stdout.split(" passed")[0].split()[-1]) > 5
