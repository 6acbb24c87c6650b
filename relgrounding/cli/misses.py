"""Show how first choices of a run go wrong on the videos held out of its training split: too short, too long, ...

    relgrounding misses runs/charades_vgn

One row per selection method, and one per quarter of the queries by the length of their right moment (of several, the
longest; equal quarters are joined). A choice is compared with the right moment that it overlaps most, and is right from
IoU 0.7; too short or too long: it lies within the right moment, or covers it, by more than 80 %. Percent of queries.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from relgrounding._printing import counted, show
from relgrounding.cli import local

if TYPE_CHECKING:
    import numpy as np

IOU = 0.7
"""From which a choice is right."""


def rows_of(protocol: str, choices: "np.ndarray", targets: Sequence[Sequence]) -> list[list]:
    """Return the rows of one protocol: its name, that of the group, queries, percent by kind of miss, median length."""
    import numpy as np

    from relgrounding.evaluation import Miss, name_misses

    misses = np.array([miss.value for miss in name_misses(list(choices), targets, IOU, reversed_targets=True)])
    length = choices[:, 1] - choices[:, 0]
    target = np.array([max(end - start for start, end in moments) for moments in targets])
    forward = target > 0
    groups: dict[str, np.ndarray] = {"all": np.ones(len(target), bool)}
    edges = np.unique(np.quantile(target[forward], [0, 0.25, 0.5, 0.75, 1])) if forward.any() else np.empty(0)
    for low, high in pairwise(edges if len(edges) != 1 else edges.repeat(2)):
        groups[f"{low:.1f} to {high:.1f} s"] = (target >= low) & ((target < high) | (high == edges[-1])) & forward
    groups["start not before end"] = ~forward
    return [
        [protocol, name, int(part.sum()), *(100 * float((misses[part] == kind.value).mean()) for kind in Miss),
         float(np.median(length[part]))]
        for name, part in groups.items() if part.any()
    ]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("run", type=local, help="directory of a run on videos, such as runs/charades_vgn")


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    import numpy as np
    from tabulate import tabulate

    from relgrounding.evaluation import Miss
    from relgrounding.runs import RunError, RunFolder
    from relgrounding.training import build_model, make_task, protocols, score_split

    folder = RunFolder(arguments.run)
    config, saved = folder.read_config(), folder.load("best.pt")
    task = make_task(config, saved["vocabulary"])
    if not task.modality.has_misses:
        raise RunError(f"{arguments.run} is not a run on videos; misses are of moments")
    model = build_model(task)
    folder.restore(model, saved, "best.pt")
    scored = score_split(model, task, task.validation)
    queries = {i: query for i, query in enumerate(task.validation.queries) if query.targets}
    if not queries:
        raise RunError(f"{arguments.run}: no held-out query has a right answer to compare with")
    rows = []
    for protocol, method in protocols(task).items():
        top = task.modality.select(scored, method, config.eval)
        choices = np.array([scored.proposals[i][top[i][0]].tolist() for i in queries])
        rows += rows_of(protocol, choices, [query.targets for query in queries.values()])
    videos = len({query.item for query in queries.values()})
    count = f"{len(queries):,}, of {counted(videos, 'video')}"
    show(f"queries held out of the training split: {count}; right: IoU of {IOU} or more")
    head = ["protocol", "target", "queries", *(kind.value for kind in Miss), "median length, s"]
    show(tabulate(rows, head, floatfmt=".1f"))
