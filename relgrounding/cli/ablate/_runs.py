"""The runs of a grid, each in a process of its own."""

import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import relgrounding
from relgrounding._printing import printable, progress

if TYPE_CHECKING:
    from relgrounding.training import Job


def run_all(jobs: "list[Job]", runs: Path, at_once: int) -> dict[str, str]:
    """Run what is not done, a row after the one it starts from; return what failed, and why."""
    from relgrounding._signals import look
    from relgrounding.runs import check_free
    from relgrounding.training import job_is_done

    done = {job.name for job in jobs if job_is_done(job, runs)}
    waiting = [job for job in jobs if job.name not in done]
    for job in waiting:
        check_free(runs / job.name)
    failed: dict[str, str] = {}
    runner = Runner(runs, max(1, (os.cpu_count() or 1) // at_once))
    by_key = {(job.experiment, job.row, job.seed): job.name for job in jobs}
    running: dict[Future[str], Job] = {}
    bar: Any = progress(total=len(jobs), initial=len(done), desc="runs", unit="run")
    with ThreadPoolExecutor(at_once) as pool, bar:
        try:
            while waiting or running:
                for job in list(waiting):
                    before = by_key.get((job.experiment, job.start, job.seed), "")
                    if before in failed:
                        failed[job.name] = f"{before} failed, which it starts from"
                        waiting.remove(job)
                    elif len(running) < at_once and (not job.start or before in done):
                        running[pool.submit(runner, job)] = job
                        waiting.remove(job)
                bar.set_postfix_str(", ".join(printable(job.name) for job in running.values()))
                look()
                finished, _ = wait(running, 0.2, FIRST_COMPLETED) if running else (set(), None)
                for future in finished:
                    job, reason = running.pop(future), future.result()
                    if reason:
                        failed[job.name] = reason
                    else:
                        done.add(job.name)
                    bar.update()
        except BaseException:
            runner.stop()
            raise
    return failed


class Runner:
    """Runs jobs in processes of their own.

    Args:
        runs: folder of the runs.
        threads: of each.
    """

    def __init__(self, runs: Path, threads: int) -> None:
        self.runs, self.threads = runs, threads
        self._processes: set[subprocess.Popen] = set()
        self._stopped = threading.Event()

    def __call__(self, job: "Job") -> str:
        """Run a job to its end; return why it failed, or nothing."""
        folder = self.runs / job.name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "relgrounding", "train", "--config", job.file, "--runs", str(self.runs)]
        command += ["--stop-with-stdin", "--threads", str(self.threads), *job.words]
        if (folder / "last.pt").is_file():
            command.append("--resume")
        found = [str(Path(relgrounding.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join(found),  # of a clone that is not installed
        }
        if self._stopped.is_set():
            return "interrupted"
        # A session of its own: Ctrl-C reaches it once, from `stop`, and not a second time from the terminal. Its
        # standard input ends when this process does, however it ends, and the trainer stops then, too.
        with (
            (folder / "train.log").open("ab") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            ) as process,
        ):
            self._processes.add(process)
            if self._stopped.is_set():
                self.stop()
            code = process.wait()
            self._processes.discard(process)
        if code == 0:
            return ""
        text = (folder / "train.log").read_text(encoding="utf-8", errors="replace")
        lines = text.replace("\r", "\n").strip().splitlines()
        return f"exit status {code}: {lines[-1] if lines else 'no output'}; all of it is in {folder / 'train.log'}"

    def stop(self) -> None:
        """Interrupt what runs; each run keeps its state."""
        self._stopped.set()
        for process in list(self._processes):
            if process.stdin is not None:
                process.stdin.close()
