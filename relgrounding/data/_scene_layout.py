"""Where the objects of a generated scene lie: boxes that do not touch, and places that make a spatial relation true."""

from collections.abc import Sequence

import numpy as np

IMAGE_SIZE = (400, 300)
RELATIONS = {"left of": 180.0, "right of": 0.0, "above": 270.0, "below": 90.0}
"""The direction, seen from the anchor, in which the target lies: degrees, x to the right, y down."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
HEADS = 2
"""How many objects fit the head of a relational query.

Exactly two, because the distractor must lie at a right angle to the relation: were it ever on the opposite side, "the
leftmost" would answer "left of" without any anchor, and a third head has no place that avoids that.
"""

_SIDES = {"small": (24, 36), "large": (48, 64)}
_GAP = 4
# "left of" holds within 45 degrees of the left (two angle edge types); both margins keep clear of that border.
_HOLDS, _CLEARLY_NOT = 40.0, 50.0
# An angle edge needs a centre distance below half of the diagonal (250 pixels).
_MAX_DISTANCE = 0.48 * float(np.hypot(*IMAGE_SIZE))
_HEAD_TRIES, _ANCHOR_TRIES, _PLACE_TRIES = 48, 48, 32


def scatter(rng: np.random.Generator, sizes: Sequence[str]) -> np.ndarray:
    """Place one box for every size anywhere in the image, none touching another; (n, 4) float32, whole pixels."""
    while True:
        boxes = _place_others(rng, np.zeros((0, 4)), sizes)
        if boxes is not None:
            return boxes.astype(np.float32)


def scatter_relation(rng: np.random.Generator, sizes: Sequence[str], relation: str) -> tuple[np.ndarray, int]:
    """Place boxes so that exactly one of the first two, the heads, stands in `relation` to the third, the anchor.

    Neither stands in the opposite relation to it. The heads are placed first and kept only where each of them could be
    the target for some place of the anchor; then the target is drawn uniformly. So the places of the heads alone,
    whatever the relation, say nothing about which of them is meant; nor does their distance to the anchor.

    Returns:
        The boxes, (n, 4) float32 in whole pixels, and the position of the target among the heads.
    """
    while True:
        # Few places serve both heads in turn, so many are tried at once.
        heads = np.stack([_draw_boxes(rng, size, _HEAD_TRIES) for size in sizes[:HEADS]], axis=1)
        anchors = _draw_boxes(rng, sizes[HEADS], _HEAD_TRIES * _ANCHOR_TRIES).reshape(_HEAD_TRIES, _ANCHOR_TRIES, 4)
        answer = np.where(_touching(anchors, heads).any(axis=2), -1, _answers(anchors, heads, relation))
        usable = np.stack([(answer == k).any(axis=1) for k in range(HEADS)]).all(axis=0)
        usable &= ~_touching(heads[:, :1], heads[:, 1:])[:, 0, 0]
        if not usable.any():
            continue
        trial, target = int(usable.argmax()), int(rng.integers(HEADS))
        anchor = anchors[trial, rng.choice(np.flatnonzero(answer[trial] == target))]
        boxes = _place_others(rng, np.vstack([heads[trial], anchor]), sizes[HEADS + 1 :])
        if boxes is not None:
            return boxes.astype(np.float32), target


def holds(relation: str, box: np.ndarray, anchor: np.ndarray) -> bool:
    """Whether a box (4,) clearly stands in `relation` to the anchor (4,), near enough for an edge."""
    offset = _centres(box[None]) - _centres(anchor[None])
    return bool(_deviation(offset, RELATIONS[relation])[0] <= _HOLDS and np.hypot(*offset[0]) <= _MAX_DISTANCE)


def _answers(anchors: np.ndarray, heads: np.ndarray, relation: str) -> np.ndarray:
    """For each of (..., n) anchors, which of (..., 2) heads alone stands clearly in the relation; -1 for neither."""
    offset = _centres(heads)[..., None, :, :] - _centres(anchors)[..., :, None, :]
    deviation = _deviation(offset, RELATIONS[relation])
    true = deviation <= _HOLDS
    clear = (true | (deviation >= _CLEARLY_NOT)) & (_deviation(offset, RELATIONS[OPPOSITE[relation]]) >= _CLEARLY_NOT)
    distance = np.hypot(offset[..., 0], offset[..., 1])
    angle = np.radians(RELATIONS[relation])
    extreme = (offset @ np.array([np.cos(angle), np.sin(angle)])).argmax(axis=-1)
    answer = true.argmax(axis=-1)
    # A target that is not the leftmost of "left of" is always the one nearer to the anchor. Where it is the leftmost,
    # it must be the farther one, or "the one close to the anchor" would be the answer to everything.
    fair = (extreme == answer) != (distance.argmin(axis=-1) == answer)
    valid = (true.sum(axis=-1) == 1) & (clear & (distance <= _MAX_DISTANCE)).all(axis=-1) & fair
    return np.where(valid, answer, -1)


def _deviation(offset: np.ndarray, direction: float) -> np.ndarray:
    """Degrees between each offset (..., 2) and the direction, in [0, 180]."""
    angle = np.degrees(np.arctan2(offset[..., 1], offset[..., 0]))
    return np.abs((angle - direction + 180.0) % 360.0 - 180.0)


def _centres(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _draw_boxes(rng: np.random.Generator, size: str, count: int) -> np.ndarray:
    low, high = _SIDES[size]
    sides = rng.integers(low, high, size=(count, 2), endpoint=True)
    corners = rng.integers(0, np.array(IMAGE_SIZE) - sides, endpoint=True)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float64)


def _touching(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether box n of a (..., n, 4) comes nearer than the gap to box m of b (..., m, 4), as (..., n, m) bool."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    apart = (a[..., :2] >= b[..., 2:] + _GAP) | (b[..., :2] >= a[..., 2:] + _GAP)
    return np.logical_not(apart.any(axis=-1))


def _place_others(rng: np.random.Generator, placed: np.ndarray, sizes: Sequence[str]) -> np.ndarray | None:
    """Add one box for every size, each at the first free place of a few random ones; None where there was none."""
    for size in sizes:
        candidates = _draw_boxes(rng, size, _PLACE_TRIES)
        free = np.flatnonzero(~_touching(candidates, placed).any(axis=1))
        if free.size == 0:
            return None
        placed = np.vstack([placed, candidates[free[0]]])
    return placed
