"""Kills and signals at random moments; each run is resumed until it is finished, and compared with one left alone.

    python -m tests.reliability.campaign --kills 100 --signals 100 --seed 0

Every process is forked from this one, which has imported everything: what is tried are the commands themselves, from
their arguments to their exit status. Everything happens in a temporary folder. Exit status 0: all equal, nothing torn.
"""

import argparse
import collections
import dataclasses
import importlib.util
import itertools
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from relgrounding._files import is_part
from relgrounding._signals import STOPPING, run_command
from relgrounding.features import convert
from relgrounding.runs import RunFolder
from relgrounding.training import _run, _trainer
from tests.reliability.forked import ONE_THREAD, end_with
from tests.reliability.outcome import differences, outcome

PLACES = [
    "elsewhere",
    "reading data",
    "training step",
    "validation",
    "writing a checkpoint",
    "final evaluation",
    "converting",
]
WORDS = [
    "name=run", "data.demo_pairs=40", "data.batch_size=8", "data.validation=0.2", "model.hidden=8", "model.word_dim=8",
    "model.attention_dim=8", "model.fusion_dim=8", "model.relation_dim=8", "model.position_dim=4", "model.top_r=2",
    "model.dropout=0.2", "train.patience=9", "train.warmup_steps=3", "train.log_every=3", "mil.negatives=2",
    "eval.batch_size=4",
]  # fmt: skip
TRAININGS = {
    "MIL": ["train.epochs=6"],
    "MIL, a loading process": ["train.epochs=3", "data.workers=1"],
    "CCL": ["train.epochs=1", "ccl.epochs=2", "ccl.bank_size=50", "ccl.edges=rewired"],
}
CONVERSION = "conversion"
MOST_INTERRUPTIONS = 3
"""Of one run, before it is let through."""

place = mmap.mmap(-1, 1)
"""Where the child is, for the table."""


def tool(name: str) -> Any:
    """Return a module of tools/, which is no package."""
    path = Path(__file__).parents[2] / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tools_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train, prepare = tool("train"), tool("prepare")


def mark(owner: Any, name: str, where: str) -> None:
    """Let a function say that the process is in it."""
    function, code = getattr(owner, name), PLACES.index(where)

    def marked(*args: Any, **kwargs: Any) -> Any:
        before = place[0]
        place[0] = code
        try:
            return function(*args, **kwargs)
        finally:
            place[0] = before

    setattr(owner, name, marked)


mark(_run, "make_task", "reading data")
mark(_trainer.Trainer, "_step", "training step")
mark(_trainer, "validation_metrics", "validation")
mark(RunFolder, "save", "writing a checkpoint")
mark(_run, "score_run", "final evaluation")
mark(convert, "convert_features", "converting")


@dataclasses.dataclass
class Job:
    """A command in a folder of its own, and what it must come to."""

    name: str
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def command(self) -> tuple[Callable, list[str]]:
        """Return the command that begins it or, where there is something to go on from, that goes on."""
        if self.name == CONVERSION:
            return prepare.main, ["features", str(self.folder.parent / "clips"), str(self.folder / "out.h5")]
        again = ["--resume"] if (self.run / "last.pt").is_file() else []
        return train.main, ["--runs", str(self.folder), *again, *WORDS, *TRAININGS[self.name]]

    def outcome(self) -> dict[str, Any]:
        if self.name == CONVERSION:
            return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.name != "stderr"}
        return outcome(self.run)

    def torn(self) -> list[str]:
        """Return the files that a process which died has left in no state to be read."""
        found = []
        for path in self.run.glob("*.pt"):
            try:
                torch.load(path, weights_only=True)
            except Exception:  # whatever half a file leads to
                found.append(path.name)
        # What `replacing` had not finished is nothing that is read, and is gone at the end.
        for path in (path for path in self.run.glob("*.json*") if not is_part(path.name)):
            lines = path.read_bytes().splitlines(keepends=True)
            whole = path.read_bytes() if path.suffix == ".json" else None
            # The last line of the log may be half, which the next process cuts.
            parts = [whole] if whole is not None else [x for x in lines if x.endswith(b"\n") or path.stem != "log"]
            try:
                for part in parts:
                    json.loads(part)
            except ValueError:
                found.append(path.name)
        return found


def start(job: Job) -> int:
    """Fork a process of a job's command; return its number once its handlers are about to be installed."""
    place[0] = 255
    child = os.fork()
    if child:
        while place[0] == 255:
            time.sleep(0.0005)
        return child
    os.setpgid(0, 0)
    log = os.open(job.folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(log, 2)
    main, words = job.command()
    sys.argv[1:] = words

    def ready() -> int:
        place[0] = 0
        return main()

    end_with(lambda: run_command(ready))


@dataclasses.dataclass
class Tally:
    """What has happened so far."""

    hits: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    places: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    equal: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    runs: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    faults: list[str] = dataclasses.field(default_factory=list)
    torn: int = 0
    parts: int = 0

    def interrupted(self, kind: str) -> int:
        return sum(count for (_, which), count in self.hits.items() if which == kind)


def interrupt(job: Job, kind: str, delay: float, rng: random.Random, tally: Tally) -> bool:
    """Start or resume a job and end it after a while; return whether it had ended by itself before."""
    child = start(job)
    time.sleep(delay)
    first = signal.SIGKILL if kind == "kill" else rng.choice(STOPPING)
    second = rng.choice([None, None, rng.choice(STOPPING)]) if kind == "signal" else None
    where = PLACES[place[0]]
    send = os.killpg if kind == "signal" and rng.random() < 0.5 else os.kill
    send(child, first)
    if second is not None:
        time.sleep(rng.random() * 0.005)
        send(child, second)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        return True
    expected = {-signal.SIGKILL} if kind == "kill" else {128 + number for number in (first, second) if number}
    tally.hits[job.name, kind] += 1
    tally.places[where, kind] += 1
    said = (job.folder / "stderr").read_text(errors="replace").replace("\r", "\n").splitlines()
    last = [line for line in said if line.strip()]
    lines = [line for line in last if line.startswith("stopped ")]
    ends = ("goes on", "continues", "starts it", "start the run")
    # A loading process whose main process is gone at once may still say so.
    told = len(lines) == 1 and (second is not None or last[-1] == lines[0]) and any(words in lines[0] for words in ends)
    if code not in expected or (kind == "signal" and not told):
        tally.faults.append(f"{job.name}, {where}: status {code} after {first!r}, {second!r}: {last[-12:]}")
    torn = job.torn()
    tally.torn += len(torn)
    tally.faults += [f"{job.name}, {where}: {name} is torn after {first!r}" for name in torn]
    return False


def finish(job: Job, reference: dict[str, Any], tally: Tally) -> None:
    """Let a job come to its end and compare it."""
    code = os.waitstatus_to_exitcode(os.waitpid(start(job), 0)[1])
    tally.runs[job.name] += 1
    if code:
        tally.faults.append(f"{job.name} ended with {code}: {(job.folder / 'stderr').read_text()[-500:]}")
        return
    parts = list(job.folder.rglob("*.part"))
    tally.parts += len(parts)
    different = differences(reference, job.outcome())
    tally.equal[job.name] += not different and not parts
    tally.faults += [f"{job.folder.name}, {job.name}: {name} differs" for name in different]


def campaign(root: Path, kills: int, signals: int, rng: random.Random) -> Tally:
    """Interrupt and finish runs until there were so many kills and signals."""
    (root / "clips").mkdir()
    numbers = np.random.default_rng(0)
    for i in range(1500):
        np.save(root / "clips" / f"v{i:04}.npy", numbers.standard_normal((20, 64), dtype=np.float32))
    references, seconds = {}, {}
    for number, name in enumerate([*TRAININGS, CONVERSION]):
        job = Job(name, root / f"whole{number}")
        job.folder.mkdir()
        began = time.perf_counter()
        code = os.waitstatus_to_exitcode(os.waitpid(start(job), 0)[1])
        if code:
            raise SystemExit(f"{name} fails by itself: {(job.folder / 'stderr').read_text()}")
        references[name], seconds[name] = job.outcome(), time.perf_counter() - began
        print(f"{name}: {seconds[name]:.2f} s when left alone", flush=True)
    tally = Tally()
    turns = itertools.cycle([*TRAININGS, CONVERSION])
    for number in itertools.count():
        left = {"kill": kills - tally.interrupted("kill"), "signal": signals - tally.interrupted("signal")}
        if not any(left.values()):
            return tally
        job = Job(next(turns), root / f"run{number}")
        job.folder.mkdir()
        for _ in range(rng.randint(1, MOST_INTERRUPTIONS)):
            kinds = [kind for kind in left if tally.interrupted(kind) < (kills if kind == "kill" else signals)]
            if not kinds or interrupt(job, rng.choice(kinds), rng.random() * seconds[job.name], rng, tally):
                break
        finish(job, references[job.name], tally)
        done = tally.interrupted("kill"), tally.interrupted("signal")
        print(f"run {number}: {done[0]} kills, {done[1]} signals, {len(tally.faults)} faults", flush=True)
    return tally


def report(tally: Tally) -> str:
    """Return the tables."""
    jobs = [
        [job, tally.hits[job, "kill"], tally.hits[job, "signal"], tally.runs[job], tally.equal[job]]
        for job in [*TRAININGS, CONVERSION]
    ]
    jobs.append(["all", *(sum(row[i] for row in jobs) for i in range(1, 5))])
    where = [[name, tally.places[name, "kill"], tally.places[name, "signal"]] for name in PLACES]
    return (
        tabulate(jobs, ["", "kills", "signals", "runs", "equal to the one left alone"], tablefmt="pipe")
        + "\n\n"
        + tabulate(where, ["hit while", "kills", "signals"], tablefmt="pipe")
        + f"\n\ntorn files: {tally.torn}; `.part` files left at the end: {tally.parts}; faults: {len(tally.faults)}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        again = [sys.executable, "-m", "tests.reliability.campaign", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **ONE_THREAD})
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(Path(folder), arguments.kills, arguments.signals, random.Random(arguments.seed))
    print(report(tally))
    print("\n".join(tally.faults))
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
