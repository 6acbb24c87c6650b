"""The runs of a grid as jobs of a cluster, through submitit.

What was submitted for a run is kept in RUNS/.jobs/ADDRESS/: job.json, and submitit's files and logs. A job goes on when
the command that submitted it ends, and the next one finds it there.
"""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relgrounding._files import replacing
from relgrounding._printing import note
from relgrounding._settings import ConfigError
from relgrounding.cli.ablate._training import Training, Work, last_lines, search_path, work_of

if TYPE_CHECKING:
    from relgrounding.training import Job

BEFORE_THE_END = 120
"""Seconds before its time limit at which a job is told to keep the state of its run."""
OF_A_TERMINAL = {signal.SIGINT, signal.SIGHUP}
LATE = 15
"""Seconds that a result may need to appear in a file system of several machines."""


@dataclass(frozen=True)
class Resources:
    """What each job asks for.

    Attributes:
        cluster: "slurm", or "local" for processes of this machine.
        minutes: time limit; a run that needs longer keeps its state, and its job is queued again, up to three times.
        processes: that train a run together.
        cpus: CPU cores of each process.
        gpus: of a job; None: what the cluster gives.
        memory: of a job, in GB; None: what the cluster gives.
        partition: of Slurm; None: its default.
        sbatch: further options of sbatch, by name.
    """

    cluster: str = "slurm"
    minutes: int = 1440
    processes: int = 1
    cpus: int = 4
    gpus: int | None = None
    memory: float | None = None
    partition: str | None = None
    sbatch: dict[str, str] = field(default_factory=dict)

    def parameters(self, name: str) -> dict[str, Any]:
        """Return the parameters of submitit's AutoExecutor."""
        found = {
            "name": name,
            "timeout_min": self.minutes,
            "nodes": 1,
            "tasks_per_node": 1,
            "cpus_per_task": self.cpus * self.processes,
            "gpus_per_node": self.gpus,
            "mem_gb": self.memory,
            "slurm_partition": self.partition,
            "slurm_signal_delay_s": BEFORE_THE_END,
            "slurm_additional_parameters": self.sbatch or None,
        }
        return {key: value for key, value in found.items() if value is not None}


class Task:
    """What a job does: it trains a run, and keeps its state when the job is about to end."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self) -> list[str]:
        """Train the run; return why it failed, in lines; nothing if it did not."""
        _ignore_held_back()
        self._training = Training(self.work)
        while (failure := self._training.poll()) is None:
            time.sleep(0.5)
        if self._training.signalled:
            # Slurm sends a signal to all processes of a job: the one to this process, which calls `checkpoint`, may
            # be on its way.
            time.sleep(LATE)
        return failure

    def checkpoint(self) -> Any:
        """Interrupt the run, and return what is submitted again; submitit calls it in a handler of signals."""
        from submitit.helpers import DelayedSubmission

        self._training.stop()
        self._training.wait(BEFORE_THE_END / 2)
        return DelayedSubmission(Task(self.work))


class Submitted:
    """A job of a cluster.

    Args:
        folder: of its files.
        facts: of job.json.
        job: of submitit, if this process submitted it.
    """

    def __init__(self, folder: Path, facts: dict[str, str], job: Any = None) -> None:
        import submitit

        kind: Any = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}.get(facts["cluster"])
        if kind is None:
            raise ConfigError(f"{folder}: submitted to {facts['cluster'][:40]!r}; it is slurm or local")
        self.folder, self.facts = folder, facts
        self._job = job or kind(folder, facts["id"])
        self._lost_since: float | None = None

    def over(self) -> bool:
        """Whether it has ended, however it ended."""
        if self._job.paths.result_pickle.exists():
            return True
        if self.facts["cluster"] == "slurm":
            return self._job.done()
        self._job.done()  # takes note of the end of a process that this one started
        return self.facts["host"] != socket.gethostname() or not _runs_here(int(self.facts["id"]))

    def poll(self) -> list[str] | None:
        """Return None while it is not over, then why it failed, in lines; nothing if it did not."""
        if self._job.paths.result_pickle.exists():
            return self._result() if self._job.done() else None  # a process of this machine may be about to end
        if not self.over():
            return None
        now = time.monotonic()
        self._lost_since = self._lost_since or now
        if now - self._lost_since < LATE:
            return None
        state = f" ({self._job.state})" if self.facts["cluster"] == "slurm" else ""
        return self._failure(f"ended without a result{state}")

    def _result(self) -> list[str]:
        from submitit.core.utils import UncompletedJobError

        try:
            return list(self._job.result())
        except UncompletedJobError:  # an exception of the job; its log has the traceback
            return self._failure("failed")

    def _failure(self, what: str) -> list[str]:
        log = self._job.paths.stderr
        *before, last = last_lines(log) or ["no output"]
        return [f"job {self.facts['id']} {what}: {last}; all of it is in {log}", *before]


class Cluster:
    """Trains each run in a job of a cluster; jobs go on when this process ends.

    Args:
        runs: folder of the runs.
        resources: of each job.

    Raises:
        ConfigError: submitit is missing, or the cluster is not here.
    """

    def __init__(self, runs: Path, resources: Resources) -> None:
        try:
            import submitit
        except ImportError:
            raise ConfigError("--launcher submitit needs submitit: pip install 'relgrounding[cluster]'") from None
        self.runs, self.resources = runs, resources
        self._submitit = submitit
        self._started: list[Submitted] = []
        if resources.cluster == "slurm" and submitit.SlurmExecutor.affinity() < 0:
            raise ConfigError("--cluster slurm: there is no Slurm here (no srun); --cluster local needs none")

    def find(self, job: "Job") -> Submitted | None:
        """Return the job of a run, if one was submitted before and is not over.

        Raises:
            RunError: it is being trained otherwise.
        """
        from relgrounding.runs import check_free

        found = submitted(job, self.runs)
        if found is not None and not found.over():
            self._started.append(found)
            return found
        check_free(self.runs / job.name)
        if found is not None:
            note(f"{job.name}: job {found.facts['id']} ended without results; it is submitted again")
        return None

    def start(self, job: "Job") -> Submitted:
        """Submit a run."""
        folder = _folder(job, self.runs)
        for old in folder.glob("*.pkl"):  # another job may get the number of an earlier one
            old.unlink()
        executor = self._submitit.AutoExecutor(folder, self.resources.cluster)
        executor.update_parameters(**self.resources.parameters(job.name))
        work = work_of(job, self.runs, self.resources.cpus, self.resources.processes)
        with _environment(PYTHONPATH=search_path()), _shielded():
            made = executor.submit(Task(work))
        since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        facts = {"run": job.name, "cluster": self.resources.cluster, "id": made.job_id, "host": socket.gethostname()}
        with replacing(folder / "job.json") as beside:
            beside.write_text(json.dumps(facts | {"since": since}) + "\n", encoding="utf-8")
        self._started.append(Submitted(folder, facts, made))
        return self._started[-1]

    def leave(self) -> None:
        """Nothing: jobs go on."""

    def left(self) -> str:
        """Return what goes on, as the end of a sentence."""
        count = sum(not job.over() for job in self._started)
        going = f"{count} jobs go on" if count != 1 else "1 job goes on"
        return f"{going}, and the same command waits for what was submitted and submits the rest"


def submitted(job: "Job", runs: Path) -> Submitted | None:
    """Return the last job that was submitted for a run, if there was one."""
    path = _folder(job, runs) / "job.json"
    try:
        facts = {str(k): str(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
        return Submitted(path.parent, facts) if facts["id"] and facts["host"] else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError):
        raise ConfigError(f"{path}: cannot be read; see whether the job still runs, then remove the file") from None


def refuse_submitted(job: "Job", runs: Path) -> None:
    """Raise ConfigError if a job of a cluster will train a run, or trains it."""
    found = submitted(job, runs)
    if found is not None and not found.over():
        where, number = found.facts["cluster"], found.facts["id"]
        raise ConfigError(
            f"{job.name} was submitted ({where}) as job {number}, which is not over; wait for it with --launcher "
            "submitit, or cancel it"
        )


def _folder(job: "Job", runs: Path) -> Path:
    return runs / ".jobs" / job.address


def _runs_here(number: int) -> bool:
    """Whether a process of submitit with this number runs on this machine."""
    try:
        os.kill(number, 0)
        return b"submitit" in Path(f"/proc/{number}/cmdline").read_bytes()
    except FileNotFoundError:  # a system without /proc
        return not Path("/proc/self").exists()
    except OSError:
        return False


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables for what is started in the block."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
    """Hold back Ctrl-C and the end of the terminal: here until the block ends, from what is started in it for good."""
    signal.pthread_sigmask(signal.SIG_BLOCK, OF_A_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_A_TERMINAL)


def _ignore_held_back() -> None:
    """In a process that was started in `_shielded`: ignore those signals, so that they may be for what it starts."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, []) & OF_A_TERMINAL
    for number in blocked:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
