"""The graphs of the cases: how their items are drawn, and how a batch of them is built."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from relgrounding import graphs
from relgrounding.graphs import GraphStructure, SpatialRelation

IMAGE_SIZE = (640, 480)
RELATION_NAMES = [relation.name.lower() for relation in SpatialRelation]
# About 90 % of the pairs of 36 and more boxes with such sides are joined.
BOX_SIDES = (16, 240)
DISTINCT_ITEMS = 64

Proposals = Callable[[int], Tensor]
# 136 windows, of which 13 % of the pairs overlap enough.
WINDOWS_32 = partial(graphs.window_proposals, widths=(1, 3, 4, 8, 12, 16), stride=0.125)
# Every 4th width up to 32 at every clip: 376 windows of a 64-clip video.
WINDOWS_64 = partial(graphs.window_proposals, widths=(4, 8, 12, 16, 20, 24, 28, 32), stride=1)
SPARSE_MAP = partial(graphs.map_proposals, dense_width=16)
# All moments of a 64-clip video: 2,080.
WHOLE_MAP = partial(graphs.map_proposals, dense_width=64)


@dataclass(frozen=True)
class Batch:
    """A batch of graphs.

    Args:
        batch_size: number of items. Beyond `DISTINCT_ITEMS` the first ones are repeated: a kernel sees no difference,
            and drawing them stays cheap.
        draw: from the number of an item to its segments or boxes.
        build: from segments or boxes to their structure.
    """

    batch_size: int
    draw: Callable[[int], Tensor]
    build: Callable[[list[Tensor]], GraphStructure]

    def items(self) -> list[Tensor]:
        """Segments or boxes of the distinct items."""
        return [self.draw(number) for number in range(min(self.batch_size, DISTINCT_ITEMS))]

    def structure(self) -> GraphStructure:
        """The structure of the batch, with nothing derived from it cached yet."""
        built = self.build(self.items())
        if self.batch_size <= DISTINCT_ITEMS:
            return built
        return built.select(torch.arange(self.batch_size) % DISTINCT_ITEMS)


def videos(batch_size: int, clips: tuple[int, ...], proposals: Proposals) -> Batch:
    """Temporal graphs of videos of `clips` clips; several numbers: videos of these lengths in turn."""
    return Batch(batch_size, lambda number: proposals(clips[number % len(clips)]), graphs.temporal_structure)


def images(batch_size: int, regions: int) -> Batch:
    """Spatial graphs of images with `regions` boxes."""
    build = partial(graphs.spatial_structure, image_size=IMAGE_SIZE)
    return Batch(batch_size, partial(draw_boxes, regions), build)


def denser_videos(batch_size: int, density: float) -> Batch:
    """The windows of 32-clip videos; the share `density` of the pairs that overlap most is joined."""

    def build(items: list[Tensor]) -> GraphStructure:
        centre = items[0].double().mean(1)
        # Pairs that do not overlap follow in the order of their distance.
        closeness = graphs.temporal_iou(items[0], items[0]) - (centre[:, None] - centre).abs() / 1000
        one = _closest(closeness.fill_diagonal_(torch.inf), torch.zeros_like(closeness), density, ["overlaps"])
        return one.select(torch.zeros(len(items), dtype=torch.int64))

    return Batch(batch_size, lambda number: WINDOWS_32(32), build)


def denser_images(batch_size: int, regions: int, density: float) -> Batch:
    """Images of `regions` boxes; the share `density` of the pairs whose centres are closest is joined."""

    def one(boxes: Tensor) -> GraphStructure:
        centre = (boxes[:, :2] + boxes[:, 2:]).double()
        # With so wide a limit every pair has a relation.
        relation = graphs.spatial_relations(boxes, IMAGE_SIZE, distance_ratio=100.0)
        closeness = -torch.cdist(centre, centre).fill_diagonal_(torch.inf)
        return _closest(closeness, relation - 1, density * (1 - 1 / regions), RELATION_NAMES)

    return Batch(batch_size, partial(draw_boxes, regions), lambda items: GraphStructure.batch([one(x) for x in items]))


def _closest(closeness: Tensor, etype: Tensor, density: float, names: list[str]) -> GraphStructure:
    nodes = len(closeness)
    kept = closeness.flatten().argsort(descending=True, stable=True)[: round(density * nodes * nodes)]
    columns = (kept // nodes, kept % nodes, etype.flatten()[kept].long())
    return GraphStructure.from_edges(*columns, names, torch.tensor([nodes]))


def draw_boxes(count: int, seed: int, sides: tuple[int, int] = BOX_SIDES) -> Tensor:
    """(count, 4) integer boxes in an image of `IMAGE_SIZE`, with sides from `sides`."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.randint(sides[0], sides[1] + 1, (count, 2), generator=generator)
    corner = (torch.rand(count, 2, generator=generator) * (torch.tensor(IMAGE_SIZE) - extent)).long()
    return torch.cat([corner, corner + extent], 1)
