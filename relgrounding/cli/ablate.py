"""Run a grid of settings over data sets and seeds, and write its table and plot.

    relgrounding ablate ccl --out benchmarks/results/ccl
    relgrounding ablate ccl --out benchmarks/results/ccl --table      what there is so far
    relgrounding ablate own_grid.yaml --out own_grid

Writes OUT/table.md, OUT/cells.json and, with the extra `plot`, OUT/plot.png; the runs go to --runs. Ctrl-C keeps the
state of every run; the same command goes on from there. A run that is done is not run again. The runs stop, and keep
their state, when this command ends, even if it is killed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import relgrounding
from relgrounding._files import check_output, check_output_folder, replacing
from relgrounding._printing import printable, progress, show
from relgrounding._settings import ConfigError, find_config

if TYPE_CHECKING:
    from relgrounding.training import Grid, Job

ERRORS = (ValueError,)


LEFT = "the same command goes on from here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("grid", help="a grid that comes with the package (ccl), or a YAML file, see docs/ccl.md")
    parser.add_argument("--out", type=Path, required=True, help="folder of table and plot")
    parser.add_argument("--runs", type=Path, help="folder of the runs (default: runs/NAME of the grid)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: one per core)")
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="run these only (default: all)")
    parser.add_argument("--table", action="store_true", help="run nothing, write what there is")


def run(arguments: argparse.Namespace) -> int:
    """Run the grid."""
    from relgrounding.runs import RunFolder, hold_run
    from relgrounding.training import grid_jobs, read_grid

    path = find_config(arguments.grid, "ablations")
    grid = read_grid(path)
    runs = (arguments.runs or Path("runs") / grid.name).absolute()
    check_output_folder(arguments.out)
    for name in ("table.md", "cells.json", "plot.png"):
        check_output(arguments.out / name, [path])
    unknown = sorted(set(arguments.only or ()) - set(grid.experiments))
    if unknown:
        raise ConfigError(f"--only: there is no experiment {unknown[0]!r}; there is {', '.join(grid.experiments)}")
    failed: dict[str, str] = {}
    if not arguments.table:
        jobs = [job for job in grid_jobs(grid, runs) if not arguments.only or job.experiment in arguments.only]
        with hold_run(RunFolder(runs)):  # of the grid: its runs are held by their trainers
            failed = run_all(jobs, runs, max(1, arguments.jobs))
    write(grid, runs, arguments, failed)
    for name, reason in failed.items():
        show(f"failed: {printable(name)}: {printable(reason)}", sys.stderr)
    return 1 if failed else 0


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


def write(grid: "Grid", runs: Path, arguments: argparse.Namespace, failed: dict[str, str]) -> None:
    """Write table, figures as numbers, and plot."""
    import torch

    from relgrounding.training import grid_cells, grid_results, grid_table
    from relgrounding.viz import ablation_figure, save_figure

    found = grid_cells(grid, runs)
    out: Path = arguments.out
    results = grid_results(grid, runs)
    finished = sum(map(bool, results.values()))
    reference = f" In brackets: difference to *{grid.reference}* of the same seeds." if grid.reference else ""
    header = (
        f"# {grid.name}\n\n{grid.note.strip()}\n\n"
        f"Mean and standard deviation over the seeds {', '.join(map(str, grid.seeds))}.{reference} "
        f"{finished} of {len(results)} runs{f', {len(failed)} failed' if failed else ''}; "
        f"torch {torch.__version__}, Python {platform.python_version()}.\n\n"
        f"`relgrounding ablate {arguments.grid} --out {out}`\n\n"
    )
    with replacing(out / "table.md") as beside:
        beside.write_text(header + grid_table(grid, runs), encoding="utf-8")
    numbers = {
        name: {row: {title: cell.values for title, cell in cells.items()} for row, cells in part.items()}
        for name, part in found.items()
    }
    with replacing(out / "cells.json") as beside:
        beside.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    show(f"written to {printable(out)}: table.md, cells.json", end="")
    points = {
        name: {row: {title: (c.mean, c.deviation) for title, c in cells.items()} for row, cells in part.items()}
        for name, part in found.items()
    }
    try:
        save_figure(ablation_figure(points, list(grid.rows), grid.reference), out / "plot.png")
        print(", plot.png")
    except (ImportError, ValueError) as error:
        show(f"; no plot: {printable(error)}")
