"""Run a grid of settings over data sets and seeds, and write its table and plot.

    relgrounding ablate ccl --out benchmarks/results/ccl
    relgrounding ablate ccl --out benchmarks/results/ccl --table      what there is so far
    relgrounding ablate own_grid.yaml --out own_grid

Writes OUT/table.md, OUT/differences.md (each row against its reference, query by query, by kind of query, with 95 %
bootstrap intervals over queries and seeds), both as numbers in OUT/cells.json and OUT/differences.json, and, with the
extra `plot`, OUT/plot.png; the runs go to --runs. Ctrl-C keeps the
state of every run; the same command goes on from there. A run that is done is not run again. The runs stop, and keep
their state, when this command ends, even if it is killed.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from relgrounding._files import check_output, check_output_folder, replacing
from relgrounding._printing import printable, show
from relgrounding._settings import ConfigError, find_config
from relgrounding.cli.ablate._differences import as_numbers, differences, differences_text
from relgrounding.cli.ablate._runs import run_all

if TYPE_CHECKING:
    from relgrounding.training import Grid

ERRORS = (ValueError,)
FILES = ("table.md", "differences.md", "cells.json", "differences.json", "plot.png")

LEFT = "the same command goes on from here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "grid", help="a grid that comes with the package (ccl, relations), or a YAML file, see docs/ccl.md"
    )
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
    for name in FILES:
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


def write(grid: "Grid", runs: Path, arguments: argparse.Namespace, failed: dict[str, str]) -> None:
    """Write table, figures as numbers, and plot."""
    import torch

    from relgrounding.training import grid_cells, grid_results, grid_table
    from relgrounding.viz import ablation_figure, save_figure

    found = grid_cells(grid, runs)
    out: Path = arguments.out
    results = grid_results(grid, runs)
    finished = sum(map(bool, results.values()))
    reference = f" In brackets: difference to *{grid.reference}* of the same seeds" if grid.reference else ""
    reference += reference and (" or to the row named." if any(row.reference for row in grid.rows.values()) else ".")
    means = f"Mean and standard deviation over the seeds {', '.join(map(str, grid.seeds))}.{reference} "
    intervals = (
        "Difference from the reference in points, with 95 % bootstrap intervals over queries and seeds, by kind of "
    )
    intervals += "query (in brackets: their number). "
    facts = (
        f"{finished} of {len(results)} runs{f', {len(failed)} failed' if failed else ''}; "
        f"torch {torch.__version__}, Python {platform.python_version()}.\n\n"
        f"`relgrounding ablate {arguments.grid} --out {out}`\n\n"
    )
    compared = differences(grid, runs)
    texts = {"table.md": means + facts + grid_table(grid, runs)}
    texts["differences.md"] = intervals + facts + differences_text(grid, compared)
    for file, text in texts.items():
        with replacing(out / file) as beside:
            beside.write_text(f"# {grid.name}\n\n{grid.note.strip()}\n\n{text}", encoding="utf-8")
    numbers = {
        name: {row: {title: cell.values for title, cell in cells.items()} for row, cells in part.items()}
        for name, part in found.items()
    }
    for file, content in (("cells.json", numbers), ("differences.json", as_numbers(compared))):
        with replacing(out / file) as beside:
            beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    show(f"written to {printable(out)}: {', '.join(FILES[:-1])}", end="")
    points = {
        name: {row: {title: (c.mean, c.deviation) for title, c in cells.items()} for row, cells in part.items()}
        for name, part in found.items()
    }
    try:
        save_figure(ablation_figure(points, list(grid.rows), grid.reference), out / "plot.png")
        print(", plot.png")
    except (ImportError, ValueError) as error:
        show(f"; no plot: {printable(error)}")
