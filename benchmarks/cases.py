"""The registry of cases: a layer with its sizes, on a batch of graphs."""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from benchmarks.graph_specs import (
    SPARSE_MAP,
    WHOLE_MAP,
    WINDOWS_32,
    WINDOWS_64,
    Batch,
    DenserImages,
    DenserVideos,
    Images,
    Videos,
)
from relgrounding.graphs import GraphStructure, SpatialRelation

LAYERS = ("attention", "gated", "edge_gated")
BATCHES = (1, 4, 16, 32, 64, 256)
DENSITIES = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
SCALES = (10, 30, 100, 300, 1000, 3000, 10000)


@dataclass(frozen=True)
class Case:
    """One line of the benchmark.

    Args:
        name: ``layer/graph/batch``.
        layer: "attention" (`nn.GraphAttention`), "gated" (`nn.GatedSum`: a map, one direction) or "edge_gated"
            (`nn.EdgeGatedGCN`: three maps, both directions).
        graph: the batch of graphs.
        in_dim: width of the input.
        dim: width of a head's output.
        heads: 1 but for attention.
        series: which plot it belongs to: "batch", "density" or "scaling".
        core: whether the short run has it.
    """

    name: str
    layer: str
    graph: Batch
    in_dim: int
    dim: int
    heads: int = 1
    series: str = "batch"
    core: bool = False

    @property
    def out_dim(self) -> int:
        """Width of the output."""
        return self.heads * self.dim

    @property
    def num_types(self) -> int:
        """Edge types of the layer."""
        return 1 if self.layer == "attention" else len(SpatialRelation)


@dataclass(frozen=True)
class Size:
    """What the work on a batch of graphs depends on."""

    nodes: int
    edges: int
    pairs: int
    types: int

    @staticmethod
    def of(structure: GraphStructure) -> "Size":
        """The size of a batch; pairs: of two nodes of one item."""
        pairs = int(structure.batch_num_nodes.square().sum())
        return Size(structure.num_nodes, structure.num_edges, pairs, structure.num_types)

    @property
    def density(self) -> float:
        """Edges per pair."""
        return self.edges / max(self.pairs, 1)


def _attention(graph: str, spec: Batch, **more) -> Case:
    sizes = {"in_dim": 512, "dim": 64, "heads": 4} | more
    return Case(f"attention/{graph}/b{spec.batch_size}", "attention", spec, **sizes)


def _gated(graph: str, spec: Batch, layer: str = "gated", **more) -> Case:
    sizes = {"in_dim": 256, "dim": 256} | more
    return Case(f"{layer}/{graph}/b{spec.batch_size}", layer, spec, **sizes)


# Name, clips of the videos, proposals.
TEMPORAL = (
    ("windows32", (32,), WINDOWS_32),
    ("windows64", (64,), WINDOWS_64),
    ("map32", (32,), SPARSE_MAP),
    ("map64", (64,), SPARSE_MAP),
    ("wholemap64", (64,), WHOLE_MAP),
    # Videos of one batch differ in length.
    ("ragged", (32, 40, 64, 48, 36, 56, 34, 60), WINDOWS_64),
)
REGIONS = (10, 36, 50, 100)
# Proposals a video beyond which a batch of 64 is no longer a batch of this field.
LARGEST_BATCH = {"wholemap64": 16, "map64": 32, "map32": 64, "windows64": 64, "ragged": 64}
CORE = {
    "attention/windows32/b1",
    "attention/windows32/b32",
    "attention/windows64/b4",
    "attention/map32/b4",
    "attention/map64/b1",
    "attention/ragged/b16",
    "gated/regions10/b32",
    "gated/regions36/b32",
    "gated/regions50/b1",
    "gated/regions50/b32",
    "gated/regions100/b16",
    "edge_gated/regions50/b32",
}
HEADLINE = {
    "attention": "attention/windows32/b32",
    "gated": "gated/regions50/b32",
    "edge_gated": "edge_gated/regions50/b32",
}


def _batch_series() -> Iterable[Case]:
    for (graph, clips, proposals), batch in product(TEMPORAL, BATCHES):
        if batch <= LARGEST_BATCH.get(graph, 256):
            yield _attention(graph, Videos(batch, clips, proposals))
    for layer, regions, batch in product(("gated", "edge_gated"), REGIONS, BATCHES):
        yield _gated(f"regions{regions}", Images(batch, regions), layer)


def _density_series() -> Iterable[Case]:
    for density in DENSITIES:
        name = f"density{round(100 * density):03}"
        yield _attention(name, DenserVideos(32, density), series="density")
        yield _gated(name, DenserImages(32, 50, density), series="density")


def _scaling_series() -> Iterable[Case]:
    """Narrower layers than elsewhere, so that 10,000 items (1.36 million nodes; 500,000) fit a common machine."""
    for items in SCALES:
        videos = Videos(items, (32,), WINDOWS_32)
        yield _attention("scaling", videos, in_dim=128, dim=32, series="scaling")
        yield _gated("scaling", Images(items, 50), in_dim=128, dim=128, series="scaling")
    yield _gated("scaling", Images(20000, 50), in_dim=128, dim=128, series="scaling")


def registry() -> dict[str, Case]:
    """All cases by name."""
    cases = [*_batch_series(), *_density_series(), *_scaling_series()]
    return {case.name: replace(case, core=case.name in CORE) for case in cases}


def select(patterns: Sequence[str], core: bool) -> list[Case]:
    """The cases whose name matches a pattern, ``*`` and parts of a name included; without one: core, or all.

    Raises:
        ValueError: a pattern that matches no case.
    """
    cases = registry()
    if not patterns:
        return [case for case in cases.values() if case.core or not core]
    names: set[str] = set()
    for pattern in patterns:
        found = set(fnmatch.filter(cases, pattern)) or {name for name in cases if pattern in name}
        if not found:
            raise ValueError(f"no case matches '{pattern}'; the cases are {', '.join(cases)}")
        names |= found
    return [case for name, case in cases.items() if name in names]
