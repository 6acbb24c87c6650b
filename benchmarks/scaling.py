"""How training grows with processes, measured and modelled: ``python -m benchmarks.scaling --data DATA``.

1. What a step costs (`benchmarks.cost`): operations and bytes of `charades_vgn` (stage 1) and `flickr30k_ign`, with
   their batches as they are read, and a count of the operators that a step calls.
2. The speed of `relgrounding train` under torchrun with 1 and with 2 processes of one thread each, and the same whole
   batch: that of the configuration, and a larger one. Beside them, as what the machine can give, two trainings of one
   process and half of the batch at once, which share nothing. Runs take turns, so that whatever else the machine does
   meets all; the first steps of each do not count, and each is stopped once it has its steps. Speed is queries per
   second of training, between lines of log.jsonl, with reading of data and without validation.
3. What the model says of more processors: by default H100s in nodes of eight, with the peaks of their data sheets and
   with efficiency, costs of calls and latencies that are assumptions (`--help` names each). Nothing of this part was
   measured.

Writes OUT/scaling.json and, with the extra `plot`, OUT/scaling.png, prints the tables, and with `--page` puts them
into docs/scaling.md.

DATA holds the files of both configurations (docs/data.md). The default takes some fifteen minutes on two cores, of
which nothing else should need any; `--measured FILE` takes part 2 from an earlier scaling.json.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import machine, outputs
from benchmarks.cost import Machine, Sizes, Workload, crossing, flops, gathered_bytes, gradient_bytes
from benchmarks.scaling_report import GPUS, RUNS, draw, tables, write_page
from relgrounding.config import Config, load_config
from relgrounding.modalities import make_loader, training_batches
from relgrounding.objectives import OBJECTIVES
from relgrounding.training import build_model, make_task

ROOT = Path(__file__).parents[1]
CONFIGURATIONS = {"charades_vgn": ["cotrain.epochs=0"], "flickr30k_ign": []}
SOURCES = {
    "peak": "operations per second of a processor: 67e12, float32 of an H100 SXM, its data sheet, "
    "https://www.nvidia.com/en-us/data-center/h100/",
    "efficiency": "share of it that the products reach: assumed",
    "calls": "seconds per call of an operator: 5 to 25 us for PyTorch on an H100, "
    "https://jiahuanglin.xyz/all_lessons/gpu_kernel_serving/18_pytorch_to_kernel.html",
    "inside": "bytes per second and direction between processors of a node: 450e9, half of the 900e9 of NVLink, the "
    "data sheet of the H100",
    "between": "bytes per second and direction between nodes per processor: 50e9, 400 Gb/s InfiniBand NDR, "
    "https://www.nvidia.com/en-us/networking/infiniband-adapters/",
    "latency_inside": "seconds per step of a collective in a node: assumed",
    "latency_between": "seconds per step of a collective between nodes: assumed",
    "per_node": "processors of a node",
}


class _Calls(TorchDispatchMode):
    """Counts calls of operators that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def workload(name: str, config: Config, batches: int = 8) -> tuple[Workload, dict[str, dict[str, int]]]:
    """Return what a step of stage 1 of a configuration costs, with the mean sizes of its first batches; and by size."""
    task = make_task(config)
    model = build_model(task).train()
    sampler = training_batches(task.train.queries, task.train.store, task.modality, config.data, config.seed)
    loader = iter(make_loader(task.collator(task.train), sampler, 0))
    seen = [next(loader) for _ in range(batches)]
    sizes = Sizes(
        items=len(seen[0]),
        proposals=_mean([batch.structure.num_nodes / len(batch) for batch in seen]),
        words=_mean([batch.words.shape[1] for batch in seen]),
        negatives=config.objectives["mil"].negatives,
        clips=_mean([batch.clips.shape[1] for batch in seen]) if hasattr(seen[0], "clips") else 0,
    )
    generator = torch.Generator().manual_seed(0)
    kinds = [OBJECTIVES.get(kind) for kind in config.train.objectives]
    objectives = [kind(model, config.sections, generator) for kind in kinds]
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for calls in (None, _Calls()):  # what is made on first use is not counted
        with calls or contextlib.nullcontext():
            optimizer.zero_grad()
            losses = [objective(seen[0])[0] for objective in objectives]
            sum(losses[1:], losses[0]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
            optimizer.step()
    count = calls.count if calls else 0
    parts = flops(model, sizes)
    changed = {"as it is": sizes} | {
        f"twice the {key}": replace(sizes, **{key: 2 * getattr(sizes, key)})
        for key in ("items", "proposals", "words", "negatives", "clips") if getattr(sizes, key)
    }  # fmt: skip
    by_size = {what: flops(model, of) | {"gathered": gathered_bytes(model, of)} for what, of in changed.items()}
    found = Workload(name, sizes, sum(parts.values()), gradient_bytes(model), gathered_bytes(model, sizes), count)
    return found, by_size


def _mean(values: list[float]) -> int:
    return round(statistics.fmean(values))


def speeds(name: str, words: list[str], batch: int, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Yield a kind of runs, of `RUNS`, and their queries per second; the kinds take turns, with a whole batch."""
    for turn in range(options.turns):
        for kind, (jobs, processes) in list(RUNS.items())[:: 1 - 2 * (turn % 2)]:
            said = f"{name}, batch {batch}, {kind}, turn {turn + 1} of {options.turns}: running"
            print(said, file=sys.stderr, flush=True)
            with contextlib.ExitStack() as stack:
                started = [
                    stack.enter_context(_job(name, [*words, f"data.batch_size={batch // jobs}"], processes, options))
                    for _ in range(jobs)
                ]
                while not all(has_steps() for has_steps, _ in started):
                    time.sleep(0.2)
                yield kind, sum(rate(_lines(log), batch // jobs, options.warm) for _, log in started)


@contextlib.contextmanager
def _job(
    name: str, words: list[str], processes: int, options: argparse.Namespace
) -> Iterator[tuple[Callable[[], bool], Path]]:
    """Start a training; give a function that tells whether it has its steps, and its log; stop it in the end."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    settings = [f"data.root={options.data.absolute()}", "name=run", "device=cpu", "train.log_every=5", *words]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "printed").open("w+b") as printed:
        launcher += ["--log-dir", folder]
        command = [sys.executable, *launcher, "-m", "relgrounding", "train", name, "--runs", folder, "--threads", "1"]
        log = Path(folder) / "run" / "log.jsonl"
        job = subprocess.Popen(
            [*command, *settings],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        def has_steps() -> bool:
            if job.poll() is not None:
                printed.seek(0)
                sys.exit(f"{' '.join(command)} ended: {printed.read().decode(errors='replace')[-2000:]}")
            return bool(lines := _lines(log)) and lines[-1]["step"] >= options.warm + options.steps

        try:
            yield has_steps, log
        finally:
            job.send_signal(signal.SIGTERM)
            try:
                job.wait(60)
            except subprocess.TimeoutExpired:
                job.kill()


def _lines(log: Path) -> list[dict[str, Any]]:
    content = log.read_bytes() if log.is_file() else b""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def rate(lines: list[dict[str, Any]], batch: int, warm: int) -> float:
    """Return queries per second: of the median interval between lines of a log, after some steps."""
    kept = [line for line in lines if line["step"] >= warm and "loss" in line]
    seconds = [(b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in pairwise(kept)]
    return batch / statistics.median(seconds)


def carried(workload: Workload, assumed: Machine) -> dict[str, Any]:
    """Return what the model says of more processors."""
    return {
        "one batch": {n: workload.speedup(assumed, n, gather=False) for n in GPUS},
        "a batch each": {n: workload.speedup(assumed, n, share=float(n)) for n in GPUS},
        "a batch each, gathered": {n: workload.speedup(assumed, n, share=float(n), gather=True) for n in GPUS},
        "microseconds": {
            n: {what: 1e6 * s for what, s in workload.times(assumed, n).items()} for n in (1, 8, 512)
        },
        "crossing": {what: crossing(workload, assumed, what) for what in ("all-reduce", "all-gather")},
        "crossing, a batch each": {
            what: crossing(workload, assumed, what, weak=True) for what in ("all-reduce", "all-gather")
        },
    }  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the files of both configurations")
    parser.add_argument(
        "--out", type=outputs.folder, default=ROOT / "benchmarks" / "results", help="default: %(default)s"
    )
    parser.add_argument("--turns", type=int, default=3, help="runs of each kind; 0: none (default: %(default)s)")
    parser.add_argument(
        "--batches", type=int, nargs="*", default=[256], help="whole batches beside the configured (default: 256)"
    )
    parser.add_argument("--warm", type=int, default=5, help="first steps, which do not count (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="steps that count (default: %(default)s)")
    parser.add_argument(
        "--features", nargs="+", default=[], metavar="NAME=FILE", help="features of a configuration that are elsewhere"
    )
    parser.add_argument("--page", type=Path, help="page whose tables are replaced, docs/scaling.md")
    parser.add_argument("--measured", type=Path, help="scaling.json that has part 2")
    group = parser.add_argument_group("assumptions of part 3")
    for value in fields(Machine):
        option, default = "--" + value.name.replace("_", "-"), value.default
        group.add_argument(option, type=type(default), default=default, help=f"{SOURCES[value.name]} (%(default)s)")
    return parser


def main() -> None:
    """Measure, and write what was found."""
    options = make_parser().parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # as Ctrl-C does, it stops the trainings
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine.facts(torch.device("cpu")), "cost": {}, "measured": {}, "modelled": {}}
    assumed = Machine(**{value.name: getattr(options, value.name) for value in fields(Machine)})
    found["assumed"] = {key: {"value": value, "what": SOURCES[key]} for key, value in asdict(assumed).items()}
    features = dict(word.split("=", 1) for word in options.features)
    for name, usual in CONFIGURATIONS.items():
        words = [*usual, f"data.features={Path(features[name]).absolute()}"] if name in features else usual
        config = load_config(name, [f"data.root={options.data}", "device=cpu", *words])
        work, by_size = workload(name, config)
        found["cost"][name] = asdict(work) | {"by size": by_size}
        found["modelled"][name] = carried(work, assumed)
        if options.measured or not options.turns:
            continue
        for batch in sorted({config.data.batch_size, *options.batches}):
            by_kind: dict[str, list[float]] = {kind: [] for kind in RUNS}
            for kind, speed_of in speeds(name, words, batch, options):
                said = f"{name}, batch {batch}, {kind}: {speed_of:.0f} queries per second"
                print(said, file=sys.stderr, flush=True)
                by_kind[kind].append(speed_of)
            found["measured"][f"{name}, {batch}"] = by_kind
    if options.measured:
        before = json.loads(options.measured.read_text())
        found |= {key: before[key] for key in ("measured", "machine")}
    found = json.loads(json.dumps(found))
    (options.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    print("\n\n".join(tables(found).values()))
    if options.page:
        write_page(options.page, found)
    with contextlib.suppress(ImportError):
        draw(found, options.out / "scaling.png")


if __name__ == "__main__":
    main()
