"""How a feature store opens and reads as it grows: ``python -m benchmarks.stores``.

Stores of 10^3 to 10^6 items with small features are generated, of clips and of regions, each once as one HDF5 file and
once as a folder of shards, which together take some 2 GB in a temporary folder; it is removed at the end. Each is then
opened in a process of its own, by the path that training takes (`open_features`): the time to open it and read the
width of a feature, how much the resident memory grew by that and by the reads that follow, and the time of single reads
of items drawn at random, each of which is another item: by the clock, and in processor time, which other programs on
the same machine disturb less. What was written was read back once before, so that the files
are in the system's cache wherever they fit.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks import outputs
from benchmarks.report import table
from relgrounding._files import replacing
from relgrounding._printing import progress
from relgrounding.features.convert._output import Output
from relgrounding.features.convert._sources import Entry, Item
from relgrounding.features.shards import index_shards, shard_name

SIZES = (10**3, 10**4, 10**5, 10**6)
KINDS = ("clips", "regions")
WAYS = ("shards", "one file")
DIM, ROWS, PER_SHARD, READS = 8, 2, 50_000, 3_000
BYTES = {"clips": 500, "regions": 200}
"""Of one item in a file, somewhat more than measured: what must be free on the disk."""


def names(count: int) -> list[str]:
    """Ids in no order, of the length of YouTube's."""
    numbers = np.random.default_rng(0).permutation(count)
    return [f"v_{number:09}" for number in numbers]


def write(path: Path, kind: str, ids: Sequence[str]) -> None:
    """Write one file of a layout of docs/features.md, with random features."""
    draw = np.random.default_rng(len(ids))
    features = draw.standard_normal((64, ROWS, DIM)).astype(np.float16)
    boxes = np.array([[0, 0, 5, 5], [2, 2, 9, 9]], np.float32)
    if kind == "clips":
        entries = [Entry(key, ROWS, DIM, "float16", None) for key in ids]
        output = Output(path, kind, entries, DIM, "float16", {"description": "random numbers"}, "")
        for number in range(len(ids)):
            output.write(Item(features[number % 64]))
        output.finish()
        return
    with replacing(path) as beside, h5py.File(beside, "w") as file:
        file.attrs["description"] = "random numbers"
        file["features"] = np.resize(features.reshape(-1, DIM), (len(ids) * ROWS, DIM))
        file["boxes"] = np.resize(boxes, (len(ids) * ROWS, 4))
        file["offsets"] = np.arange(0, len(ids) * ROWS + 1, ROWS)
        file["sizes"] = np.full((len(ids), 2), 10)
        file.create_dataset("ids", data=list(ids), dtype=h5py.string_dtype())


def make(path: Path, kind: str, way: str, count: int) -> None:
    """Make a store of so many items."""
    ids = names(count)
    if way == "one file":
        write(path, kind, ids)
        return
    path.mkdir()
    shards = -(-count // PER_SHARD)
    for number in range(shards):
        part = ids[number * count // shards : (number + 1) * count // shards]
        write(path / shard_name(number + 1, shards), kind, part)
    index_shards(path)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(path: Path, kind: str, count: int, reads: int) -> dict[str, float]:
    """Open a store and read from it; to be called in a process that does nothing else."""
    from relgrounding.features import open_features

    keys = [f"v_{number:09}" for number in np.random.default_rng(1).permutation(count)[:reads]]
    before = resident()
    start = time.perf_counter()
    store: Any = open_features(path, kind, in_memory=False)
    _ = store.dim, len(store), keys[0] in store
    opened, held = time.perf_counter() - start, resident()
    times, busy = [], []
    for key in keys:
        start, begun = time.perf_counter(), time.thread_time()
        _ = store[key]
        busy.append(1e3 * (time.thread_time() - begun))
        times.append(1e3 * (time.perf_counter() - start))
    return {
        "open, s": opened,
        "memory after opening, MB": (held - before) / 1e6,
        "memory, MB": (resident() - before) / 1e6,
        "first read, ms": times[0],
        "read, ms": statistics.median(times),
        "read p95, ms": statistics.quantiles(times, n=100)[94],
        "processor, ms": statistics.median(busy),
        "processor p95, ms": statistics.quantiles(busy, n=100)[94],
    }


def in_own_process(path: Path, kind: str, count: int, reads: int) -> dict[str, float]:
    """Call `measure` in a new process."""
    words = [sys.executable, "-m", "benchmarks.stores", "--measure", str(path), kind, str(count), str(reads)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def run(sizes: Sequence[int], reads: int, folder: Path) -> list[dict[str, Any]]:
    """Make and measure all stores, one after another, each removed before the next."""
    rows = []
    for count, kind, way in progress(
        [(n, k, w) for n in sizes for k in KINDS for w in WAYS], desc="stores", unit="store"
    ):
        path = folder / f"{kind}-{count}{'' if way == 'shards' else '.h5'}"
        make(path, kind, way, count)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        size = sum(len(file.read_bytes()) for file in files)  # which also puts them into the system's cache
        found = in_own_process(path, kind, count, reads)
        shards = sum(file.suffix == ".h5" for file in files)
        load = round(os.getloadavg()[0], 1)
        rows.append({"items": count, "kind": kind, "as": way, "files": shards, "MB": size / 1e6, "load": load, **found})
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return rows


PANELS = (
    ("open, s", "", "opening, s", 2.0),
    ("memory after opening, MB", "memory, MB", "growth of memory, MB", 500.0),
    ("read, ms", "processor p95, ms", "random read, ms", 1.0),
)
"""Column, second column, label, and what a store of a million items may take."""


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw what was measured against the number of items."""
    from matplotlib import pyplot

    from benchmarks.plots import COLOURS

    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(15, 4.2))
    for axis, (column, second, label, limit) in zip(axes, PANELS, strict=True):
        for kind, style in zip(KINDS, ("-", "--"), strict=True):
            for way, colour in zip(WAYS, (COLOURS["ours"], COLOURS["dgl"]), strict=True):
                drawn = sorted((r for r in rows if (r["kind"], r["as"]) == (kind, way)), key=lambda row: row["items"])
                x = [row["items"] for row in drawn]
                axis.plot(x, [row[column] for row in drawn], style, color=colour, marker=".", label=f"{kind}, {way}")
                if second:
                    marker = "x" if kind == "clips" else "+"
                    axis.plot(x, [row[second] for row in drawn], ":", color=colour, marker=marker, alpha=0.7)
        axis.axhline(limit, color=COLOURS["limit"], linewidth=0.8, label="limit at a million items")
        axis.set(xscale="log", yscale="log", xlabel="items in the store", ylabel=label)
        axis.grid(True, which="major", linewidth=0.3)
    axes[0].legend(fontsize=7, handlelength=4)
    axes[1].set_title("after opening; dotted: after the reads", fontsize=9)
    axes[2].set_title("median; dotted: 95th percentile of processor time", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="items of a store")
    parser.add_argument("--reads", type=int, default=READS, help=f"items read from each (default: {READS})")
    parser.add_argument(
        "--out", type=outputs.folder, default=Path("benchmarks/results"), help="folder of stores.json, stores.png"
    )
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        path, kind, count, reads = args.measure
        print(json.dumps(measure(Path(path), kind, int(count), int(reads))))
        return
    from benchmarks import machine

    with tempfile.TemporaryDirectory() as folder:
        needed, free = 2 * max(args.sizes) * max(BYTES.values()), shutil.disk_usage(folder).free
        if free < needed:
            sys.exit(f"{folder} has {free / 1e9:.1f} GB free, these stores need {needed / 1e9:.1f}; set TMPDIR")
        rows = run(args.sizes, args.reads, Path(folder))
    import torch

    command = f"python -m benchmarks.stores --sizes {' '.join(map(str, args.sizes))} --reads {args.reads}"
    facts = {"command": command, **machine.facts(torch.device("cpu")), "h5py": h5py.version.version}
    (args.out / "stores.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    draw(rows, args.out / "stores.png")
    print(
        table([[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows], list(rows[0]))
    )


if __name__ == "__main__":
    main()
