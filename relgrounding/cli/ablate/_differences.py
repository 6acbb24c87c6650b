"""Rows of a grid against their references, query by query."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from relgrounding.cli.compare import compare

if TYPE_CHECKING:
    from relgrounding.evaluation import Difference
    from relgrounding.training import Grid, Job
    from relgrounding.viz import Run

Found = dict[str, dict[str, dict[str, "dict[str, Difference]"]]]
"""Differences by experiment, title of a column, row, and kind of query."""


def differences(grid: "Grid", runs: Path, jobs: "Sequence[Job]") -> Found:
    """Return the difference of every row from its reference on the seeds that both have, as far as they were run.

    Metrics that are no mean over queries are left out.
    """
    import numpy as np

    from relgrounding.training import grid_results
    from relgrounding.viz import read_run

    folders = {(job.experiment, job.row, job.seed): runs / job.name for job in jobs}
    done = {
        run for run, results in grid_results(grid, runs, jobs).items()
        if results and (folders[run] / "predictions.jsonl").is_file()
    }  # fmt: skip
    found: Found = {}
    for name, experiment in grid.experiments.items():
        table: dict[str, dict[str, dict[str, Difference]]] = {column.title: {} for column in experiment.columns}
        kept: dict[tuple[str, int], Run] = {}
        for row in grid.rows:
            other = grid.reference_of(row)
            seeds = [s for s in grid.seeds if (name, row, s) in done and (name, other, s) in done]
            if not seeds:
                continue
            for r, s in [(r, s) for r in (row, other) for s in seeds if (r, s) not in kept]:
                kept[r, s] = read_run(folders[name, r, s])
            ours, theirs = ([kept[r, s] for s in seeds] for r in (row, other))
            measured = ours[0].view.measures(np.zeros(1), np.zeros(1, bool))
            for column in [c for c in experiment.columns if c.metric in measured]:
                one = next(compare(ours, theirs, column.split, column.protocol, [column.metric]))
                table[column.title][row] = one.kinds
        found[name] = table
    return found


def differences_text(grid: "Grid", found: Found) -> str:
    """Return the differences as Markdown, per experiment and column; rows that were not run are left out."""
    parts = []
    for name, table in found.items():
        for title, rows in table.items():
            if not rows:
                continue
            counts = {kind: d.queries for kinds in rows.values() for kind, d in kinds.items()}
            lines = [
                [row, grid.reference_of(row), *(str(kinds[kind]) if kind in kinds else "-" for kind in counts)]
                for row, kinds in rows.items()
            ]
            head = ["row", "against", *(f"{kind} ({count:,})" for kind, count in counts.items())]
            align = ["left", "left", *["right"] * len(counts)]
            text = tabulate(lines, head, tablefmt="pipe", colalign=align, disable_numparse=True)
            parts.append(f"## {name}, {title}\n\n{text}\n")
    return "\n".join(parts)


def as_numbers(found: Found) -> dict:
    """Return the differences for JSON; an interval that there is not is null."""
    return {
        name: {
            title: {
                row: {
                    kind: {
                        "queries": d.queries,
                        "difference": d.mean,
                        "low": None if math.isnan(d.low) else d.low,
                        "high": None if math.isnan(d.high) else d.high,
                    }
                    for kind, d in kinds.items()
                }
                for row, kinds in rows.items()
            }
            for title, rows in table.items()
        }
        for name, table in found.items()
    }
