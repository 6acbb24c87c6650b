"""What it costs to build and join graphs: ``python -m benchmarks.graph_building --against COMMIT``.

The cases of `benchmarks.building`: 64 videos of 136 windows and 16 of 2,080 moments, equal and all different; 64 images
of 50 and of 100 boxes; joining 64 graphs that exist; a layer that is given the same DGL graph twice. Each is built by
this version, by PyTorch Geometric as its users would, and, with ``--against``, by the library as it was at another
commit, all in turns. *Warm* follows another call, *cold* starts with freed memory given back to the system and other
data in the processor's caches. Times are those of the processor, which other programs on the machine disturb less;
those by the clock are in the file of ``--out``. Peak memory is measured in processes of their own
(`benchmarks.memory`). A way whose graph differs from the first one's gets no figure.

With ``--loops`` it compares five ways to one batch of spatial graphs: a Python loop over pairs that indexes NumPy rows;
the same loop on plain integers; the vectorised relation matrix of one image at a time with a heterograph each and
`dgl.batch`; `graphs.spatial_graph` on the whole list; `graphs.spatial_structure`, which training uses.

`benchmarks.run` compares further ways.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from benchmarks import machine, outputs
from benchmarks.building import CASES, overlap_matrix, spatial_matrix
from benchmarks.graph_specs import IMAGE_SIZE, RELATION_NAMES, WINDOWS_32, Batch, draw_boxes, images, videos
from benchmarks.providers._pyg import pyg
from benchmarks.providers._pyg import unavailable as pyg_unavailable
from benchmarks.report import table
from benchmarks.timing import Quantiles, interleaved
from relgrounding import graphs
from relgrounding._dgl import dgl
from relgrounding._printing import progress
from relgrounding.graphs import GraphStructure

Build = Callable[[], Any]


@dataclass(frozen=True)
class Kind:
    """Graphs that others build, too.

    Args:
        batch: how the library builds their structure.
        build_dgl: from segments or boxes to the library's DGL graph.
        relation: from those of one item to the (T, T) numbers of the relations source -> destination from 1, 0 for
            none, in plain PyTorch.
    """

    batch: Batch
    build_dgl: Callable[[list[Tensor]], dgl.DGLGraph]
    relation: Callable[[Tensor], Tensor]


def _images(batch_size: int, regions: int) -> Kind:
    return Kind(images(batch_size, regions), partial(graphs.spatial_graph, image_size=IMAGE_SIZE), spatial_matrix)


def _videos(batch_size: int, clips: int, proposals: Callable[[int], Tensor]) -> Kind:
    return Kind(videos(batch_size, (clips,), proposals), graphs.temporal_graph, overlap_matrix)


KINDS = {
    "64 videos x 136 windows": _videos(64, 32, WINDOWS_32),
    "64 images x 36 regions": _images(64, 36),
    "64 images x 50 regions": _images(64, 50),
    "64 images x 100 regions": _images(64, 100),
}


def measure_building(repeats: int, seconds: float, tick: Callable[[str], object]) -> Iterable[dict[str, Any]]:
    """All ways to all batches, in turns; without times where the edges are wrong."""
    for name, kind in KINDS.items():
        tick(f"building {name}")
        everything = ways(kind)
        good = {way: {"build": build} for way, build in right_ways(kind.batch.structure(), everything).items()}
        times = interleaved(good, torch.device("cpu"), repeats, seconds, calls=1)
        for way in everything:
            of = Quantiles.of(times[way]["build"]) if way in good else None
            status = "ok" if of else "wrong: other edges"
            figures = {name: of and getattr(of, name) for name in ("p20", "p50", "p80")}
            yield {"batch": name, "way": way, "status": status, **figures, "calls": of and of.count}


def ways(kind: Kind) -> dict[str, Build]:
    """From the segments or boxes of all items, and from graphs of each item."""
    items = kind.batch.items()
    each, each_dgl = [kind.batch.build([item]) for item in items], [kind.build_dgl([item]) for item in items]
    found: dict[str, Build] = {
        "graphs: structure of the whole list": partial(kind.batch.build, items),
        "graphs: DGL graph of the whole list": partial(kind.build_dgl, items),
        "an item at a time, then dgl.batch": lambda: dgl.batch([kind.build_dgl([item]) for item in items]),
        "join only: GraphStructure.batch": partial(GraphStructure.batch, each),
        "join only: dgl.batch": partial(dgl.batch, each_dgl),
    }
    if pyg_unavailable():
        return found
    data = pyg("data")

    def one(item: Tensor):
        relation = kind.relation(item)
        ends = relation.nonzero().t()
        return data.Data(edge_index=ends, edge_type=relation[tuple(ends)] - 1, num_nodes=len(item), x=item.float())

    built = [one(item) for item in items]
    found["an item at a time, then PyG's Batch"] = lambda: data.Batch.from_data_list([one(item) for item in items])
    return found | {"join only: PyG's Batch": partial(data.Batch.from_data_list, built)}


def right_ways(structure: GraphStructure, everything: dict[str, Build]) -> dict[str, Build]:
    """The ways that give the edges of the structure, in any order."""
    right = edges(structure)
    return {way: build for way, build in everything.items() if torch.equal(edges(build()), right)}


def edges(graph: Any) -> Tensor:
    """(3, E) source, destination and type, sorted, of any library's graph."""
    if isinstance(graph, dgl.DGLGraph):
        graph = graphs.from_dgl(graph)
    if isinstance(graph, GraphStructure):
        found = torch.stack([graph.indices, graph.destinations, graph.etype])
    else:
        found = torch.cat([graph.edge_index, graph.edge_type[None]])
    return found[:, np.lexsort(found.numpy())]


def heterograph(ends: dict[str, tuple], nodes: int) -> dgl.DGLGraph:
    return dgl.heterograph({("proposal", n, "proposal"): ends[n] for n in RELATION_NAMES}, {"proposal": nodes})


def pair_relation(a: Sequence | np.ndarray, b: Sequence | np.ndarray, diagonal: float) -> int:
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    if ax1 <= bx1 and ay1 <= by1 and ax2 >= bx2 and ay2 >= by2:
        return 1
    if bx1 <= ax1 and by1 <= ay1 and bx2 >= ax2 and by2 >= ay2:
        return 2
    shared = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    if shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared) > 0.5:
        return 3
    dx, dy = (bx1 + bx2 - ax1 - ax2) / 2, (by1 + by2 - ay1 - ay2) / 2
    if math.sqrt(dx * dx + dy * dy) / diagonal < 0.5:
        theta = math.degrees(math.atan2(dy, dx))
        return math.ceil((theta if theta > 0 else theta + 360) / 45) + 3
    return 0


def by_pairs(items: Sequence[Sequence | np.ndarray]) -> dgl.DGLGraph:
    """Straight from the definition: two loops over the boxes of an image."""
    diagonal = math.hypot(*IMAGE_SIZE)
    built = []
    for boxes in items:
        ends: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in RELATION_NAMES}
        for j in range(len(boxes)):
            for i in range(len(boxes)):
                number = 0 if i == j else pair_relation(boxes[i], boxes[j], diagonal)
                if number:
                    ends[RELATION_NAMES[number - 1]][0].append(i)
                    ends[RELATION_NAMES[number - 1]][1].append(j)
        built.append(heterograph(ends, len(boxes)))
    return dgl.batch(built)


def by_items(items: list[Tensor]) -> dgl.DGLGraph:
    """One vectorised heterograph per image, then `dgl.batch`."""
    built = []
    for boxes in items:
        # Transposed, so that edges come sorted by destination, as in the other ways.
        matrix = spatial_matrix(boxes).t()
        ends = {name: (matrix == k + 1).nonzero(as_tuple=True) for k, name in enumerate(RELATION_NAMES)}
        built.append(heterograph({name: (j_i[1], j_i[0]) for name, j_i in ends.items()}, len(boxes)))
    return dgl.batch(built)


class Measured:
    """A version of the library, measured in a process of its own.

    Args:
        name: of the version; empty: this one.
        folder: holds the packages `benchmarks` and `relgrounding`.
        memory: whether that process measures memory, not time.
    """

    def __init__(self, name: str, folder: Path, memory: bool = False) -> None:
        self.name = name
        words = [sys.executable, "-m", "benchmarks.building", *(["--memory"] if memory else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        self._process = subprocess.Popen(
            words, cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._requests, self._answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)

    def ask(self, *request: str) -> Any:
        """The answer to a request of `benchmarks.building`."""
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"the process that measures {self.name or 'this version'} has ended at {request}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._requests.close()
        self._process.wait()


def check_out(commit: str, folder: Path) -> None:
    """Put the library as it was at a commit, and these benchmarks, into a folder."""
    root = Path(__file__).parents[1]
    archive = subprocess.run(["git", "archive", commit, "relgrounding"], cwd=root, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    (folder / "benchmarks").symlink_to(root / "benchmarks", target_is_directory=True)


def contestants(case: str, versions: Sequence[Measured]) -> dict[str, tuple[Measured, str]]:
    """The ways of a case that give the same graph, in this version, and ours in the others."""
    found = {way: (versions[0], way) for way in versions[0].ask("ways", case)}
    for version in versions[1:]:
        found |= {
            f"{way}, at {version.name}": (version, way) for way in found if "PyG" not in way and "batch" not in way
        }
    right = versions[0].ask("digest", case, "ours")
    same = {name: version.ask("digest", case, way) for name, (version, way) in found.items()}
    # Edges are the same or not; outputs of a layer are the same but for rounding.
    rounding = 1e-5 * abs(right[1]) if isinstance(right[1], float) else 0
    good = [name for name, (count, total) in same.items() if count == right[0] and abs(total - right[1]) <= rounding]
    return {name: found[name] for name in good}


def measure_case(
    case: str, versions: Sequence[Measured], memory: Sequence[Measured], turns: int
) -> list[dict[str, Any]]:
    """Times of all ways in turns, cold and warm, and their peak memory."""
    good = contestants(case, versions)
    times: dict[str, dict[str, list[dict[str, float]]]] = {name: {"cold": [], "warm": []} for name in good}
    order = list(good)
    for turn in range(turns):
        first = turn % len(order)
        for name in order[first:] + order[:first]:
            version, way = good[name]
            for mode, of in times[name].items():
                if turn < FEWEST or of[0]["processor"] < SLOW:
                    of.append(version.ask("time", case, way, mode))
    rows = []
    for name, (version, way) in good.items():
        row: dict[str, Any] = {"case": case, "way": name}
        for mode, of in times[name].items():
            row |= {f"{mode}, {key}": float(np.median([one[key] for one in of])) for key in ("processor", "clock")}
        beside = memory[versions.index(version)]
        row["peak memory, MB"] = None if case == "layer" else beside.ask("memory", case, way) / 1e6
        rows.append(row)
    return rows


COLUMNS = ("cold, processor", "warm, processor", "peak memory, MB")


def lines(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row per way: its figures, and in brackets how many times ours they are."""
    ours = rows[0]

    def cell(row: dict[str, Any], column: str) -> str:
        value, unit = row[column], ours[column]
        return "" if value is None else f"{value:.3g} ({value / unit:.3g}x)"

    return [[row["way"], *(cell(row, column) for column in COLUMNS)] for row in rows]


FEWEST, SLOW = 3, 500.0
"""Turns of every way, and milliseconds of a call from which on a way has no more."""


def compare(cases: Sequence[str], against: Sequence[str], turns: int, out: Path | None) -> None:
    """Measure the cases, print a table of each, and write all of it."""
    facts = {**machine.facts(torch.device("cpu")), "against": list(against), "turns": turns}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(__file__).parents[1]]
        for commit in against:
            folders.append(Path(temporary) / commit.replace("/", "_"))
            folders[-1].mkdir()
            check_out(commit, folders[-1])
        names = ["", *against]
        versions, memory = (
            [Measured(name, folder, weighs) for name, folder in zip(names, folders, strict=True)]
            for weighs in (False, True)
        )
        for case in progress(cases, desc="building", unit="case"):
            found = measure_case(case, versions, memory, turns)
            rows += found
            print(f"\n{case}\n" + table(lines(found), ["way", "cold, ms", "warm, ms", "peak memory, MB"]))
        for version in (*versions, *memory):
            version.close()
    if out is not None:
        out.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE", help="of these")
    parser.add_argument("--against", nargs="+", default=[], metavar="COMMIT", help="other commits of this repository")
    parser.add_argument("--turns", type=int, default=15, help="calls of each way, cold and warm (default: 15)")
    parser.add_argument("--out", type=outputs.file, metavar="FILE", help="where to write all figures, as JSON")
    parser.add_argument("--loops", action="store_true", help="the five ways to one batch of spatial graphs instead")
    parser.add_argument("--images", type=int, default=64, help="with --loops")
    parser.add_argument("--boxes", type=int, default=50, help="with --loops")
    parser.add_argument("--repeats", type=int, default=30, help="with --loops")
    parser.add_argument("--seed", type=int, default=0, help="with --loops")
    args = parser.parse_args()
    if args.loops:
        compare_loops(args)
    else:
        compare(args.case, args.against, args.turns, args.out)


def compare_loops(args: argparse.Namespace) -> None:
    """Print the times of the five ways."""
    items = [draw_boxes(args.boxes, 1000 * args.seed + k, sides=(8, 200)) for k in range(args.images)]
    everything: dict[str, Build] = {
        "Python loop, NumPy rows": lambda: by_pairs([item.numpy() for item in items]),
        "Python loop, plain integers": lambda: by_pairs([item.tolist() for item in items]),
        "one image at a time + dgl.batch": lambda: by_items(items),
        "graphs.spatial_graph": lambda: graphs.spatial_graph(items, IMAGE_SIZE),
        "graphs.spatial_structure": lambda: graphs.spatial_structure(items, IMAGE_SIZE),
    }
    structure = graphs.spatial_structure(items, IMAGE_SIZE)
    good = {way: {"build": build} for way, build in right_ways(structure, everything).items()}
    print(
        f"{args.images} images x {args.boxes} boxes, {structure.num_edges} edges; {len(good)} of 5 give the same graph"
    )
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}, DGL {dgl.__version__}"
    print(f"{machine.processor()}, {torch.get_num_threads()} threads, {platform.system()}; {versions}")
    # The loops take so long that they leave early.
    times = interleaved(good, torch.device("cpu"), args.repeats, seconds=10.0, calls=1)
    ours = float(np.median(times["graphs.spatial_graph"]["build"]))
    rows = []
    for way, of in times.items():
        median, low, high = np.quantile(of["build"], (0.5, 0.1, 0.9))
        rows.append([way, f"{median:.2f}", f"{low:.2f}", f"{high:.2f}", f"{median / ours:.1f}x"])
    print(tabulate(rows, ["milliseconds", "median", "10 %", "90 %", "ratio"], stralign="right", disable_numparse=True))


if __name__ == "__main__":
    main()
