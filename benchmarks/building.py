"""The cases of `benchmarks.graph_building`, and the process that measures them.

A process of its own measures one version of the library; it uses nothing of it but what every version has. It reads
one request per line of its standard input, a list in JSON, and answers each with a line of JSON: ``[ways, case]``,
``[digest, case, way]``, ``[time, case, way, mode]``, ``[memory, case, way]``.
"""

import ctypes
import importlib.util
import json
import math
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import own_pages, peak_memory
from relgrounding import graphs, nn
from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure

IMAGE_SIZE = (640, 480)
FIELDS = ("indptr", "indices", "etype", "out_indptr", "out_indices", "out_edges")
ITEMS = 64
"""Images, and videos of windows."""
PRIME = 2_147_483_647
BESIDE = 2**28
"""Bytes that are written before a cold call: nothing else is left in the caches nearest to a core."""


@dataclass(frozen=True)
class Way:
    """One way to a case's graph.

    Args:
        call: what is timed, given what `prepare` returned.
        prepare: called before each call, outside of the time.
    """

    call: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


def read(structure: GraphStructure) -> GraphStructure:
    """The structure, after each of its tensors was read."""
    for name in FIELDS:
        getattr(structure, name)
    return structure


def digest(graph: Any) -> tuple[int, int | float]:
    """Number of edges and a sum over them, whatever their order, of any library's graph; of a tensor likewise."""
    if isinstance(graph, Tensor):
        return len(graph), float(graph.double().square().sum())
    if isinstance(graph, dgl.DGLGraph):
        graph = graphs.from_dgl(graph)
    if isinstance(graph, GraphStructure):
        sources, destinations, etype = graph.indices, graph.destinations, graph.etype
    else:
        (sources, destinations), etype = graph.edge_index, graph.edge_type
    mixed = (sources * 0x9E3779B1 + destinations) * 0x85EBCA6B + etype
    return len(sources), int((mixed * (mixed + 0x27D4EB2F) % PRIME + 1).sum())


def spatial_matrix(boxes: Tensor) -> Tensor:
    """Numbers from 1 of the relations source -> destination of one image, 0 for none, in plain PyTorch."""
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


def overlap_matrix(segments: Tensor) -> Tensor:
    """1 where two segments of one video are joined, in plain PyTorch."""
    (start, end) = segments.double().unbind(1)
    shared = (torch.minimum(end[:, None], end) - torch.maximum(start[:, None], start)).clamp_min(0)
    length = end - start
    return (shared / (length[:, None] + length - shared) > 0.3).long().fill_diagonal_(1)


def pyg() -> types.ModuleType:
    """PyTorch Geometric's data structures, imported on first use: it takes seconds and may not be installed."""
    with warnings.catch_warnings():
        # It scripts a class at import, which newer releases of PyTorch warn about.
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("torch_geometric.data")


def of_pyg(relation: Callable[[Tensor], Tensor], item: Tensor) -> Any:
    """One item as a user of PyTorch Geometric would make it."""
    numbers = relation(item)
    ends = numbers.nonzero().t()
    return pyg().Data(edge_index=ends, edge_type=numbers[tuple(ends)] - 1, num_nodes=len(item))


def pyg_batch(items: list[Any]) -> Any:
    """PyTorch Geometric's batch."""
    return pyg().Batch.from_data_list(items)


def building(build: Callable, build_dgl: Callable, relation: Callable[[Tensor], Tensor], items: list[Tensor]) -> dict:
    """All ways from segments or boxes to a batch."""
    ways = {
        "ours": Way(lambda _: build(items)),
        "ours, all tensors read": Way(lambda _: read(build(items))),
        "ours, as a DGL graph": Way(lambda _: build_dgl(items)),
    }
    if not importlib.util.find_spec("torch_geometric"):
        return ways
    ways["PyG, item by item"] = Way(lambda _: pyg_batch([of_pyg(relation, item) for item in items]))
    if all(item is items[0] for item in items):
        # For who knows that the items are equal.
        ways["PyG, one item repeated"] = Way(lambda _: pyg_batch([of_pyg(relation, items[0])] * len(items)))
    return ways


def videos(items: list[Tensor]) -> dict[str, Way]:
    """The temporal graph of these segments."""
    return building(graphs.temporal_structure, graphs.temporal_graph, overlap_matrix, items)


def images(boxes: int) -> dict[str, Way]:
    """The spatial graph of 64 images."""
    sized = partial(graphs.spatial_structure, image_size=IMAGE_SIZE)
    return building(sized, partial(graphs.spatial_graph, image_size=IMAGE_SIZE), spatial_matrix, drawn(boxes))


def drawn(boxes: int) -> list[Tensor]:
    """Whole boxes of 64 images, about 90 % of whose pairs are joined."""
    from benchmarks.graph_specs import draw_boxes

    return [draw_boxes(boxes, seed) for seed in range(ITEMS)]


def joining(boxes: int) -> dict[str, Way]:
    """64 graphs that exist already."""
    items = drawn(boxes)
    each = [read(graphs.spatial_structure([item], IMAGE_SIZE)) for item in items]
    each_dgl = [graphs.spatial_graph([item], IMAGE_SIZE) for item in items]
    ways = {"ours": Way(lambda _: GraphStructure.batch(each)), "dgl.batch": Way(lambda _: dgl.batch(each_dgl))}
    if importlib.util.find_spec("torch_geometric"):
        each_pyg = [of_pyg(spatial_matrix, item) for item in items]
        ways["PyG's Batch"] = Way(lambda _: pyg_batch(each_pyg))
    return ways


def layer() -> dict[str, Way]:
    """The forward pass of a graph attention layer on 64 videos of 136 windows, by what it is given."""
    items = [WINDOWS()] * ITEMS
    torch.manual_seed(0)
    attention = nn.GraphAttention(128, 32, 4)
    x = torch.randn(ITEMS * len(items[0]), 128)

    def call(graph: Any) -> Tensor:
        with torch.no_grad():
            return attention(graph, x)

    def used() -> dgl.DGLGraph:
        graph = graphs.temporal_graph(items)
        call(graph)
        return graph

    structure = read(graphs.temporal_structure(items))
    return {
        "ours": Way(call, lambda: structure),
        "DGL graph, first call": Way(call, lambda: graphs.temporal_graph(items)),
        "DGL graph, second call": Way(call, used),
    }


WINDOWS = partial(graphs.window_proposals, 32, widths=(1, 3, 4, 8, 12, 16), stride=0.125)
MOMENTS = partial(graphs.map_proposals, 64, dense_width=64)
CASES: dict[str, Callable[[], dict[str, Way]]] = {
    "64 videos x 136 windows": lambda: videos([WINDOWS()] * ITEMS),
    "64 videos x 136 windows, all different": lambda: videos([WINDOWS() * (k + 1) for k in range(ITEMS)]),
    "16 videos x 2080 moments": lambda: videos([MOMENTS()] * 16),
    "4 videos x 2080 moments, all different": lambda: videos([MOMENTS() * (k + 1) for k in range(4)]),
    "64 images x 50 boxes": lambda: images(50),
    "64 images x 100 boxes": lambda: images(100),
    "join 64 graphs of 50 boxes": lambda: joining(50),
    "join 64 graphs of 100 boxes": lambda: joining(100),
    "layer": layer,
}


@lru_cache(maxsize=1)
def ways(case: str) -> dict[str, Way]:
    """The ways of a case, prepared."""
    return CASES[case]()


def empty_caches() -> None:
    """Give freed memory back to the system, and fill the processor's caches with something else."""
    torch.zeros(BESIDE, dtype=torch.uint8).add_(1)
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def milliseconds(way: Way, mode: str) -> dict[str, float]:
    """Of one call: processor time and time by the clock; ``warm``: after another call, ``cold``: as a first one."""
    if mode == "warm":
        way.call(way.prepare())
    given = way.prepare()
    if mode == "cold":
        empty_caches()
    clock, processor = time.perf_counter(), time.process_time()
    result = way.call(given)
    processor, clock = time.process_time() - processor, time.perf_counter() - clock
    del result
    return {"processor": 1e3 * processor, "clock": 1e3 * clock}


def answer(request: list[str]) -> Any:
    """What a line of standard input asks for."""
    what, case, *rest = request
    if what == "ways":
        return [*ways(case)]
    way = ways(case)[rest[0]]
    if what == "digest":
        return digest(way.call(way.prepare()))
    if what == "time":
        return milliseconds(way, rest[1])
    given = way.prepare()
    return peak_memory(lambda: way.call(given), torch.device("cpu")).peak


def main() -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(1)
    if "--memory" in sys.argv:
        own_pages()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
