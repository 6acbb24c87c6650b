"""Kills of a random process of distributed training: ``python -m benchmarks.kills --kills 50``.

Tiny runs of two and three processes are started by torchrun, and one of their processes is killed (SIGKILL) or asked to
stop (SIGTERM) at a random moment, up to three times per run. Then they go on: by the same command with ``--resume
auto``, in the end on one, two or three processes, or by themselves with torchrun's ``--max-restarts``.

What must hold: the whole job ends within ``train.timeout`` of the kill and leaves no process behind, every checkpoint
is whole (where torchrun restarts the processes, it is read at the end), and the run ends. Where the number of processes
stayed the same, its checkpoints with their random states, log, TensorBoard points, predictions and results equal, but
for seconds, those of a run that was left alone. On another number of processes it has taken the same number of steps.
Exit status 0: all of this held.

Linux only. Processes are forked (`tests.reliability.forked`); nothing is killed but what this script has started.
"""

import argparse
import collections
import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmarks import machine, outputs
from relgrounding.runs import WHOLE, RunError, RunFolder
from tests.reliability.forked import ONE_THREAD, Child, ranks, torchrun
from tests.reliability.outcome import differences, outcome

TIMEOUT = 60
"""Seconds of `train.timeout`."""
WORDS = [
    "name=run", "device=cpu", "data.demo_pairs=40", "data.batch_size=12", "data.validation=0.2", "model.hidden=8",
    "model.word_dim=8", "model.attention_dim=8", "model.fusion_dim=8", "model.relation_dim=8", "model.position_dim=4",
    "model.top_r=2", "model.dropout=0.2", "train.patience=99", "train.warmup_steps=3", "train.log_every=3",
    "mil.negatives=2", "eval.batch_size=4", f"train.timeout={TIMEOUT / 60:g}",
]  # fmt: skip
KINDS = {
    "MIL": ["train.epochs=8"],
    "CCL": ["train.epochs=2", "ccl.epochs=3", "ccl.bank_size=50", "ccl.edges=rewired"],
}
SIZES = (2, 3)
MOST_KILLS = 3
"""Of one run."""
EARLY = 0.1
"""Share of kills while the processes join one another and read data."""
PATIENCE = 600
"""Seconds for what no kill disturbs."""


@dataclasses.dataclass
class Kill:
    """One kill and what it led to.

    Attributes:
        run: number of the run.
        kind: of training.
        processes: of the job.
        rank: of the process that was killed.
        signal: its name.
        moment: seconds after training began, 0: it had not.
        ended: seconds until every process of the job was gone.
        step: of the checkpoint after it, None: there was none, or torchrun restarted the processes at once.
    """

    run: int
    kind: str
    processes: int
    rank: int
    signal: str
    moment: float
    ended: float = 0.0
    step: int | None = None


class Job:
    """A run, and the torchrun that works on it.

    Args:
        kind: of training, one of `KINDS`.
        folder: where the run is.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.run = RunFolder(folder / "run")
        self.agent: Child | None = None
        self.since = 0.0
        """When the present processes began."""

    def start(self, processes: int, restarts: int = 0) -> None:
        """Start or resume the run."""
        self.since = time.time()
        options = ["--standalone", "--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
        words = ["--runs", str(self.folder), "--resume", "auto", *WORDS, *KINDS[self.kind]]
        self.agent = torchrun(options, words, self.folder)

    def ranks(self) -> dict[int, int]:
        """Return the process id of each rank that runs."""
        return {} if self.agent is None else ranks(self.agent, self.folder)

    def ended(self) -> bool:
        """Whether torchrun has ended."""
        return self.agent is None or self.agent.poll() is not None

    def ended_well(self) -> bool:
        """Wait for the end; return whether it is one without an error."""
        return wait(self.ended, PATIENCE) and self.agent is not None and self.agent.returncode == 0

    def training(self) -> float:
        """Return since how many seconds these processes train: since config.yaml was written; 0: they do not yet."""
        with contextlib.suppress(OSError):
            begun = (self.run.path / "config.yaml").stat().st_mtime
            return time.time() - begun if begun > self.since else 0.0
        return 0.0

    def stop(self) -> None:
        """Kill what is left of the job."""
        for pid in [*self.ranks().values(), *([] if self.agent is None or self.ended() else [self.agent.pid])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.agent is not None:
            self.agent.wait()

    def said(self) -> str:
        """Return the end of what the processes printed."""
        return (self.folder / "said").read_text(errors="replace")[-3000:]


def wait(condition: Callable[[], Any], seconds: float) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Campaign:
    """Runs, kills, and the faults that they showed.

    Args:
        root: folder for the runs.
        kills: number of kills.
        rng: draws all that is random.
    """

    def __init__(self, root: Path, kills: int, rng: random.Random) -> None:
        self.root, self.wanted, self.rng = root, kills, rng
        self.kills: list[Kill] = []
        self.runs: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self._left_alone: dict[tuple[str, int], tuple[dict[str, Any], float]] = {}

    def left_alone(self, kind: str, processes: int) -> tuple[dict[str, Any], float]:
        """Return the outcome of a run that nothing disturbs, and the seconds that it trains."""
        if (kind, processes) not in self._left_alone:
            job = Job(kind, self.root / f"{kind}-{processes}")
            job.start(processes)
            try:
                wait(lambda: job.ended() or job.training(), PATIENCE)
                begun = time.monotonic()
                if not job.ended_well():
                    raise SystemExit(f"{kind} on {processes} processes fails by itself:\n{job.said()}")
            finally:
                job.stop()
            seconds = time.monotonic() - begun
            self._left_alone[kind, processes] = outcome(job.run.path), seconds
            print(f"{kind}, {processes} processes: {seconds:.1f} s of training when left alone", flush=True)
        return self._left_alone[kind, processes]

    def go(self) -> None:
        """Kill until there were enough."""
        turns = itertools.cycle(itertools.product(KINDS, SIZES))
        for number in itertools.count():
            if len(self.kills) >= self.wanted:
                return
            kind, processes = next(turns)
            self.left_alone(kind, processes)
            job = Job(kind, self.root / f"run{number}")
            try:
                self._run(number, job, processes)
            finally:
                job.stop()
            print(f"run {number}: {len(self.kills)} kills, {len(self.faults)} faults", flush=True)
            shutil.rmtree(job.folder)

    def _run(self, number: int, job: Job, processes: int) -> None:
        """Kill a run some times, let it end, and compare it."""
        kills = min(self.rng.randint(1, MOST_KILLS), self.wanted - len(self.kills))
        by_itself = self.rng.random() < 1 / 3
        last = processes if by_itself or self.rng.random() < 0.4 else self.rng.choice([1, 2, 3])
        for turn in range(kills):
            if turn == 0 or not by_itself:
                job.start(processes, kills if by_itself else 0)
            if not self._kill(number, job, processes, by_itself):
                break
        if not by_itself:
            wait(job.ended, PATIENCE)
            job.start(last)
        facts = {"run": number, "kind": job.kind, "processes": processes, "ended on": last, "by itself": by_itself}
        self.runs.append(facts | {"kills": sum(kill.run == number for kill in self.kills), "as it must": False})
        if not job.ended_well():
            self.faults.append(f"run {number} does not end well: {job.said()}")
        elif wrong := self._different(job, processes, last):
            self.faults.append(f"run {number}, {job.kind}, {processes} processes, then {last}: {wrong}")
        else:
            self.runs[-1]["as it must"] = True

    def _different(self, job: Job, processes: int, last: int) -> str:
        reference, _ = self.left_alone(job.kind, processes)
        found = outcome(job.run.path)
        if last == processes:
            names = differences(reference, found)
            return f"{', '.join(names)} differ" if names else ""
        steps = [one["last.pt"]["state"]["step"] for one in (reference, found)]
        return "" if steps[0] == steps[1] and "results.json" in found else f"{steps} steps, files {found['files']}"

    def _kill(self, number: int, job: Job, processes: int, by_itself: bool) -> bool:
        """Kill a process of a job that has just begun; return whether the job had not ended before."""
        if not wait(lambda: len(job.ranks()) == processes or job.ended(), PATIENCE):
            self.faults.append(f"run {number} does not start: {job.said()}")
            return False
        if self.rng.random() < EARLY:
            time.sleep(self.rng.random())
        else:
            wait(lambda: job.training() or job.ended(), PATIENCE)
            time.sleep(0.9 * self.left_alone(job.kind, processes)[1] * self.rng.random())
        running = job.ranks()
        if job.ended() or len(running) < processes:
            return False
        rank, name = self.rng.randrange(processes), self.rng.choice(["SIGKILL", "SIGTERM"])
        kill = Kill(number, job.kind, processes, rank, name, round(job.training(), 2))
        os.kill(running[rank], signal.Signals[name])
        job.since, at = time.time(), time.monotonic()
        self.kills.append(kill)
        gone = wait(lambda: not {*running.values()} & {*job.ranks().values()} and (by_itself or job.ended()), TIMEOUT)
        kill.ended = round(time.monotonic() - at, 2)
        if not gone:
            self.faults.append(f"{kill}: still there after {TIMEOUT} s: {job.said()}")
            job.stop()
        elif not by_itself:
            self._check_files(job, kill)
        return gone

    def _check_files(self, job: Job, kill: Kill) -> None:
        """See that every checkpoint is whole, and that log and results can be read."""
        try:
            if job.run.started:
                kill.step = job.run.load("last.pt", WHOLE)["state"]["step"]
            for path in job.run.path.glob("*.pt"):
                job.run.load(path.name)
            if (job.run.path / "log.jsonl").is_file():
                job.run.read_log()
            if (job.run.path / "results.json").is_file():
                job.run.read_results()
        except RunError as error:
            self.faults.append(f"{kill}: {error}")

    def table(self) -> str:
        """Return what happened to the runs that a kill met before they ended."""
        rows, killed = [], [run for run in self.runs if run["kills"]]
        for kind, processes in itertools.product(KINDS, SIZES):
            kills = [kill for kill in self.kills if (kill.kind, kill.processes) == (kind, processes)]
            runs = [run for run in killed if (run["kind"], run["processes"]) == (kind, processes)]
            count = collections.Counter(kill.signal for kill in kills)
            row = [f"{kind}, {processes} processes", count["SIGKILL"], count["SIGTERM"]]
            row += [f"{max((kill.ended for kill in kills), default=0.0):.1f}"]
            for same in (True, False):
                those = [run for run in runs if (run["ended on"] == processes) is same]
                row += [f"{sum(run['as it must'] for run in those)} of {len(those)}"]
            rows.append(row)
        heads = ["", "SIGKILL", "SIGTERM", "slowest end, s", "equal, on as many", "ended, on more or fewer"]
        early, by_itself = sum(kill.moment == 0 for kill in self.kills), sum(run["by itself"] for run in killed)
        return (
            tabulate(rows, heads, tablefmt="pipe")
            + f"\n\n{len(self.kills)} kills of {len(killed)} runs, {early} before training had begun; {by_itself} "
            + f"runs were restarted by torchrun itself; faults: {len(self.faults)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "machine": machine.facts(torch.device("cpu")),
            "timeout": TIMEOUT,
            "kills": [dataclasses.asdict(kill) for kill in self.kills],
            "runs": self.runs,
            "faults": self.faults,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=outputs.file, help="file for all of it as JSON", metavar="FILE")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        again = [sys.executable, "-m", "benchmarks.kills", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **ONE_THREAD})
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # as Ctrl-C does, it stops the trainings
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), arguments.kills, random.Random(arguments.seed))
        campaign.go()
    if arguments.out:
        command = f"python -m benchmarks.kills --kills {arguments.kills} --seed {arguments.seed}"
        text = json.dumps({"command": command, **campaign.to_json()}, indent=1)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    print(campaign.table())
    print("\n".join(campaign.faults))
    return 1 if campaign.faults else 0


if __name__ == "__main__":
    sys.exit(main())
