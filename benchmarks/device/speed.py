"""Times of layers against PyTorch Geometric, against it compiled, and against what no layer can beat."""

from functools import partial
from typing import Any

import torch

from benchmarks import providers
from benchmarks.cases import Case, registry
from benchmarks.device.clock import Clock
from benchmarks.device.report import Report
from benchmarks.graph_specs import images
from benchmarks.machine import available_memory
from benchmarks.measure import Contestant, Prepared, Settings

CASES = (
    "attention/windows32/b32",
    "gated/regions50/b32",
    "edge_gated/regions50/b32",
    "comparison/regions50/b32",
    "attention/windows32/b256",
    "gated/regions50/b256",
    "edge_gated/regions50/b256",
    "attention/map64/b32",
    "attention/windows32/b1",
)
TINY = Case("gated", "tiny", images(2, 6), 16, 16)
COMPARED = ["ours.triton", "ours.triton_dense", "ours.csr", "ours.dense", "ours.auto", "pyg.*", "limit.*"]
COPY = "limit.copy"


def measure_ceilings(report: Report) -> dict[str, float]:
    """Return GB/s of a copy from memory to memory and TFLOP/s of matrix products: what kernels are measured by."""
    device, dry, clock = report.device, report.dry, Clock(report.device)
    source = torch.zeros(1 << (16 if dry else 28), device=device)
    target = torch.empty_like(source)
    found = {"copy GB/s": 2 * source.nbytes / clock.events(lambda: target.copy_(source)) / 1e6}
    size = 64 if dry else 8192
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        matmul.allow_tf32 = tf32
        factor = torch.ones(size, size, dtype=dtype, device=device)
        found[f"{name} TFLOP/s"] = 2 * size**3 / clock.events(partial(torch.matmul, factor, factor)) / 1e9
    matmul.allow_tf32 = before
    nothing = torch.zeros(1, device=device)
    found["empty kernel, us"] = 1e3 * clock.events(lambda: nothing.add_(0))
    report.say(", ".join(f"{name} {value:.0f}" for name, value in found.items()))
    return found


def measure_speed(report: Report) -> list[dict[str, Any]]:
    """Time each case in float32 and bfloat16, providers that pass the gate alone.

    "of copy" is the time of a copy of the bytes that a layer must read and write, as a share of the layer's own.
    """
    chosen = [TINY] if report.dry else [registry()[name] for name in CASES]
    rows: list[dict[str, Any]] = []
    for case in chosen:
        for dtype in (torch.float32, torch.bfloat16):
            if not report.time_left:
                report.say(f"{case.name}: no time left")
                return rows
            rows += _measure_case(report, case, dtype)
    return rows


def _measure_case(report: Report, case: Case, dtype: torch.dtype) -> list[dict[str, Any]]:
    settings = Settings(report.device, dtype, max_memory=available_memory(report.device) // 2)
    prepared, clock = Prepared(case, settings), Clock(report.device, repeats=15)
    every = providers.select(case.layer, COMPARED)
    rows: list[dict[str, Any]] = []
    for provider in [p for p in every if not (report.dry and p.name.endswith("compiled"))]:
        found, contestant = prepared.admitted(provider)
        who = {"case": case.name, "dtype": found.dtype, "provider": provider.name}
        if contestant is not None:
            rows.append(who | _times(clock, contestant))
            continue
        ours = provider.name.startswith("ours.") and not found.status.startswith("cannot run")
        (report.fail if ours else report.say)(f"{', '.join(who.values())}: {found.status}")
    copy = next((row["both"] for row in rows if row["provider"] == COPY), None)
    for row in rows:
        row["of copy"] = copy / row["both"] if copy else None
        share = f", {100 * row['of copy']:.0f} % of copy" if copy else ""
        replay = "not captured" if row["replay"] is None else f"replay {row['replay']:.3f}"
        times = f"forward {row['forward']:.3f}, with backward {row['both']:.3f}, {replay} ms{share}"
        report.say(f"{row['case']}, {row['dtype']}, {row['provider']}: {times}")
    return rows


def _times(clock: Clock, contestant: Contestant) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        "forward": clock.events(contestant.forward),
        "both": clock.events(contestant.both),
    }
    try:
        found["replay"] = clock.replay(contestant.both)
    except RuntimeError:  # a layer that waits for the device, or allocates, cannot be captured
        torch.cuda.synchronize(contestant.x.device)
        found["replay"] = None
    return found
