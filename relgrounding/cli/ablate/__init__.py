"""Run a grid of settings over data sets and seeds, and write its table and plot.

    relgrounding ablate ccl --out benchmarks/results/ccl
    relgrounding ablate ccl --out benchmarks/results/ccl --table      what there is so far
    relgrounding ablate ccl --list                                    each run: its hash, state and folder
    relgrounding ablate own_grid.yaml --out own_grid
    relgrounding ablate own_grid.yaml --out own_grid --launcher submitit --partition gpu --gpus 1 --time 240

Writes OUT/table.md, OUT/differences.md (each row against its reference, query by query, by kind of query, with 95 %
bootstrap intervals over queries and seeds), both as numbers in OUT/cells.json and OUT/differences.json, and, with the
extra `plot`, as OUT/plot.png and OUT/differences.png; the runs go to --runs. A run's folder ends with a hash of its
settings: a grid may be extended and its rows renamed, and rows with equal settings share a run. A run that is done is
not run again; one that failed is. Ctrl-C keeps the state of every run; the same command continues from there.

With --launcher local, the runs stop, and keep their state, when this command ends, even if it is killed. With
--launcher submitit (extra `cluster`), each run is a job of Slurm, or with --cluster local a process of this machine;
jobs continue when this command ends, and the same command waits for them. A row that starts from another one is
submitted by this command once that is done.
"""

import argparse
import json
import os
import platform
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from relgrounding._files import check_output, check_output_folder, replacing
from relgrounding._printing import printable, show
from relgrounding._settings import ConfigError, find_config
from relgrounding._urls import masked
from relgrounding.cli import at_least, local
from relgrounding.cli.ablate._check import check_runs
from relgrounding.cli.ablate._differences import Found, as_numbers, differences, differences_text
from relgrounding.cli.ablate._runs import Launcher, Local, run_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from relgrounding.training import Cell, Grid, Job

ERRORS = (ValueError,)
FILES = ("table.md", "differences.md", "cells.json", "differences.json", "plot.png", "differences.png")
TEXTS = FILES[:4]

LEFT = "the same command goes on from here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "grid", help="a grid that comes with the package (ccl, relations), or a YAML file, see docs/grids.md"
    )
    parser.add_argument("--out", type=local, help="folder of table and plot; not needed with --list")
    parser.add_argument("--runs", type=local, help="folder of the runs (default: runs/NAME of the grid)")
    count = at_least(int, 1)
    parser.add_argument(
        "--jobs",
        type=count,
        help="runs at a time (default: one per core; Slurm: all), which share the cores unless $OMP_NUM_THREADS is set",
    )
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="run these only (default: all)")
    parser.add_argument("--table", action="store_true", help="run nothing, write what there is")
    parser.add_argument("--list", action="store_true", help="run nothing, print the state of each run")
    parser.add_argument(
        "--processes", type=count, default=1, help="that train a run together, by torchrun (default: %(default)s)"
    )
    parser.add_argument("--launcher", choices=("local", "submitit"), default="local", help="default: %(default)s")
    cluster = parser.add_argument_group("with --launcher submitit")
    cluster.add_argument("--cluster", choices=("slurm", "local"), help="local: processes here (default: slurm)")
    cluster.add_argument("--partition", help="of Slurm (default: its own)")
    cluster.add_argument(
        "--time",
        type=count,
        metavar="MINUTES",
        help="time limit of a job, after which its run keeps its state and is queued again, up to three times "
        "(default: a day)",
    )
    cluster.add_argument("--gpus", type=at_least(int, 0), help="per job (default: what the cluster gives; local: none)")
    cluster.add_argument("--cpus", type=count, help="CPU cores per process (default: 4)")
    cluster.add_argument("--memory", type=at_least(float, 0.1), metavar="GB", help="per job (default: the cluster's)")
    cluster.add_argument(
        "--sbatch", nargs="+", metavar="OPTION=VALUE", help="further options of sbatch, such as account=vision qos=long"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the grid."""
    from relgrounding.runs import RunFolder, hold_run
    from relgrounding.training import grid_jobs, read_grid

    path = find_config(arguments.grid, "ablations")
    grid = read_grid(path)
    runs = (arguments.runs or Path("runs") / grid.name).absolute()
    unknown = sorted(set(arguments.only or ()) - set(grid.experiments))
    if unknown:
        raise ConfigError(f"--only: there is no experiment {unknown[0]!r}; there is {', '.join(grid.experiments)}")
    check_outputs(arguments, path)
    jobs = grid_jobs(grid, runs)
    chosen = [job for job in jobs if not arguments.only or job.experiment in arguments.only]
    if arguments.list:
        from relgrounding.cli.ablate._states import states_text

        show(states_text(chosen, runs))
        return 0
    failed: dict[str, list[str]] = {}
    if not arguments.table:
        check_runs(grid, chosen)
        launcher, at_once = launcher_of(arguments, runs, len(chosen))
        with hold_run(RunFolder(runs)):  # of the grid: its runs are held by their trainers
            failed = run_all(chosen, runs, launcher, at_once)
    for name, (reason, *lines) in failed.items():
        show(f"failed: {printable(name)}: {printable(reason)}", sys.stderr)
        for line in lines:
            show(f"    {printable(line)}", sys.stderr)
    write(grid, runs, jobs, arguments, failed)
    return 1 if failed else 0


def check_outputs(arguments: argparse.Namespace, grid: Path) -> None:
    """Refuse outputs that cannot be written, or are missing."""
    if arguments.list:
        return
    if arguments.out is None:
        raise ConfigError("--out FOLDER is missing: where table and plot go")
    check_output_folder(arguments.out)
    there = [path for name in FILES if os.path.lexists(path := check_output(arguments.out / name, [grid]))]
    # The tables say by which command; earlier versions wrote `python tools/ablate.py`.
    said = (path.read_bytes() for path in there if path.suffix == ".md" and path.is_file())
    if there and not any(re.search(rb"`.*\bablate(\.py)? .*--out ", text) for text in said):
        raise ConfigError(
            f"{there[0]} would be replaced, but this command has not written it; move it away, or name another folder"
        )


def launcher_of(arguments: argparse.Namespace, runs: Path, count: int) -> tuple[Launcher, int]:
    """Return what trains the runs, and how many at once.

    Raises:
        ConfigError: options that do not fit the launcher, or a cluster that is not here.
    """
    wanted = {"cluster": arguments.cluster, "minutes": arguments.time, "cpus": arguments.cpus, "gpus": arguments.gpus}
    wanted |= {"memory": arguments.memory, "partition": arguments.partition}
    given = {key: value for key, value in wanted.items() if value is not None}
    if arguments.launcher == "local":
        if given or arguments.sbatch:
            first = {"minutes": "time"}.get(next(iter(given), "sbatch"), next(iter(given), "sbatch"))
            raise ConfigError(f"--{first} is for jobs of a cluster; give --launcher submitit, too")
        at_once = arguments.jobs or os.cpu_count() or 1
        return Local(runs, at_once, arguments.processes), at_once
    from relgrounding.cli.ablate._cluster import Cluster, Resources

    words = [word.partition("=") for word in arguments.sbatch or ()]
    if wrong := next((key for key, _, value in words if not key or not value), None):
        raise ConfigError(f"--sbatch: {wrong[:80]!r} is not an option with a value, such as account=vision")
    options = {key.lstrip("-"): value for key, _, value in words}
    launcher = Cluster(runs, Resources(processes=arguments.processes, sbatch=options, **given))
    arguments.left = launcher.left
    most = (os.cpu_count() or 1) if launcher.resources.cluster == "local" else max(1, count)
    return launcher, arguments.jobs or most


def write(
    grid: "Grid", runs: Path, jobs: "list[Job]", arguments: argparse.Namespace, failed: dict[str, list[str]]
) -> None:
    """Write table, figures as numbers, and plot."""
    import torch

    from relgrounding.training import grid_cells, grid_results, grid_table
    from relgrounding.viz import save_figure

    found = grid_cells(grid, runs, jobs)
    out: Path = arguments.out
    results = grid_results(grid, runs, jobs)
    finished = sum(map(bool, results.values()))
    reference = f" In brackets: difference to *{grid.reference}* of the same seeds" if grid.reference else ""
    reference += reference and (" or to the row named." if any(row.reference for row in grid.rows.values()) else ".")
    means = f"Mean and standard deviation over the seeds {', '.join(map(str, grid.seeds))}.{reference} "
    intervals = (
        "Difference from the reference in points, with 95 % bootstrap intervals over queries and seeds, or over "
        "queries alone where each seed has its own (generated scenes), by kind of query (in brackets: their number). "
    )
    only = f" --only {shlex.join(arguments.only)}" if arguments.only else ""
    facts = (
        f"{finished} of {len(results)} runs{f', {len(failed)} failed' if failed else ''}; "
        f"torch {torch.__version__}, Python {platform.python_version()}.\n\n"
        f"`relgrounding ablate {arguments.grid} --out {out}{only}`\n\n"
    )
    compared = differences(grid, runs, jobs)
    texts = {"table.md": means + facts + grid_table(grid, runs, jobs)}
    texts["differences.md"] = intervals + facts + differences_text(grid, compared)
    for file, text in texts.items():
        with replacing(out / file) as beside:
            beside.write_text(
                masked("\n\n".join(filter(None, [f"# {grid.name}", grid.note.strip(), text]))), encoding="utf-8"
            )
    numbers = {
        name: {row: {title: cell.values for title, cell in cells.items()} for row, cells in part.items()}
        for name, part in found.items()
    }
    for file, content in (("cells.json", numbers), ("differences.json", as_numbers(compared))):
        with replacing(out / file) as beside:
            beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    show(f"written to {printable(out)}: {', '.join(TEXTS)}", end="")
    try:
        for file, figure in _figures(grid, found, compared).items():
            save_figure(figure, out / file)
            print(f", {file}", end="")
        print()
    except (ImportError, ValueError) as error:
        show(f"; no plot: {printable(error)}")


def _figures(grid: "Grid", found: "dict[str, dict[str, dict[str, Cell]]]", compared: Found) -> "dict[str, Figure]":
    """Return the plots by their file, as far as there is something to draw.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing to draw.
    """
    from relgrounding.viz import ablation_figure, differences_figure

    points = {
        name: {row: {title: (c.mean, c.deviation) for title, c in cells.items()} for row, cells in part.items()}
        for name, part in found.items()
    }
    figures = {"plot.png": ablation_figure(points, list(grid.rows), grid.reference)}
    over_all = {
        name: {title: {row: kinds["all"] for row, kinds in rows.items()} for title, rows in table.items()}
        for name, table in compared.items()
    }
    if any(any(table.values()) for table in over_all.values()):
        figures["differences.png"] = differences_figure(over_all, {row: grid.reference_of(row) for row in grid.rows})
    return figures
