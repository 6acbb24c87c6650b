"""Time to build the batched spatial graph of 64 images x 50 boxes: ``python -m benchmarks.graph_building``.

Five ways to the same graph: a Python loop over pairs that indexes NumPy rows; the same loop on plain integers; the
vectorised relation matrix of one image at a time with a heterograph each and `dgl.batch`; `graphs.spatial_graph` on the
whole list; `graphs.spatial_structure`, which training uses. Equality is checked first; where it fails nothing is timed.
"""

import argparse
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import processor
from relgrounding import graphs
from relgrounding._dgl import dgl
from relgrounding.graphs import SpatialRelation

NAMES = [relation.name.lower() for relation in SpatialRelation]
SIZE = (640, 480)


def draw_boxes(images: int, boxes: int, seed: int, sides: tuple[int, int] = (8, 200)) -> list[Tensor]:
    """Integer boxes of 8 to 200, or other `sides`, pixels a side."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.randint(sides[0], sides[1] + 1, (images, boxes, 2), generator=generator)
    corner = (torch.rand(images, boxes, 2, generator=generator) * (torch.tensor(SIZE) - extent)).long()
    return list(torch.cat([corner, corner + extent], dim=2))


def heterograph(edges: dict[str, tuple], nodes: int) -> dgl.DGLGraph:
    return dgl.heterograph({("proposal", n, "proposal"): edges[n] for n in NAMES}, {"proposal": nodes})


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
    diagonal = math.hypot(*SIZE)
    built = []
    for boxes in items:
        edges: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in NAMES}
        for j in range(len(boxes)):
            for i in range(len(boxes)):
                number = 0 if i == j else pair_relation(boxes[i], boxes[j], diagonal)
                if number:
                    edges[NAMES[number - 1]][0].append(i)
                    edges[NAMES[number - 1]][1].append(j)
        built.append(heterograph(edges, len(boxes)))
    return dgl.batch(built)


def matrix_of_one(boxes: Tensor) -> Tensor:
    """The relation matrix of one image in vectorised PyTorch."""
    a, b = boxes[:, None].double(), boxes[None].double()
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).double()
    iou = shared / (area[:, None] + area[None] - shared)
    vector = (b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]) / 2
    theta = torch.rad2deg(torch.atan2(vector[..., 1], vector[..., 0]))
    angle = (torch.where(theta > 0, theta, theta + 360) / 45).ceil().long() + 3
    number = torch.where(vector.norm(dim=-1) / math.hypot(*SIZE) < 0.5, angle, 0)
    number[iou > 0.5] = 3
    number[((b[..., :2] <= a[..., :2]) & (a[..., 2:] <= b[..., 2:])).all(-1)] = 2
    number[((a[..., :2] <= b[..., :2]) & (b[..., 2:] <= a[..., 2:])).all(-1)] = 1
    return number.fill_diagonal_(0)


def by_items(items: list[Tensor]) -> dgl.DGLGraph:
    """One vectorised heterograph an image, then `dgl.batch`."""
    built = []
    for boxes in items:
        # Transposed, so that edges come sorted by destination, as in the other ways.
        matrix = matrix_of_one(boxes).t()
        ends = {name: (matrix == k + 1).nonzero(as_tuple=True) for k, name in enumerate(NAMES)}
        built.append(heterograph({name: (j_i[1], j_i[0]) for name, j_i in ends.items()}, len(boxes)))
    return dgl.batch(built)


def same(a: dgl.DGLGraph, b: dgl.DGLGraph) -> bool:
    def equal_edges(name: str) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a.edges(etype=name), b.edges(etype=name), strict=True))

    def equal_counts(name: str) -> bool:
        return torch.equal(a.batch_num_edges(name), b.batch_num_edges(name))

    return torch.equal(a.batch_num_nodes(), b.batch_num_nodes()) and all(
        len(a.edges(etype=n)[0]) == len(b.edges(etype=n)[0]) and equal_edges(n) and equal_counts(n) for n in NAMES
    )


def milliseconds(function: Callable[[], object], repeats: int) -> list[float]:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--boxes", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    items = draw_boxes(args.images, args.boxes, args.seed)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "Python loop, NumPy rows": (lambda: by_pairs([item.numpy() for item in items]), 3),
        "Python loop, plain integers": (lambda: by_pairs([item.tolist() for item in items]), 5),
        "one image at a time + dgl.batch": (lambda: by_items(items), args.repeats),
        "graphs.spatial_graph": (lambda: graphs.spatial_graph(items, SIZE), args.repeats),
        "graphs.spatial_structure": (lambda: graphs.spatial_structure(items, SIZE), args.repeats),
    }
    graph = graphs.spatial_graph(items, SIZE)
    structure_graph = graphs.spatial_structure(items, SIZE).to_dgl()
    for name, other in (
        ("loop", by_pairs([item.tolist() for item in items])),
        ("items", by_items(items)),
        ("structure", structure_graph),
    ):
        if not same(graph, other):
            sys.exit(f"the graph of spatial_graph and that of '{name}' differ: no times are printed")
    print(f"{args.images} images x {args.boxes} boxes, {graph.num_edges()} edges; all five give the same graph")
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}, DGL {dgl.__version__}"
    print(f"{processor()}, {torch.get_num_threads()} threads, {platform.system()}; {versions}")
    print(f"{'milliseconds':<34}{'median':>10}{'10 %':>10}{'90 %':>10}{'ratio':>10}")
    results = {name: milliseconds(function, repeats) for name, (function, repeats) in ways.items()}
    ours = statistics.median(results["graphs.spatial_graph"])
    for name, times in results.items():
        low, high = times[len(times) // 10], times[(9 * len(times)) // 10]
        median = statistics.median(times)
        print(f"{name:<34}{median:>10.2f}{low:>10.2f}{high:>10.2f}{median / ours:>9.1f}x")


if __name__ == "__main__":
    main()
