"""The runs of a grid: which may begin, which are over, and what became of them."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from relgrounding._printing import printable, progress
from relgrounding.cli.ablate._training import Training, work_of

if TYPE_CHECKING:
    from relgrounding.training import Job


@runtime_checkable  # so that types can be checked in tests
class Handle(Protocol):
    """A run that was started."""

    def poll(self) -> list[str] | None:
        """Return None while it is not over, then why it failed, in lines; nothing if it did not."""


@runtime_checkable  # likewise
class Launcher(Protocol):
    """Where runs are trained."""

    def find(self, job: "Job") -> Handle | None:
        """Return a run that was started before and is not over, if this launcher waits for those.

        Raises:
            RunError: it is being trained otherwise.
        """

    def start(self, job: "Job") -> Handle:
        """Start a run."""

    def leave(self) -> None:
        """Do what there is to do about runs that are not over when the command is interrupted."""


class Local:
    """Trains runs in processes of this machine, which end with this one.

    Args:
        runs: folder of the runs.
        at_once: how many; the cores are shared out between them, unless OMP_NUM_THREADS gives the threads of each.
        processes: of each.
    """

    def __init__(self, runs: Path, at_once: int, processes: int = 1) -> None:
        self.runs, self.processes = runs, processes
        given = os.environ.get("OMP_NUM_THREADS", "")
        shared = (os.cpu_count() or 1) // (at_once * processes)
        self.threads = max(1, int(given) if given.isascii() and given.isdecimal() else shared)
        self._started: list[Training] = []

    def find(self, job: "Job") -> None:
        """Refuse a run that is being trained, or waits in the queue of a cluster."""
        from relgrounding.cli.ablate._cluster import refuse_submitted
        from relgrounding.runs import check_free

        check_free(self.runs / job.name)
        refuse_submitted(job, self.runs)

    def start(self, job: "Job") -> Training:
        """Start a run."""
        self._started.append(Training(work_of(job, self.runs, self.threads, self.processes)))
        return self._started[-1]

    def leave(self) -> None:
        """Interrupt what runs; each run keeps its state."""
        for training in self._started:
            training.stop()
        for training in self._started:
            while training.poll() is None:
                time.sleep(0.1)


def run_all(jobs: "Sequence[Job]", runs: Path, launcher: Launcher, at_once: int) -> dict[str, list[str]]:
    """Run what is not done, a row after the one that it starts from; return what failed, and why.

    Args:
        jobs: of the grid; those of the same name are one run.
        runs: folder of the runs.
        launcher: what trains them.
        at_once: most runs that are started and not over.
    """
    from relgrounding._signals import look
    from relgrounding.training import job_is_done

    unique: dict[str, Job] = {}
    for job in jobs:
        unique.setdefault(job.name, job)
    done = {name for name, job in unique.items() if job_is_done(job, runs)}
    waiting = [job for name, job in unique.items() if name not in done]
    running = {job.name: handle for job in waiting if (handle := launcher.find(job))}
    waiting = [job for job in waiting if job.name not in running]
    failed: dict[str, list[str]] = {}
    bar: Any = progress(total=len(unique), initial=len(done), desc="runs", unit="run")
    with bar:
        try:
            while waiting or running:
                for job in list(waiting):
                    before = job.before.name if job.before else ""
                    if before in failed:
                        failed[job.name] = [f"{before} failed, which it starts from"]
                        waiting.remove(job)
                    elif len(running) < at_once and (not before or before in done):
                        running[job.name] = launcher.start(job)
                        waiting.remove(job)
                bar.set_postfix_str(_some(list(running)))
                look()
                time.sleep(0.2)
                for name, handle in list(running.items()):
                    reason = handle.poll()
                    if reason is None:
                        continue
                    del running[name]
                    if reason:
                        failed[name] = reason
                    else:
                        done.add(name)
                    bar.update()
        except BaseException:
            launcher.leave()
            raise
    return failed


def _some(names: list[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + rest
