"""Memory and time of training on many queries of one's own: `python -m benchmarks.annotations`.

Writes 10^4 to 10^7 invented queries about 1,000 videos, nearly all sentences different, into a temporary folder, and
trains 20 steps of a small VGN on them, in a new process each: once without an index of the file, which it makes (cold),
and once with it (warm). Measured are the peak of resident memory, as the system counts it, the seconds from the start
of the process to the end of the first step, steps per second, and the processor time of it all. The results are in
annotations.json and annotations.png. The 10^7 took 17 minutes of processor time, the others together two.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import outputs

BYTES = 400
"""Of disk per query: its line and what the index holds of it, with something to spare."""
STEPS = 20
VIDEOS = 1000
WORDS = 5000
MODEL = {"hidden": 16, "relation_dim": 16, "attention_dim": 16, "word_dim": 16, "heads": 1, "top_r": 4}


def write_data(folder: Path, queries: int) -> None:
    """Write features and queries."""
    import numpy as np

    from relgrounding._printing import progress
    from relgrounding.features import write_clip_features

    numbers = np.random.default_rng(0)
    features = ((f"video{i}", numbers.standard_normal((8, 16)).astype(np.float32)) for i in range(VIDEOS))
    write_clip_features(folder / "features.h5", features)
    draw = random.Random(0)
    words = [f"word{i}" for i in range(WORDS)]
    weights = [1 / (i + 10) for i in range(WORDS)]  # as frequencies of words fall
    for begin in progress(range(0, queries, 10_000), desc=f"writing {queries:,} queries", unit="part"):
        drawn = draw.choices(words, weights, k=10 * 10_000)
        lines = []
        for i in range(min(10_000, queries - begin)):
            text = " ".join(drawn[10 * i : 10 * i + draw.randint(6, 10)])
            video = draw.randrange(VIDEOS)
            lines.append(f'{{"video": "video{video}", "duration": 30.0, "query": "{text}", "segment": [3.0, 9.5]}}\n')
        with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(lines)


def train_some(folder: Path, block_by: str) -> dict[str, Any]:
    """Train a few steps; return what was measured in this process."""
    import signal

    import torch

    from relgrounding.config import load_config
    from relgrounding.runs import RunFolder
    from relgrounding.training import Trainer, make_task

    torch.set_num_threads(1)
    ends: list[float] = []

    class Stopped(RunFolder):
        """Notes when steps end, and stops training after the last of them."""

        def log(self, record: dict[str, Any]) -> None:
            super().log(record)
            ends.append(time.time())
            if len(ends) == STEPS:
                signal.raise_signal(signal.SIGINT)

    data: dict[str, Any] = {
        "dataset": "own",
        "root": str(folder),
        "queries": "{split}.jsonl",
        "features": "features.h5",
    }
    data |= {"widths": [2, 4], "batch_size": 32, "block_by": block_by, "stream": "true"}
    settings = {f"data.{key}": value for key, value in data.items()} | {f"model.{k}": v for k, v in MODEL.items()}
    config = load_config(None, {"model.name": "vgn", "train.log_every": 1, **settings})
    with tempfile.TemporaryDirectory(dir=folder) as run:
        task = make_task(config)
        trainer = Trainer(task, Stopped(Path(run) / "run"), quiet=True)
        with contextlib.suppress(KeyboardInterrupt):
            trainer.run()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "first_step": ends[0] - float(os.environ["BENCHMARK_STARTED"]),
        "steps_per_second": (len(ends) - 1) / (ends[-1] - ends[0]),
    }


def measure(folder: Path, block_by: str) -> dict[str, Any]:
    """Return what `train_some` measures in a new process."""
    words = [sys.executable, "-m", "benchmarks.annotations", "--train", str(folder), "--block-by", block_by]
    environment = {"RELGROUNDING_CACHE": str(folder / "cache"), "BENCHMARK_STARTED": repr(time.time())}
    # Kernels are not compiled anew in the folder of the cache.
    environment["RELGROUNDING_CPP"] = "0"
    found = subprocess.run(words, env=os.environ | environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def rows_of(queries: int, block_by: str) -> dict[str, Any]:
    """Write data in a temporary folder, measure, and remove it."""
    with tempfile.TemporaryDirectory(prefix="relgrounding-benchmark-") as name:
        folder, needed = Path(name), BYTES * queries + 2**28
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"{queries:,} queries need {needed / 1e9:.1f} GB in {folder.parent}; set TMPDIR")
        write_data(folder, queries)
        size = (folder / "train.jsonl").stat().st_size
        row = {"queries": queries, "file_bytes": size, "cold": measure(folder, block_by)}
        row["warm"] = measure(folder, block_by)
        row["index_bytes"] = sum(p.stat().st_size for p in (folder / "cache" / "queries").rglob("*") if p.is_file())
    return row


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw memory and processor time against the number of queries."""
    from matplotlib import pyplot

    panels = [("peak_bytes", "peak memory, MB", 1e-6), ("cpu_seconds", "processor time to the first steps, s", 1.0)]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(9, 3.8))
    for axis, (name, label, scale) in zip(axes, panels, strict=True):
        for way, kept, colour in (("cold", "the first time", "#d55e00"), ("warm", "with the index", "#0072b2")):
            values = [scale * row[way][name] for row in rows]
            axis.plot([row["queries"] for row in rows], values, marker="o", color=colour, label=kept)
        axis.set(xscale="log", xlabel="queries", ylabel=label)
        axis.grid(True, linewidth=0.3)
        axis.legend()
    axes[0].set_ylim(bottom=0)
    axes[1].set_yscale("log")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [10**4, 10**5, 10**6, 10**7]
    parser.add_argument("--queries", type=int, nargs="+", default=sizes, help="numbers of them (default: %(default)s)")
    parser.add_argument("--block-by", choices=["", "sentence"], default="", help="see data.block_by")
    parser.add_argument("--out", type=outputs.folder, default=Path(__file__).parent / "results", help="output folder")
    parser.add_argument("--train", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print(json.dumps(train_some(arguments.train, arguments.block_by)))
        return
    import torch

    from benchmarks import machine

    about, rows = machine.facts(torch.device("cpu")), []
    about["threads of training"] = "1"
    for queries in arguments.queries:
        rows.append(rows_of(queries, arguments.block_by))
        print(json.dumps(rows[-1]), flush=True)
        # After each size: the largest takes as long as all others together.
        text = json.dumps({"machine": about, "block_by": arguments.block_by, "rows": rows}, indent=2)
        (arguments.out / "annotations.json").write_text(text + "\n", encoding="utf-8")
    draw(rows, arguments.out / "annotations.png")


if __name__ == "__main__":
    main()
