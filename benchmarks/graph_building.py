"""Time to build the batched spatial graph of 64 images x 50 boxes: ``python -m benchmarks.graph_building``.

Five ways to the same graph: a Python loop over pairs that indexes NumPy rows; the same loop on plain integers; the
vectorised relation matrix of one image at a time with a heterograph each and `dgl.batch`; `graphs.spatial_graph` on the
whole list; `graphs.spatial_structure`, which training uses. `benchmarks.run` compares further ways, and the joining of
graphs that are built already. A way whose edges are not those of `graphs`' own structure gets no figure.
"""

import argparse
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from benchmarks.graph_specs import IMAGE_SIZE, RELATION_NAMES, WINDOWS_32, Batch, draw_boxes, images, videos
from benchmarks.machine import processor
from benchmarks.providers._pyg import pyg
from benchmarks.providers._pyg import unavailable as pyg_unavailable
from benchmarks.timing import Quantiles, interleaved
from relgrounding import graphs
from relgrounding._dgl import dgl
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


def matrix_of_one(boxes: Tensor) -> Tensor:
    """The relation matrix of one image in vectorised PyTorch."""
    a, b = boxes[:, None].double(), boxes[None].double()
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).double()
    iou = shared / (area[:, None] + area[None] - shared)
    vector = (b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]) / 2
    theta = torch.rad2deg(torch.atan2(vector[..., 1], vector[..., 0]))
    angle = (torch.where(theta > 0, theta, theta + 360) / 45).ceil().long() + 3
    number = torch.where(vector.norm(dim=-1) / math.hypot(*IMAGE_SIZE) < 0.5, angle, 0)
    number[iou > 0.5] = 3
    number[((b[..., :2] <= a[..., :2]) & (a[..., 2:] <= b[..., 2:])).all(-1)] = 2
    number[((a[..., :2] <= b[..., :2]) & (b[..., 2:] <= a[..., 2:])).all(-1)] = 1
    return number.fill_diagonal_(0)


def _overlaps(segments: Tensor) -> Tensor:
    return (graphs.temporal_iou(segments, segments) > 0.3).long().fill_diagonal_(1)


def _images(batch_size: int, regions: int) -> Kind:
    return Kind(images(batch_size, regions), partial(graphs.spatial_graph, image_size=IMAGE_SIZE), matrix_of_one)


def _videos(batch_size: int, clips: int, proposals: Callable[[int], Tensor]) -> Kind:
    return Kind(videos(batch_size, (clips,), proposals), graphs.temporal_graph, _overlaps)


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
        matrix = matrix_of_one(boxes).t()
        ends = {name: (matrix == k + 1).nonzero(as_tuple=True) for k, name in enumerate(RELATION_NAMES)}
        built.append(heterograph({name: (j_i[1], j_i[0]) for name, j_i in ends.items()}, len(boxes)))
    return dgl.batch(built)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--boxes", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
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
    print(f"{processor()}, {torch.get_num_threads()} threads, {platform.system()}; {versions}")
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
