"""What is known of each run of a grid: its address, its state, and the end of its log."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from relgrounding._printing import printable
from relgrounding.cli.ablate._cluster import submitted
from relgrounding.cli.ablate._training import last_lines

if TYPE_CHECKING:
    from relgrounding.training import Job

MOST = 60
"""Characters of a log's last line."""


def state(job: "Job", runs: Path) -> str:
    """Return "done", "running", "submitted" (to a cluster), "unfinished" or "new"."""
    from relgrounding.runs import RunError, RunInUse, check_free
    from relgrounding.training import job_is_done

    if job_is_done(job, runs):
        return "done"
    try:
        check_free(runs / job.name)
    except RunInUse:
        return "running"
    except RunError:
        pass  # a lock file of something else: training says so
    found = submitted(job, runs)
    if found is not None and not found.over():
        return "submitted"
    return "unfinished" if (runs / job.name / "train.log").is_file() or found is not None else "new"


def states_text(jobs: "Sequence[Job]", runs: Path) -> str:
    """Return a table of all runs: experiment, row, seed, address, state, folder, and why they are unfinished."""
    lines = []
    known: dict[str, str] = {}
    for job in jobs:
        if job.name not in known:
            known[job.name] = state(job, runs)
        found = known[job.name]
        last = (last_lines(runs / job.name / "train.log") or [""])[-1] if found == "unfinished" else ""
        lines.append([job.experiment, job.row, job.seed, job.address, found, job.name, last[:MOST]])
    head = ["experiment", "row", "seed", "hash", "state", "folder", "last line of train.log"]
    shown = [[printable(value) for value in line] for line in lines]
    return tabulate(shown, head, disable_numparse=True)
