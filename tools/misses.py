"""Say how the first choices of a run go wrong on its held-out training videos: too short, too long, shifted, elsewhere.

    python tools/misses.py runs/charades_vgn

One row a way of choosing, and one for each quarter of the queries by the length of their targets. Percent of queries.
"""

import argparse
import sys
from itertools import pairwise

import numpy as np
from tabulate import tabulate

from relgrounding.config import ConfigError
from relgrounding.data import DataError
from relgrounding.evaluation import Miss, name_misses
from relgrounding.training import RunError, RunFolder, build_model, make_task, protocols, score_split, select_top


def rows_of(protocol: str, choices: np.ndarray, targets: np.ndarray) -> list[list]:
    misses = name_misses(list(choices), list(targets))
    length, target = (x[:, 1] - x[:, 0] for x in (choices, targets))
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
        saved = folder.load("best.pt")
        task = make_task(folder.read_config(), saved["vocabulary"])
        if not task.video:
            raise RunError(f"{arguments.run} is a run on images; misses are of moments")
        model = build_model(task)
        folder.restore(model, saved, "best.pt")
        scored = score_split(model, task, task.validation)
        targets = np.array([query.targets[0] for query in task.validation.queries])
        rows = []
        for protocol, how in protocols(task).items():
            top = select_top(task, task.validation, scored, how)
            choices = np.array([p[k[0]].tolist() for p, k in zip(scored.proposals, top, strict=True)])
            rows += rows_of(protocol, choices, targets)
    except (ConfigError, DataError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    head = ["protocol", "target", "queries", *(kind.value for kind in Miss), "median length, s"]
    print(tabulate(rows, head, floatfmt=".1f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
