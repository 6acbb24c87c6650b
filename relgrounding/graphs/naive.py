"""The definitions of the graphs, pair by pair: slow, independent of the fast code, and exact.

A float counts as it is written in decimals: 0.3 is 3/10.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

Number = int | float | Fraction


def exact(value: Number) -> int | Fraction:
    """The number as it is written in decimals."""
    return Fraction(repr(float(value))) if isinstance(value, float) else value


def temporal_iou(a: Sequence[Number], b: Sequence[Number]) -> Fraction:
    """IoU of two segments (start, end)."""
    (start_a, end_a), (start_b, end_b) = map(exact, a), map(exact, b)
    shared = max(min(end_a, end_b) - max(start_a, start_b), 0)
    return Fraction(shared) / (end_a - start_a + end_b - start_b - shared)


def temporal_edges(
    segments: Sequence[Sequence[Number]], threshold: float = 0.3, self_loops: bool = True
) -> list[tuple[int, int]]:
    """Source and destination of the edges of `graphs.temporal_graph`."""
    limit = exact(threshold)
    return [
        (i, j)
        for i, a in enumerate(segments)
        for j, b in enumerate(segments)
        if (self_loops if i == j else temporal_iou(a, b) > limit)
    ]


def box_iou(a: Sequence[Number], b: Sequence[Number]) -> Fraction:
    """IoU of two boxes (x1, y1, x2, y2)."""
    shared, union = _areas([exact(value) for value in a], [exact(value) for value in b])
    return Fraction(shared) / union


def _areas(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, Any]:
    """Shared area and area of the union."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a, b
    shared = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    return shared, (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared


def angle_bin(dx: Any, dy: Any) -> int:
    """ceil(theta / 45) for theta in (0, 360]: the eight rays and the eight open sectors between them, one by one."""
    if dy == 0:
        return 4 if dx < 0 else 8
    if dx == 0:
        return 2 if dy > 0 else 6
    if abs(dx) == abs(dy):
        return {(True, True): 1, (False, True): 3, (False, False): 5, (True, False): 7}[dx > 0, dy > 0]
    flat = abs(dx) > abs(dy)
    if dy > 0:
        if dx > 0:
            return 1 if flat else 2
        return 4 if flat else 3
    if dx < 0:
        return 5 if flat else 6
    return 8 if flat else 7


def relation(
    a: Sequence[Any],
    b: Sequence[Any],
    diagonal_squared: Number,
    distance_ratio: Number = 0.5,
    overlap_iou: Number = 0.5,
) -> int:
    """Number of the edge a -> b between two boxes (x1, y1, x2, y2), 0 for none.

    As exact as the arithmetic of its arguments: integers with the thresholds 0.5, or rational numbers, are exact.
    """
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    if ax1 <= bx1 and ay1 <= by1 and ax2 >= bx2 and ay2 >= by2:
        return 1
    if bx1 <= ax1 and by1 <= ay1 and bx2 >= ax2 and by2 >= ay2:
        return 2
    shared, union = _areas(a, b)
    if shared > overlap_iou * union:
        return 3
    # Twice the distance between the centres, which may lie between pixels.
    dx, dy = bx1 + bx2 - ax1 - ax2, by1 + by2 - ay1 - ay2
    if dx * dx + dy * dy < 4 * distance_ratio**2 * diagonal_squared:
        return angle_bin(dx, dy) + 3
    return 0


def relations(
    boxes: Sequence[Sequence[Number]],
    image_size: Sequence[Number],
    distance_ratio: float = 0.5,
    overlap_iou: float = 0.5,
) -> list[list[int]]:
    """The matrix of `graphs.spatial_relations`."""
    rows = [[exact(value) for value in box] for box in boxes]
    width, height = map(exact, image_size)
    rules = (width**2 + height**2, exact(distance_ratio), exact(overlap_iou))
    return [[0 if i == j else relation(a, b, *rules) for j, b in enumerate(rows)] for i, a in enumerate(rows)]


def temporal_relation(a: Sequence[Number], b: Sequence[Number]) -> int:
    """Number of Allen's relation of segment a to segment b: the one definition of the thirteen that holds."""
    (start_a, end_a), (start_b, end_b) = map(exact, a), map(exact, b)
    holds = (
        end_a < start_b,
        end_b < start_a,
        end_a == start_b,
        end_b == start_a,
        start_a < start_b < end_a < end_b,
        start_b < start_a < end_b < end_a,
        start_a == start_b and end_a < end_b,
        start_a == start_b and end_b < end_a,
        start_b < start_a and end_a < end_b,
        start_a < start_b and end_b < end_a,
        end_a == end_b and start_b < start_a,
        end_a == end_b and start_a < start_b,
        start_a == start_b and end_a == end_b,
    )
    (number,) = (number for number, held in enumerate(holds, start=1) if held)
    return number


def temporal_relations(segments: Sequence[Sequence[Number]]) -> list[list[int]]:
    """The matrix of `graphs.temporal_relations`."""
    return [[0 if i == j else temporal_relation(a, b) for j, b in enumerate(segments)] for i, a in enumerate(segments)]


def nearest(
    rows: Sequence[Sequence[Number]],
    k: int,
    categories: Sequence[int] | None = None,
    among: str = "any",
) -> list[list[int]]:
    """Sources of each row's in-edges, ascending, in `graphs.nearest_graph` and in temporal graphs with `nearest`.

    Args:
        rows: boxes (x1, y1, x2, y2) or segments (start, end).
        k: how many.
        categories: one per row, where `among` is not ``any``.
        among: as in `graphs.nearest_graph`.
    """
    dims = len(rows[0]) // 2 if rows else 0
    twice_centres = [[exact(row[d]) + exact(row[d + dims]) for d in range(dims)] for row in rows]
    result = []
    for i, own in enumerate(twice_centres):
        candidates = []
        for j, other in enumerate(twice_centres):
            same = categories is not None and categories[i] == categories[j]
            if i != j and not (among == "same" and not same) and not (among == "different" and same):
                late = among == "different_first" and same
                candidates.append((late, sum((a - b) ** 2 for a, b in zip(own, other, strict=True)), j))
        result.append(sorted(j for _, _, j in sorted(candidates)[:k]))
    return result


def offset(destination: Sequence[Number], source: Sequence[Number]) -> list[Fraction]:
    """Box `source` seen from box `destination`, see `graphs.nearest_graph`."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = map(exact, destination), map(exact, source)
    cx, cy, width, height = Fraction(ax1 + ax2) / 2, Fraction(ay1 + ay2) / 2, ax2 - ax1, ay2 - ay1
    corners = [(bx1 - cx) / width, (by1 - cy) / height, (bx2 - cx) / width, (by2 - cy) / height]
    return [*corners, Fraction((bx2 - bx1) * (by2 - by1)) / (width * height)]
