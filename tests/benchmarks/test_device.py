"""The check of a GPU runs whole where there is none, and finds what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.device import checks
from benchmarks.device.__main__ import SECTIONS, main
from benchmarks.device.report import Report

ROOT = Path(__file__).parents[2]


def test_a_dry_run_needs_no_gpu_and_keeps_what_it_found(tmp_path):
    assert main(["--dry", "--only", "ceilings", "offsets", "steps", "variants", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "device.json").read_text())
    assert set(found["results"]) == {"ceilings", "offsets", "steps", "variants"}
    assert found["results"]["ceilings"]["copy GB/s"] > 0
    assert {name: step["waits"] for name, step in found["results"]["steps"].items()} == {"vgn": 0, "ign": 0}
    assert found["failures"] == []


def test_a_wrong_value_other_bits_and_a_failing_section_are_failures(monkeypatch, capsys):
    report = Report(torch.device("cpu"), dry=True, budget=60)
    right = checks.values_and_gradients
    calls = []

    def spoiled(function, inputs):
        calls.append(function)
        found = right(function, inputs)
        return [x + 1e-3 * len(calls) for x in found] if function.__name__ == "call" else found

    monkeypatch.setattr(checks, "values_and_gradients", spoiled)
    monkeypatch.setattr(checks, "BACKENDS", ("csr",))
    report.section("values", checks.check_values)
    assert any("csr, float64, graph 0: the output is off by" in line for line in report.failures)
    report.section("broken", lambda report: 1 // 0)
    assert report.failures[-1] == "broken: ZeroDivisionError: integer division or modulo by zero"
    assert "Traceback" in capsys.readouterr().err


def test_nothing_begins_after_the_budget():
    report = Report(torch.device("cpu"), dry=True, budget=0)
    report.section("late", lambda report: 1 // 0)
    assert (report.results, report.failures) == ({}, [])


@pytest.mark.slow
def test_the_script_runs_every_section(tmp_path):
    command = ["bash", "benchmarks/device.sh", str(tmp_path / "out"), "--dry"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where `python3` is this one
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert set(json.loads((tmp_path / "out" / "device.json").read_text())["results"]) == set(SECTIONS)
