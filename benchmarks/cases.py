"""The registry of cases: a layer with its sizes, on a batch of graphs."""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.graph_specs import (
    SPARSE_MAP,
    WHOLE_MAP,
    WINDOWS_32,
    WINDOWS_64,
    Batch,
    denser_images,
    denser_videos,
    images,
    videos,
)
from relgrounding.graphs import GraphStructure, SpatialRelation

LAYERS = ("attention", "gated", "edge_gated", "comparison")
BATCHES = (1, 4, 16, 32, 64, 256)
DENSITIES = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
SCALES = (10, 30, 100, 300, 1000, 3000, 10000)
# Clips of the videos, proposals, and the largest batch: with larger ones it is no longer a batch of this field.
TEMPORAL = {
    "windows32": ((32,), WINDOWS_32, 256),
    "windows64": ((64,), WINDOWS_64, 64),
    "map32": ((32,), SPARSE_MAP, 64),
    "map64": ((64,), SPARSE_MAP, 32),
    "wholemap64": ((64,), WHOLE_MAP, 16),
    # Videos of one batch differ in length.
    "ragged": ((32, 40, 64, 48, 36, 56, 34, 60), WINDOWS_64, 64),
}
REGIONS = (10, 36, 50, 100)
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
    "comparison/regions50/b32",
}
HEADLINE = {
    "attention": "attention/windows32/b32",
    "gated": "gated/regions50/b32",
    "edge_gated": "edge_gated/regions50/b32",
    "comparison": "comparison/regions50/b32",
}


@dataclass(frozen=True)
class Case:
    """One line of the benchmark.

    Args:
        layer: "attention" (`nn.GraphAttention`), "gated" (`nn.GatedSum`: one map, one direction), "edge_gated"
            (`nn.EdgeGatedGCN`: three maps, both directions) or "comparison" (`nn.RelationalComparison`: three maps, one
            direction; to one number per node).
        kind: name of the kind of graph.
        graph: the batch of graphs.
        in_dim: width of the input.
        dim: width of a head's output.
        heads: 1 except for attention.
        series: the plot that it belongs to: "batch", "density" or "scaling".
    """

    layer: str
    kind: str
    graph: Batch
    in_dim: int
    dim: int
    heads: int = 1
    series: str = "batch"

    @property
    def name(self) -> str:
        """``layer/kind/batch``."""
        return f"{self.layer}/{self.kind}/b{self.graph.batch_size}"

    @property
    def core(self) -> bool:
        """Whether the short run has it."""
        return self.name in CORE

    @property
    def out_dim(self) -> int:
        """Width of the output."""
        return self.heads * self.dim

    @property
    def num_types(self) -> int:
        """Edge types of the layer."""
        return 1 if self.layer == "attention" else len(SpatialRelation)


def density(structure: GraphStructure) -> float:
    """Edges per pair of nodes of one item."""
    return structure.num_edges / max(structure.num_pairs, 1)


def _cases() -> Iterable[Case]:
    for (kind, (clips, proposals, largest)), batch in product(TEMPORAL.items(), BATCHES):
        if batch <= largest:
            yield Case("attention", kind, videos(batch, clips, proposals), 512, 64, heads=4)
    for layer, regions, batch in product(("gated", "edge_gated", "comparison"), REGIONS, BATCHES):
        yield Case(layer, f"regions{regions}", images(batch, regions), 256, 256)
    for share in DENSITIES:
        kind = f"density{round(100 * share):03}"
        yield Case("attention", kind, denser_videos(32, share), 512, 64, heads=4, series="density")
        yield Case("gated", kind, denser_images(32, 50, share), 256, 256, series="density")
    # Narrower layers than elsewhere, so that 10,000 items (1.36 million nodes; 500,000) fit a common machine.
    for items in SCALES:
        yield Case("attention", "scaling", videos(items, (32,), WINDOWS_32), 128, 32, heads=4, series="scaling")
        yield Case("gated", "scaling", images(items, 50), 128, 128, series="scaling")
    yield Case("gated", "scaling", images(20000, 50), 128, 128, series="scaling")


def registry() -> dict[str, Case]:
    """All cases by name."""
    return {case.name: case for case in _cases()}


def matching(names: Iterable[str], patterns: Sequence[str], what: str) -> list[str]:
    """The names that match a pattern (``*``, or a part of the name), in their order; all of them without a pattern.

    Raises:
        ValueError: a pattern that matches no name.
    """
    names, chosen = list(names), set()
    for pattern in patterns:
        found = set(fnmatch.filter(names, pattern)) or {name for name in names if pattern in name}
        if not found:
            raise ValueError(f"no {what} matches '{pattern}'; the {what}s are {', '.join(names)}")
        chosen |= found
    return [name for name in names if name in chosen or not patterns]


def select(patterns: Sequence[str], core: bool) -> list[Case]:
    """The cases that match a pattern, see `matching`; without one the core cases, or all.

    Raises:
        ValueError: a pattern that matches no case.
    """
    cases = registry()
    chosen = [cases[name] for name in matching(cases, patterns, "case")]
    return [case for case in chosen if patterns or case.core or not core]
