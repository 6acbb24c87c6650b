"""Draw examples of what runs answered: the best, the worst misses and, of several runs, the most improved.

    relgrounding figures runs/charades_vgn --n 12
    relgrounding figures runs/refcoco_ign runs/refcoco_ign_ccl --images /data/coco/train2014
    relgrounding figures runs/charades_scn runs/charades_vgn runs/charades_vgn_ccl --names SCN VGN VGN+CCL --together

Each picture has one query, with the right answer and the first answer of every run. --together also joins them in one
picture, as in the figures of the paper: one command per data set.

Where predictions.jsonl holds explanations (`eval.explain`, or `relgrounding evaluate RUN --write --explain`), the
neighbours whose messages an answer got are drawn with it. Of several runs, examples are chosen by the last one, and
"improved" is against the first one; with --differing, they are drawn at random among the queries that some runs
answered right and others wrong. Pictures of an earlier call in the same directory are removed. Needs the extra `plot`.
"""

import argparse
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from relgrounding._files import check_output_folder
from relgrounding._printing import printable, progress, show
from relgrounding.cli import local

if TYPE_CHECKING:
    from relgrounding.viz import Items, Prediction, Run

ERRORS = (ValueError,)
TOGETHER = "all.png"
OURS = re.compile(rf"(best|worst|improved|differing)_\d{{2,}}\.png|{re.escape(TOGETHER)}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("runs", nargs="+", type=local, metavar="RUN", help="directory of a finished run")
    parser.add_argument("--n", type=int, default=12, help="pictures in all (default: %(default)s)")
    parser.add_argument("--out", type=local, help="directory of the pictures (default: figures/ in the last run)")
    parser.add_argument("--images", type=local, help="directory of the data set's pictures; without it: a blank canvas")
    parser.add_argument(
        "--names", nargs="+", help="of the runs in the pictures, one each (default: their directories')"
    )
    parser.add_argument("--together", action="store_true", help=f"also write all pictures as one, {TOGETHER}")
    parser.add_argument(
        "--differing", action="store_true", help="draw among all queries that some runs answered right and others wrong"
    )
    parser.add_argument("--protocol", help="as in results.json (default: the one that chose each run's epoch)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw among equal examples (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Draw."""
    from relgrounding.viz import Items, choose_examples, match_runs, read_run
    from relgrounding.viz._figure import join_pictures
    from relgrounding.viz._predictions import draw_differing

    if arguments.n < 1:
        raise ValueError(f"--n is {arguments.n}; give 1 or more")
    names = arguments.names or [None] * len(arguments.runs)
    if len(names) != len(arguments.runs):
        raise ValueError(f"--names: {len(names)} names for {len(arguments.runs)} runs; give one each")
    if doubled := [name for name, count in Counter(arguments.names or ()).items() if count > 1]:
        raise ValueError(f"--names: {doubled[0]!r} stands for two runs; give each its own")
    folder = arguments.out or arguments.runs[-1] / "figures"
    check_output_folder(folder, [arguments.images] if arguments.images else ())
    found = [read_run(path) for path in arguments.runs]
    runs = [replace(one, name=name or one.name) for one, name in zip(found, names, strict=True)]
    choose = draw_differing if arguments.differing else choose_examples
    examples = choose(match_runs(runs, arguments.protocol), arguments.n, arguments.seed)
    items = Items(runs[-1].config, arguments.images)
    counts: Counter[str] = Counter()
    written = []
    for kind, predictions in progress(examples, desc="figures", unit="picture"):
        counts[kind] += 1
        name = f"{kind}_{counts[kind]:02d}.png"
        draw(runs, predictions, items, folder / name)
        written.append(name)
    if arguments.together:
        join_pictures([folder / name for name in written], folder / TOGETHER)
        written.append(TOGETHER)
    remove_earlier(folder, set(written))
    show(f"written to {printable(folder)}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))


def draw(runs: "list[Run]", predictions: "list[Prediction]", items: "Items", path: Path) -> None:
    """Draw the ground truth and each run's first answer to one query."""
    from relgrounding.viz import Shown, save_figure

    first = predictions[0]
    shown = [Shown("ground truth", first.targets, truth=True)]
    for run, prediction in zip(runs, predictions, strict=True):
        answer, note = [prediction.top[0][0]], f"IoU {prediction.iou:.2f}"
        shown.append(Shown(run.name, answer, note, neighbours=prediction.neighbours))
    frame = next((p.frame for p in predictions if p.frame), ())
    save_figure(runs[0].view.figure(first.text, shown, first.item, frame, items), path)


def remove_earlier(folder: Path, written: set[str]) -> None:
    """Remove what an earlier call left: pictures with the names of this command that say they are made by it."""
    from relgrounding.viz._figure import is_figure

    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name not in written and is_figure(path):
            path.unlink()
