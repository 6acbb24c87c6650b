"""Say how the first choices of a run go wrong on its held-out training videos: too short, too long, shifted, elsewhere.

    python tools/misses.py runs/charades_vgn

One row per selection method, and one for each quarter of the queries by the length of their right moment (of several,
the longest). A choice is compared with the right moment that it overlaps most. Percent of queries.
"""

import argparse
import sys
from itertools import pairwise

import numpy as np
from tabulate import tabulate

from relgrounding._printing import printable, show
from relgrounding.config import ConfigError
from relgrounding.evaluation import Miss, name_misses
from relgrounding.io import DataError
from relgrounding.runs import RunError, RunFolder
from relgrounding.training import build_model, make_task, protocols, score_split, select_top


def rows_of(protocol: str, choices: np.ndarray, targets: list) -> list[list]:
    misses = name_misses(list(choices), targets, reversed_targets=True)
    length = choices[:, 1] - choices[:, 0]
    target = np.array([max(end - start for start, end in moments) for moments in targets])
    edges = np.quantile(target, [0, 0.25, 0.5, 0.75, 1])
    parts = [("all", np.ones(len(target), bool))]
    for low, high in pairwise(edges):
        parts.append((f"{low:.1f} to {high:.1f} s", (target >= low) & ((target < high) | (high == edges[-1]))))
    rows = []
    for name, part in parts:
        shares = [100 * sum(misses[i] is kind for i in np.flatnonzero(part)) / max(1, part.sum()) for kind in Miss]
        rows.append([protocol, name, int(part.sum()), *shares, float(np.median(length[part]))])
    return rows


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run on videos, such as runs/charades_vgn")
    arguments = parser.parse_args(words)
    try:
        folder = RunFolder(arguments.run)
        config, saved = folder.read_config(), folder.load("best.pt")
        task = make_task(config, saved["vocabulary"])
        if not task.video:
            raise RunError(f"{arguments.run} is a run on images; misses are of moments")
        model = build_model(task)
        folder.restore(model, saved, "best.pt")
        scored = score_split(model, task, task.validation)
        places = [i for i, query in enumerate(task.validation.queries) if query.targets]
        if not places:
            raise RunError(f"{arguments.run}: no held-out query has a right answer to compare with")
        targets = [task.validation.queries[i].targets for i in places]
        rows = []
        for protocol, how in protocols(task).items():
            top = select_top(task, task.validation, scored, how)
            choices = np.array([scored.proposals[i][top[i][0]].tolist() for i in places])
            rows += rows_of(protocol, choices, targets)
    except (ConfigError, DataError, RunError) as error:
        show(f"error: {printable(error)}", sys.stderr)
        return 2
    head = ["protocol", "target", "queries", *(kind.value for kind in Miss), "median length, s"]
    show(tabulate(rows, head, floatfmt=".1f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
