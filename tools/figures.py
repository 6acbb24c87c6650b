"""Draw examples of what runs answered: the best, the worst and, of several runs, the most improved.

    python tools/figures.py runs/charades_vgn --n 12
    python tools/figures.py runs/refcoco_ign runs/refcoco_ign_ccl --images /data/coco/train2014

Of several runs the last one is looked at, and "improved" is against the first one. Needs the extra `plot`.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from relgrounding._files import check_output_folder
from relgrounding._printing import printable, show
from relgrounding.config import ConfigError
from relgrounding.runs import RunError
from relgrounding.viz import (
    Items,
    Prediction,
    Run,
    Shown,
    choose_examples,
    match_runs,
    moments_figure,
    read_run,
    regions_figure,
    save_figure,
)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--n", type=int, default=12, help="pictures in all (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the pictures (default: figures/ in the last run)")
    parser.add_argument("--images", type=Path, help="folder of the data set's pictures; without it: a blank canvas")
    parser.add_argument("--protocol", help="as in results.json (default: the one that chose the epoch)")
    parser.add_argument("--seed", type=int, default=0, help="draws among equally good examples (default: %(default)s)")
    arguments = parser.parse_args(words)
    try:
        if arguments.n < 1:
            raise ValueError(f"--n is {arguments.n}; give 1 or more")
        folder = arguments.out or Path(arguments.runs[-1]) / "figures"
        check_output_folder(folder, [arguments.images] if arguments.images else ())
        runs = [read_run(path) for path in arguments.runs]
        if len({run.video for run in runs}) > 1:
            raise ValueError("one run is about videos, another about images; draw them apart")
        examples = choose_examples(match_runs(runs, arguments.protocol), arguments.n, arguments.seed)
        items = Items(runs[-1].config, arguments.images)
        counts: dict[str, int] = {}
        for kind, predictions in tqdm(examples, desc="figures", unit="picture"):
            counts[kind] = counts.get(kind, 0) + 1
            draw(runs, predictions, items, folder / f"{kind}_{counts[kind]:02d}.png")
    except (ConfigError, RunError, ValueError, OSError, ImportError) as error:
        show(f"error: {printable(error)}", sys.stderr)
        return 2
    show(f"written to {printable(folder)}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 0


def draw(runs: list[Run], predictions: list[Prediction], items: Items, path: Path) -> None:
    """Draw the ground truth and each run's first answer to one query."""
    first = predictions[0]
    shown = [Shown("ground truth", first.targets, truth=True)]
    for run, prediction in zip(runs, predictions, strict=True):
        shown.append(Shown(run.name, [prediction.top[0][0]], f"IoU {prediction.iou:.2f}"))
    proposals = [p for one in shown for p in one.proposals]
    if runs[0].video:
        duration = items.duration(first.item) or max(end for _, end in proposals)
        figure = moments_figure(first.text, duration, shown)
    else:
        size = items.size(first.item) or (max(p[2] for p in proposals) * 1.05, max(p[3] for p in proposals) * 1.05)
        figure = regions_figure(first.text, size, shown, items.picture(first.item), items.boxes(first.item))
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
