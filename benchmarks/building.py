"""Time to build the graphs of a batch, and to join graphs that are built already.

Every way must give the edges of `graphs`' own structure; one that does not gets no figure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from benchmarks.graph_specs import WINDOWS_32, Buildable, Images, Videos
from benchmarks.providers._pyg import pyg
from benchmarks.providers._pyg import unavailable as pyg_unavailable
from benchmarks.timing import Quantiles, interleaved
from relgrounding import graphs
from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure

BATCHES: dict[str, Buildable] = {
    "64 videos x 136 windows": Videos(64, (32,), WINDOWS_32),
    "64 images x 36 regions": Images(64, 36),
    "64 images x 50 regions": Images(64, 50),
    "64 images x 100 regions": Images(64, 100),
}


@dataclass(frozen=True)
class BuildRow:
    """One way to one batch; milliseconds, None where the gate said no."""

    batch: str
    way: str
    status: str
    p20: float | None = None
    p50: float | None = None
    p80: float | None = None
    calls: int | None = None


@dataclass(frozen=True)
class Way:
    """One way to the graph of a batch.

    Args:
        build: makes it.
        edges: its edges (source, destination, type), in any order.
    """

    build: Callable[[], object]
    edges: Callable[[object], Tensor]


def measure_building(repeats: int, seconds: float, tick: Callable[[str], object]) -> list[BuildRow]:
    """All ways to all batches."""
    rows = []
    for name, batch in BATCHES.items():
        tick(f"building {name}")
        rows += _measure_batch(name, batch, repeats, seconds)
    return rows


def _measure_batch(name: str, batch: Buildable, repeats: int, seconds: float) -> list[BuildRow]:
    items = batch.items()
    right = structure_edges(batch.build(items))
    everything = ways(batch, items)
    good = {way: w for way, w in everything.items() if same_edges(w.edges(w.build()), right)}
    functions = {way: {"build": w.build} for way, w in good.items()}
    times = interleaved(functions, torch.device("cpu"), repeats, seconds, calls=1)
    return [
        _row(name, way, times[way]["build"]) if way in good else BuildRow(name, way, "wrong: other edges")
        for way in everything
    ]


def _row(batch: str, way: str, times: Quantiles) -> BuildRow:
    return BuildRow(batch, way, "ok", times.p20, times.p50, times.p80, times.count)


def ways(batch: Buildable, items: list[Tensor]) -> dict[str, Way]:
    """From the segments or boxes of all items, and from graphs of each item."""
    structures = [batch.build([item]) for item in items]
    dgl_graphs = [batch.build_dgl([item]) for item in items]
    found = {
        "graphs: structure of the whole list": Way(partial(batch.build, items), structure_edges),
        "graphs: DGL graph of the whole list": Way(partial(batch.build_dgl, items), _dgl_edges),
        "an item at a time, then dgl.batch": Way(
            lambda: dgl.batch([batch.build_dgl([item]) for item in items]), _dgl_edges
        ),
        "join only: GraphStructure.batch": Way(partial(GraphStructure.batch, structures), structure_edges),
        "join only: dgl.batch": Way(partial(dgl.batch, dgl_graphs), _dgl_edges),
    }
    return found if pyg_unavailable() else found | _pyg_ways(batch, items)


def _pyg_ways(batch: Buildable, items: list[Tensor]) -> dict[str, Way]:
    data = pyg("data")

    def one(item: Tensor):
        relation = batch.relation(item)
        source, destination = relation.nonzero(as_tuple=True)
        etype = relation[source, destination] - 1
        return data.Data(
            edge_index=torch.stack([source, destination]), edge_type=etype, num_nodes=len(item), x=item.float()
        )

    built = [one(item) for item in items]
    join = data.Batch.from_data_list
    return {
        "an item at a time, then PyG's Batch": Way(lambda: join([one(item) for item in items]), _pyg_edges),
        "join only: PyG's Batch": Way(partial(join, built), _pyg_edges),
    }


def same_edges(found: Tensor, right: Tensor) -> bool:
    """Whether two lists of edges hold the same ones."""
    return found.shape == right.shape and torch.equal(_sorted(found), _sorted(right))


def _sorted(edges: Tensor) -> Tensor:
    size = int(edges.max()) + 1 if edges.numel() else 1
    key = (edges[1] * size + edges[0]) * size + edges[2]
    return edges[:, key.argsort()]


def structure_edges(graph: object) -> Tensor:
    """(3, E) of a structure."""
    structure = cast(GraphStructure, graph)
    return torch.stack([structure.indices, structure.destinations, structure.etype])


def _dgl_edges(graph: object) -> Tensor:
    return structure_edges(graphs.from_dgl(cast(dgl.DGLGraph, graph)))


def _pyg_edges(batch) -> Tensor:
    return torch.cat([batch.edge_index, batch.edge_type[None]])
