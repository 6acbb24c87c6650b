"""Training steps: their time, their waits for the device, the kernels they launch; variants that are compiled."""

import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.device.report import Report
from benchmarks.graph_specs import images
from benchmarks.step import Step, draw_batch, draw_models
from benchmarks.timing import synchronize
from benchmarks.waits import PretendedGPU
from relgrounding import nn

STEPS = 12
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
KERNELS = {
    "graph_attention._triton_kernels": ("attend", "attend_backward", "row_products", "sum_in_edges"),
    "gated_sum._triton_kernels": ("gather", "scatter", "sum_by_type", "table_products"),
    "graph_attention.triton_dense._kernels": ("attend", "attend_backward_rows", "attend_backward_columns"),
    "gated_sum.triton_dense._kernels": ("gather", "scatter", "bias_products", "scatter_logits"),
    "typed_comparison._triton_kernels": ("gather", "destinations", "scatter", "sum_by_type"),
    "typed_comparison.triton_dense._kernels": ("gather", "destinations", "scatter", "scatter_logits"),
}


def measure_steps(report: Report) -> dict[str, dict[str, Any]]:
    """Measure a MIL step of VGN and of IGN on random features, see `benchmarks.step`."""
    return {name: _measure_step(report, name) for name in ("vgn", "ign")}


def _measure_step(report: Report, name: str) -> dict[str, Any]:
    device = report.device
    model, _ = draw_models(name, "auto", seed=0)
    model.to(device)
    host = [draw_batch(name, 2 if report.dry else 64, 5, seed) for seed in range(2 if report.dry else STEPS)]
    step = Step(model, host[0].to(device), negatives=1 if report.dry else 8)
    times = []
    for batch in [*host[:2], *host]:
        start = time.perf_counter()
        step.batch = batch.to(device)
        step()
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    found: dict[str, Any] = {"milliseconds": statistics.median(times[2:])}
    report.say(f"{name}: a step with its copy to the device takes {found['milliseconds']:.2f} ms")
    if device.type == "cuda":
        found |= _waits(report, name, step, host[0]) | _launches(report, name, step)
    else:
        found |= _pretended_waits(report, name, model, host)
    return found


def _pretended_waits(report: Report, name: str, model: Any, batches: Sequence[Any]) -> dict[str, Any]:
    """Count what would wait for a GPU in a step after the first one; see `benchmarks.waits`."""
    with PretendedGPU() as gpu:
        step = Step(model.to("cuda"), batches[0].to("cuda"), negatives=1)
        step()
        gpu.reset()
        step.batch = batches[1].to("cuda")
        step()
    report.say(f"{name}: {gpu.waits} waits for a pretended GPU in a step: {dict(gpu.lines.most_common(20))}")
    return {"waits": gpu.waits, "waits by line": dict(gpu.lines)}


def _waits(report: Report, name: str, step: Step, batch: Any) -> dict[str, Any]:
    """Count what makes the host wait for the device in a step, by the line of this project that asks for it."""
    lines: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            own = [f for f in traceback.extract_stack() if "relgrounding" in f.filename or "benchmarks" in f.filename]
            lines[f"{Path(own[-2].filename).name}:{own[-2].lineno}" if len(own) > 1 else "elsewhere"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        step.batch = batch.to(report.device)
        step()
        torch.cuda.set_sync_debug_mode("default")
    report.say(f"{name}: {sum(lines.values())} waits for the device in a step: {dict(lines.most_common(20))}")
    return {"waits": sum(lines.values()), "waits by line": dict(lines)}


def _launches(report: Report, name: str, step: Step) -> dict[str, Any]:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(3):
            step()
    events = profiler.key_averages()
    busy = sum(event.self_device_time_total for event in events) / 3e3
    launches = sum(event.count for event in events if event.key in LAUNCHES) / 3
    report.say(f"{name}: the device is busy for {busy:.2f} ms of a step, which launches {launches:.0f} kernels")
    print(events.table(sort_by="self_device_time_total", row_limit=14, max_name_column_width=60), flush=True)
    return {"busy ms": busy, "launches": launches}


def count_variants(report: Report) -> dict[str, int]:
    """Count how often the kernels are compiled while sizes wander: each compilation stops a step for a second."""
    if report.device.type != "cuda":
        report.say("variants are compiled for a GPU alone")
        return {}
    backends = "triton", "triton_dense"
    layers = [
        layer.to(report.device)
        for backend in backends
        for layer in (nn.EdgeGatedGCN(32, 32, 11, backend=backend), nn.GraphAttention(32, 32, 2, backend=backend))
    ]
    comparisons = [nn.RelationalComparison(32, 32, 32, 11, backend=x).to(report.device) for x in backends]
    for size in range(60):
        structure = images(1 + size % 7, 3 + size % 41).structure().to(report.device)
        x = torch.randn(structure.num_nodes, 32, device=report.device, requires_grad=True)
        compared = sum(layer(structure, x, layer.share(x, x)).sum() for layer in comparisons)
        (compared + sum(layer(structure, x).sum() for layer in layers)).backward()
    synchronize(report.device)
    found = {}
    for path, names in KERNELS.items():
        module = import_module(f"relgrounding.ops.{path}")
        for name in names:
            caches = getattr(module, name).device_caches.values()
            found[f"{path}.{name}"] = sum(len(cache[0]) for cache in caches)
    report.say(f"variants compiled: {found}")
    return found
