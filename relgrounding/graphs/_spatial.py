"""Spatial graphs: eleven relations between the boxes of an image."""

import math
from enum import IntEnum
from fractions import Fraction
from functools import partial

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs._inputs import ArrayLike, Rows, check_positions, read_boxes, read_image_sizes
from relgrounding.graphs._pairs import Pairs, evaluate, graph_of_pairs, matrix_of_pairs, structure_of_pairs
from relgrounding.graphs._structure import GraphStructure


class SpatialRelation(IntEnum):
    """Relation of the edge i -> j between two boxes; 0 in a relation matrix means no edge.

    ``INSIDE``: r_i contains r_j. ``COVER``: r_i lies inside r_j. ``OVERLAP``: IoU above the threshold.
    ``ANGLE_k``: the vector from the centre of r_i to that of r_j, x right and y down, has an angle in
    (45 (k - 1), 45 k] degrees: ANGLE_2 ends at straight down, ANGLE_4 at left, ANGLE_6 at up, ANGLE_8 at right.
    """

    INSIDE = 1
    COVER = 2
    OVERLAP = 3
    ANGLE_1 = 4
    ANGLE_2 = 5
    ANGLE_3 = 6
    ANGLE_4 = 7
    ANGLE_5 = 8
    ANGLE_6 = 9
    ANGLE_7 = 10
    ANGLE_8 = 11


SPATIAL_EDGE_TYPES = tuple(relation.name.lower() for relation in SpatialRelation)


_LARGEST = 2**31 - 1


def _rules(distance_ratio: float, overlap_iou: float) -> tuple[Fraction, Fraction]:
    """Both thresholds as they are written in decimals, so that "equal to the threshold" is well defined."""
    if not (math.isfinite(distance_ratio) and distance_ratio >= 0):
        raise ValueError(f"distance_ratio: {distance_ratio} is not a distance; give a finite number of at least 0")
    if not 0 <= overlap_iou <= 1:
        raise ValueError(f"overlap_iou: {overlap_iou} is not an IoU; give a number from 0 to 1")
    return Fraction(repr(float(distance_ratio))), Fraction(repr(float(overlap_iou)))


def _sign(values: Tensor) -> Tensor:
    """-1, 0 or 1 as a byte; PyTorch's comparisons on the CPU take longer than this."""
    return values.sign().to(torch.int8)


def _angle_bin(dx: Tensor, dy: Tensor) -> Tensor:
    """``ceil(theta / 45)`` by signs: exact at bin edges; theta in (0, 360], y down, 360 for (0, 0)."""
    x, y, diagonal, antidiagonal = _sign(dx), _sign(dy), _sign(dy - dx), _sign(dy + dx)
    # -1 where theta lies in (0, 180], (45, 225], (90, 270], (135, 315]: the side of the line at 0, 45, 90, 135 degrees
    # weighs twice, another sign decides on the line itself, and the shift keeps whether the sum is negative.
    half_0 = (x - 2 * y) >> 7
    half_45 = (x - 2 * diagonal) >> 7
    half_90 = (2 * x + y) >> 7
    half_135 = (2 * antidiagonal + y) >> 7
    halves = half_45.add_(half_90).add_(half_135).add_(half_0).neg_()
    # 1, 2, 3, 4 halves in the first four bins, then 3, 2, 1, 0.
    return (8 - 2 * halves).mul_(half_0.add_(1)).add_(halves)


def _relation_numbers(i: Tensor, j: Tensor, far: Tensor, overlap_iou: Fraction) -> Tensor:
    """Relation of the edge i -> j, 0 for none; the columns are those of `_numbers`, all broadcast against each other.

    Every quantity is an integer where the coordinates are, and so each comparison is exact: no quotients are compared.
    """
    ix1, iy1, ix2, iy2, icx, icy, iarea = i.unbind(0)
    jx1, jy1, jx2, jy2, jcx, jcy, jarea = j.unbind(0)
    dx, dy = jcx - icx, jcy - icy
    angle = _angle_bin(dx, dy).add_(SpatialRelation.ANGLE_1 - 1)
    # 1 where it holds, as all rules that follow, which are arithmetic: comparisons and `torch.where` take longer.
    near = _sign(far - (dx * dx).addcmul_(dy, dy)).clamp_min_(0)
    width = torch.minimum(ix2, jx2).sub_(torch.maximum(ix1, jx1)).clamp_min_(0)
    shared = torch.minimum(iy2, jy2).sub_(torch.maximum(iy1, jy1)).mul_(width)
    # The intersection is itself a box: it is as large as r_j only where it is r_j, and never larger.
    outside_i, outside_j = _sign(jarea - shared), _sign(iarea - shared)
    # shared / (area_i + area_j - shared) > p / q, without the division.
    areas = (iarea + jarea).mul_(overlap_iou.numerator)
    overlap = _sign(shared.mul_(overlap_iou.numerator + overlap_iou.denominator).sub_(areas)).clamp_min_(0)
    # The last rule first.
    number = angle.mul_(near)
    number += (SpatialRelation.OVERLAP - number).mul_(overlap)
    number = (number - SpatialRelation.COVER).mul_(outside_j).add_(SpatialRelation.COVER)
    return (number - SpatialRelation.INSIDE).mul_(outside_i).add_(SpatialRelation.INSIDE).view(torch.uint8)


def _are_short(columns: Float64[Tensor, "7 boxes"], overlap_iou: Fraction) -> bool:
    """Whether every quantity of `_relation_numbers` is an integer of 32 bits, with which it takes less time."""
    if not columns.numel() or not torch.equal(columns[:4], columns[:4].floor()):
        return False
    low, high = columns.amin(1), columns.amax(1)
    width, height = (high[2:4] - low[:2]).tolist()
    centres = (high[4:6] - low[4:6]).square().sum()
    areas = width * height * (3 * overlap_iou.numerator + overlap_iou.denominator)
    return max(areas, float(centres), float(high.max()), -float(low.min())) < _LARGEST


def _read(boxes: ArrayLike, image_size: ArrayLike, box_format: str) -> tuple[Rows, Tensor]:
    rows = read_boxes(boxes, box_format)
    sizes = read_image_sizes(image_size, rows)
    check_positions(rows, sizes)
    return rows, sizes


def _numbers(
    boxes: ArrayLike, image_size: ArrayLike, box_format: str, distance_ratio: float, overlap_iou: float
) -> tuple[list[Pairs], Rows]:
    """Relation number of every pair, and the boxes."""
    ratio, iou = _rules(distance_ratio, overlap_iou)
    rows, sizes = _read(boxes, image_size, box_format)
    diagonal_squared = sizes.square().sum(1)
    x1, y1, x2, y2 = rows.values.unbind(1)
    area = (y2 - y1) * (x2 - x1)
    # Twice the centres, which may lie between pixels; so four times the squared distance is compared.
    columns = torch.stack((x1, y1, x2, y2, x1 + x2, y1 + y2, area))
    limit = 4 * ratio**2
    far = diagonal_squared * limit.numerator / limit.denominator
    if _are_short(columns, iou):
        # A whole number is less than a limit where it is less than the next whole number.
        columns, far = columns.int(), far.ceil().clamp_max_(_LARGEST).int()
    return evaluate(partial(_relation_numbers, overlap_iou=iou), rows.counts, columns, far), rows


def spatial_structure(
    boxes: ArrayLike,
    image_size: ArrayLike,
    box_format: str = "xyxy",
    distance_ratio: float = 0.5,
    overlap_iou: float = 0.5,
    edges: bool = True,
) -> GraphStructure:
    """The graph of `spatial_graph` as tensors, on the device of the boxes; with `edges=False` its nodes alone.

    >>> structure = spatial_structure([[0, 0, 40, 40], [10, 10, 20, 20]], (100, 80))
    >>> [structure.edge_types[t] for t in structure.etype]
    ['cover', 'inside']
    """
    if not edges:
        return GraphStructure.of_nodes(SPATIAL_EDGE_TYPES, _read(boxes, image_size, box_format)[0].counts)
    pairs, rows = _numbers(boxes, image_size, box_format, distance_ratio, overlap_iou)
    return structure_of_pairs(pairs, rows.counts, SPATIAL_EDGE_TYPES)


def spatial_graph(
    boxes: ArrayLike,
    image_size: ArrayLike,
    box_format: str = "xyxy",
    distance_ratio: float = 0.5,
    overlap_iou: float = 0.5,
) -> dgl.DGLGraph:
    """Graph of the boxes of an image with eleven edge types, named and numbered as in `SpatialRelation`.

    The type of ``i -> j`` is the first that holds: 1 (``inside``) r_i contains r_j; 2 (``cover``) r_i is inside r_j;
    3 (``overlap``) IoU > `overlap_iou`; ``ceil(theta / 45) + 3`` (``angle_1`` to ``angle_8``) where
    ``phi = |c_j - c_i| / image diagonal < distance_ratio``; otherwise there is no edge. theta is the angle of the
    vector between the centres in pixels, x right and y down, in (0, 360]; without a direction it is 360.

    Args:
        boxes: (T, 4) in pixels; or a list of those, or (B, T, 4). They may extend beyond the image. Boxes
            given as fractions of the image must be multiplied by its width and height first: angles and distances are
            in pixels.
        image_size: (width, height) in pixels, one for all items or one per item.
        box_format: ``xyxy`` (corners), ``xywh`` (first corner, size) or ``cxcywh`` (centre, size).
        distance_ratio: at least 0; phi equal to it gives no edge.
        overlap_iou: 0 to 1; boxes whose IoU equals it do not overlap. Every rule is exact for integer coordinates;
            with others, a direction on the border of two sectors may get either of their types.

    Returns:
        Graph with node type ``proposal``, no self-edges; batched for a list, `dgl.unbatch` gives the items.

    Raises:
        ValueError: a box that is not finite, has no area or lies wholly outside of its image (named by its row),
            another shape, an empty list.

    Warns:
        UserWarning: all coordinates lie within 1, and the image is larger, or of size (1, 1).

    >>> graph = spatial_graph([[0, 0, 40, 40], [10, 10, 20, 20], [60, 10, 80, 20]], (100, 80))
    >>> {name: graph.num_edges(name) for name in graph.etypes if graph.num_edges(name)}
    {'angle_4': 2, 'angle_8': 2, 'cover': 1, 'inside': 1}
    """
    pairs, rows = _numbers(boxes, image_size, box_format, distance_ratio, overlap_iou)
    return graph_of_pairs(pairs, rows.counts, SPATIAL_EDGE_TYPES)


def spatial_relations(
    boxes: ArrayLike,
    image_size: ArrayLike,
    box_format: str = "xyxy",
    distance_ratio: float = 0.5,
    overlap_iou: float = 0.5,
) -> Int64[Tensor, "*items i j"]:
    """Matrix of the relations i -> j of `spatial_graph`, 0 for none.

    Args:
        boxes: as in `spatial_graph`.
        image_size: the same.
        box_format: the same.
        distance_ratio: the same.
        overlap_iou: the same.

    Returns:
        (T, T) int64; (B, T, T) for a batch or a list, where T is the longest item's and the rest is 0.

    Raises:
        ValueError: as in `spatial_graph`.

    >>> spatial_relations([[0, 0, 40, 40], [10, 10, 20, 20]], (100, 80)).tolist()
    [[0, 1], [2, 0]]
    """
    pairs, rows = _numbers(boxes, image_size, box_format, distance_ratio, overlap_iou)
    matrix = matrix_of_pairs(pairs, rows.counts)
    return matrix[0] if rows.single else matrix
