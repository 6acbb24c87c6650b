"""The graphs of the cases: how their items are drawn, and how those become one batch."""

import functools
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.graph_building import draw_boxes, matrix_of_one
from relgrounding import graphs
from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure

IMAGE_SIZE = (640, 480)
# About 90 % of the pairs of 36 and more such boxes are joined.
BOX_SIDES = (16, 240)
# More items than these repeat the first ones: a kernel sees no difference, and drawing them stays cheap.
DISTINCT_ITEMS = 64
# 136 windows, of which 13 % of the pairs overlap enough.
WINDOWS_32 = ("windows", (1, 3, 4, 8, 12, 16), 0.125)
# Every 4th width up to 32 at every clip: 376 windows of a 64-clip video.
WINDOWS_64 = ("windows", (4, 8, 12, 16, 20, 24, 28, 32), 1)
SPARSE_MAP = ("map", (16,), 1)
# All moments of a 64-clip video: 2,080.
WHOLE_MAP = ("map", (64,), 1)

Spec = TypeVar("Spec", bound="Batch")


@dataclass(frozen=True)
class Batch:
    """A batch of `batch_size` items; each kind of graph derives from it."""

    batch_size: int

    def items(self) -> list[Tensor]:
        """What each item is built from: segments or boxes."""
        distinct = [self.draw(position) for position in range(min(self.batch_size, DISTINCT_ITEMS))]
        return [distinct[position % DISTINCT_ITEMS] for position in range(self.batch_size)]

    def draw(self, position: int) -> Tensor:
        """The segments or boxes of one item."""
        raise NotImplementedError

    def build(self, items: list[Tensor]) -> GraphStructure:
        """The structure of some items."""
        raise NotImplementedError

    def with_batch(self: Spec, batch_size: int) -> Spec:
        """The same kind of items in a batch of another size."""
        return replace(self, batch_size=batch_size)

    def structure(self) -> GraphStructure:
        """The structure of the batch, nothing derived from it cached yet."""
        built = self.build([self.draw(position) for position in range(min(self.batch_size, DISTINCT_ITEMS))])
        if self.batch_size <= DISTINCT_ITEMS:
            return built
        return built.select(torch.arange(self.batch_size) % DISTINCT_ITEMS)


class Buildable(Batch):
    """Items from which the library builds a DGL graph, too, and from which others build theirs."""

    def build_dgl(self, items: list[Tensor]) -> dgl.DGLGraph:
        """The DGL graph of some items."""
        raise NotImplementedError

    def relation(self, item: Tensor) -> Tensor:
        """(T, T) number of the relation source -> destination from 1, 0 for none, in plain PyTorch."""
        raise NotImplementedError


@dataclass(frozen=True)
class Videos(Buildable):
    """Temporal graphs of videos of `clips` clips; several numbers of clips: videos of these lengths in turn."""

    clips: tuple[int, ...]
    proposals: tuple[str, tuple[int, ...], float]

    def draw(self, position: int) -> Tensor:
        """See `Batch`."""
        return proposals(self.clips[position % len(self.clips)], self.proposals)

    def build(self, items: list[Tensor]) -> GraphStructure:
        """See `Batch`."""
        return graphs.temporal_structure(items)

    def build_dgl(self, items: list[Tensor]) -> dgl.DGLGraph:
        """See `Buildable`."""
        return graphs.temporal_graph(items)

    def relation(self, item: Tensor) -> Tensor:
        """See `Buildable`."""
        return (graphs.temporal_iou(item, item) > 0.3).long().fill_diagonal_(1)


@dataclass(frozen=True)
class Images(Buildable):
    """Spatial graphs of images with `regions` boxes of `BOX_SIDES` pixels a side."""

    regions: int

    def draw(self, position: int) -> Tensor:
        """See `Batch`."""
        return boxes(self.regions, position)

    def build(self, items: list[Tensor]) -> GraphStructure:
        """See `Batch`."""
        return graphs.spatial_structure(items, IMAGE_SIZE)

    def build_dgl(self, items: list[Tensor]) -> dgl.DGLGraph:
        """See `Buildable`."""
        return graphs.spatial_graph(items, IMAGE_SIZE)

    def relation(self, item: Tensor) -> Tensor:
        """See `Buildable`."""
        return matrix_of_one(item)


@dataclass(frozen=True)
class DenserVideos(Batch):
    """The windows of 32-clip videos; joined are the share `density` of the pairs that overlap most."""

    density: float

    def draw(self, position: int) -> Tensor:
        """See `Batch`."""
        return proposals(32, WINDOWS_32)

    def build(self, items: list[Tensor]) -> GraphStructure:
        """See `Batch`."""
        centre = items[0].double().mean(1)
        # Pairs that do not overlap follow in the order of their distance.
        closeness = graphs.temporal_iou(items[0], items[0]) - (centre[:, None] - centre).abs() / 1000
        one = _closest(closeness.fill_diagonal_(torch.inf), torch.zeros_like(closeness), self.density, ["overlaps"])
        return one.select(torch.zeros(len(items), dtype=torch.int64))


@dataclass(frozen=True)
class DenserImages(Batch):
    """Images of `regions` boxes; joined are the share `density` of the pairs whose centres are closest."""

    regions: int
    density: float

    def draw(self, position: int) -> Tensor:
        """See `Batch`."""
        return boxes(self.regions, position)

    def build(self, items: list[Tensor]) -> GraphStructure:
        """See `Batch`."""
        return GraphStructure.batch([self._one(item) for item in items])

    def _one(self, item: Tensor) -> GraphStructure:
        centre = (item[:, :2] + item[:, 2:]).double()
        # So wide a limit that every pair has a relation.
        relation = graphs.spatial_relations(item, IMAGE_SIZE, distance_ratio=100.0)
        names = [relation.name.lower() for relation in graphs.SpatialRelation]
        closeness = -torch.cdist(centre, centre).fill_diagonal_(torch.inf)
        return _closest(closeness, relation - 1, self.density * (1 - 1 / self.regions), names)


def _closest(closeness: Tensor, etype: Tensor, density: float, names: list[str]) -> GraphStructure:
    nodes = len(closeness)
    kept = closeness.flatten().argsort(descending=True, stable=True)[: round(density * nodes * nodes)]
    columns = (kept // nodes, kept % nodes, etype.flatten()[kept].long())
    return GraphStructure.from_edges(*columns, names, torch.tensor([nodes]))


@functools.cache
def proposals(clips: int, which: tuple[str, tuple[int, ...], float]) -> Tensor:
    kind, widths, stride = which
    return graphs.map_proposals(clips, *widths) if kind == "map" else graphs.window_proposals(clips, widths, stride)


@functools.cache
def boxes(count: int, seed: int) -> Tensor:
    return draw_boxes(1, count, seed, BOX_SIDES)[0]
