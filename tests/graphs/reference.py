"""The definitions of the graphs, word for word and pair by pair, in exact rational arithmetic: slow, independent."""

from fractions import Fraction


def fraction(value) -> Fraction:
    """The number as it is written in decimals (0.3 is 3/10)."""
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def temporal_iou(a, b) -> Fraction:
    (start_a, end_a), (start_b, end_b) = map(fraction, a), map(fraction, b)
    shared = max(min(end_a, end_b) - max(start_a, start_b), 0)
    return shared / (end_a - start_a + end_b - start_b - shared)


def temporal_edges(segments, threshold=0.3, self_loops=True) -> list[tuple[int, int]]:
    edges = []
    for i in range(len(segments)):
        for j in range(len(segments)):
            if i == j:
                if self_loops:
                    edges.append((i, j))
            elif temporal_iou(segments[i], segments[j]) > fraction(threshold):
                edges.append((i, j))
    return edges


def box_iou(a, b) -> Fraction:
    ax1, ay1, ax2, ay2 = map(fraction, a)
    bx1, by1, bx2, by2 = map(fraction, b)
    shared = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    return shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared)


def contains(a, b) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a[2] >= b[2] and a[3] >= b[3]


def angle_bin(dx: Fraction, dy: Fraction) -> int:
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


def relation(a, b, image_size, distance_ratio=0.5, overlap_iou=0.5) -> int:
    """Number of the edge a -> b."""
    if contains(a, b):
        return 1
    if contains(b, a):
        return 2
    if box_iou(a, b) > fraction(overlap_iou):
        return 3
    dx = (fraction(b[0]) + fraction(b[2])) / 2 - (fraction(a[0]) + fraction(a[2])) / 2
    dy = (fraction(b[1]) + fraction(b[3])) / 2 - (fraction(a[1]) + fraction(a[3])) / 2
    width, height = map(fraction, image_size)
    if dx**2 + dy**2 < fraction(distance_ratio) ** 2 * (width**2 + height**2):
        return angle_bin(dx, dy) + 3
    return 0


def relations(boxes, image_size, distance_ratio=0.5, overlap_iou=0.5) -> list[list[int]]:
    return [
        [0 if i == j else relation(a, b, image_size, distance_ratio, overlap_iou) for j, b in enumerate(boxes)]
        for i, a in enumerate(boxes)
    ]
