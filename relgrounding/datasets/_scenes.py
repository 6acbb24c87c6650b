"""Generated scenes: what is in them and how it is described, and where it lies.

Objects have attributes; descriptions name some of them. Boxes do not touch, and lie so that a spatial relation is true.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")

_VALUES = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}
_ATTRIBUTES = tuple(_VALUES)
# Which attributes a description names. One attribute alone would leave few objects to tell the target from.
_NAMED = (("size", "colour", "shape"), ("colour", "shape"), ("size", "shape"), ("size", "colour"), ("colour",))
_HEAD_NAMED = (("size", "colour", "shape"), ("colour", "shape"), ("size", "shape"), ("size", "colour"))
# What a relation leads to is named by one word: weak training has to find it without ever being trained on it.
ANCHOR_NAMED = ("colour",)

Description = dict[str, str]


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object of a scene: its `size` ("small", "large"), `colour` and `shape`, as a caption would name them."""

    size: str
    colour: str
    shape: str

    def matches(self, description: Description) -> bool:
        """Whether every attribute that `description` names has the value it gives."""
        return all(getattr(self, name) == value for name, value in description.items())

    def one_hot(self) -> np.ndarray:
        """Return the attributes as one vector of zeros and ones, (2 + 6 + 4,) float32."""
        return np.array([getattr(self, n) == v for n in _ATTRIBUTES for v in _VALUES[n]], dtype=np.float32)


def in_words(description: Description) -> str:
    """Return the noun phrase: `{"size": "small", "colour": "red"}` is "the small red one"."""
    words = [description[name] for name in ("size", "colour") if name in description]
    return " ".join(["the", *words, description.get("shape", "one")])


def attribute_pair(rng: np.random.Generator, count: int) -> tuple[list[list[SceneObject]], list[Description]]:
    """Draw two sets of `count` objects that differ in one attribute of object 0, and the descriptions of that object.

    Each description fits object 0 of its own set and nothing in the other.
    """
    target = _draw(rng)
    named = _NAMED[rng.integers(len(_NAMED))]
    changed_name = named[rng.integers(len(named))]
    changed = _change(rng, target, changed_name)
    descriptions = [describe(target, named), describe(changed, named)]
    others = _draw_others(rng, count - 1, [target, changed], descriptions)
    return [[target, *others], [changed, *others]], descriptions


def relation_set(rng: np.random.Generator, heads: int) -> tuple[list[SceneObject], Description, Description]:
    """Draw `heads` objects that fit the first description alike, then one that alone fits the second."""
    head = _draw(rng)
    head_description = describe(head, _HEAD_NAMED[rng.integers(len(_HEAD_NAMED))])
    alike = [_draw(rng, head_description) for _ in range(heads)]
    while True:
        anchor = _draw(rng)
        anchor_description = describe(anchor, ANCHOR_NAMED)
        if not anchor.matches(head_description) and not any(h.matches(anchor_description) for h in alike):
            return [*alike, anchor], head_description, anchor_description


def _draw(rng: np.random.Generator, fixed: Description | None = None) -> SceneObject:
    values = {name: options[rng.integers(len(options))] for name, options in _VALUES.items()}
    return SceneObject(**{**values, **(fixed or {})})


def _change(rng: np.random.Generator, thing: SceneObject, name: str) -> SceneObject:
    values = {n: getattr(thing, n) for n in _ATTRIBUTES}
    options = [value for value in _VALUES[name] if value != values[name]]
    values[name] = options[rng.integers(len(options))]
    return SceneObject(**values)


def describe(thing: SceneObject, named: tuple[str, ...]) -> Description:
    return {name: getattr(thing, name) for name in named}


def _draw_others(
    rng: np.random.Generator, count: int, near: list[SceneObject], forbidden: list[Description]
) -> list[SceneObject]:
    """Draw `count` objects that fit no forbidden description; half are one attribute away from an object in `near`."""
    others: list[SceneObject] = []
    while len(others) < count:
        if rng.random() < 0.5:
            thing = _change(rng, near[rng.integers(len(near))], _ATTRIBUTES[rng.integers(3)])
        else:
            thing = _draw(rng)
        if not any(thing.matches(description) for description in forbidden):
            others.append(thing)
    return others


IMAGE_SIZE = (640, 480)
RELATIONS = {"left of": 180.0, "right of": 0.0, "above": 270.0, "below": 90.0}
"""The direction, seen from the anchor, in which the target lies: degrees, x to the right, y down."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
HEADS = 2
"""How many objects fit the head of a relational query.

Exactly two, because the distractor must lie at a right angle to the relation: were it ever on the opposite side, "the
leftmost" would answer "left of" without any anchor, and a third head cannot lie anywhere that avoids that.
"""

_SIDES = {"small": (24, 36), "large": (48, 64)}
_GAP = 4
# "left of" holds within 45 degrees of the left (two angle edge types); both margins keep clear of that border.
_HOLDS, _CLEARLY_NOT = 40.0, 50.0
# Centre distances between a target and its anchor: below half of the diagonal, so that there is an angle edge, and
# small beside the image: else the position of the anchor alone would tell the relation, being right of what is left
# of it.
_MIN_DISTANCE, _MAX_DISTANCE = 40.0, 200.0
_REACH = 160
_HEAD_TRIES, _ANCHOR_TRIES, _PLACE_TRIES = 32, 12, 32


def scatter(rng: np.random.Generator, sizes: Sequence[str]) -> np.ndarray:
    """Place one box for every size anywhere in the image, none touching another; (n, 4) float32, whole pixels."""
    placed = np.zeros((0, 4))
    while len(placed) < len(sizes):
        candidates = _draw_boxes(rng, sizes[len(placed)], _PLACE_TRIES)
        free = np.flatnonzero(~_touching(candidates, placed).any(axis=1))
        placed = np.vstack([placed, candidates[free[:1]]])
    return placed.astype(np.float32)


def scatter_relation(rng: np.random.Generator, sizes: Sequence[str], relation: str) -> tuple[np.ndarray, int]:
    """Place boxes so that exactly one of the first two, the heads, stands in `relation` to the third, the anchor.

    Neither stands in the opposite relation to it. The heads are placed first and kept only where each of them could be
    the target for some position of the anchor; then the target is drawn uniformly. So where the heads lie,
    whatever the relation, say nothing about which of them is meant; nor does their distance to the anchor.

    Returns:
        The boxes, (3, 4) float32 in whole pixels, and the position of the target among the heads.
    """
    while True:
        # Few positions serve both heads in turn, so many are tried at once.
        first = _draw_boxes(rng, sizes[0], _HEAD_TRIES)
        heads = np.stack([first, _draw_near(rng, sizes[1], _centres(first))], axis=1)
        anchors = _draw_anchors(rng, sizes[HEADS], _centres(heads), RELATIONS[relation], _ANCHOR_TRIES)
        anchors = anchors.reshape(_HEAD_TRIES, -1, 4)
        unusable = _touching(anchors, heads).any(axis=2) | _outside(anchors)
        answer = np.where(unusable, -1, _answers(anchors, heads, relation))
        usable = np.stack([(answer == k).any(axis=1) for k in range(HEADS)]).all(axis=0)
        usable &= ~_touching(heads[:, :1], heads[:, 1:])[:, 0, 0]
        if usable.any():
            trial, target = int(usable.argmax()), int(rng.integers(HEADS))
            anchor = anchors[trial, rng.choice(np.flatnonzero(answer[trial] == target))]
            return np.vstack([heads[trial], anchor]).astype(np.float32), target


def scatter_pair(rng: np.random.Generator, sizes: Sequence[str], relation: str) -> np.ndarray:
    """Place a head and an anchor so that the head stands in `relation` to it; (2, 4) float32, whole pixels."""
    while True:
        heads = _draw_boxes(rng, sizes[0], _HEAD_TRIES)
        anchors = _draw_anchors(rng, sizes[1], _centres(heads), RELATIONS[relation], 1)
        usable = ~_outside(anchors[:, 0]) & ~_touching(heads[:, None], anchors)[:, 0, 0]
        if usable.any():
            trial = usable.argmax()
            return np.vstack([heads[trial], anchors[trial]]).astype(np.float32)


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


def _draw_near(rng: np.random.Generator, size: str, centres: np.ndarray) -> np.ndarray:
    """Draw a box in the image near each of (n, 2) centres; (n, 4), whole pixels."""
    low, high = _SIDES[size]
    sides = rng.integers(low, high, size=centres.shape, endpoint=True)
    limit = np.array(IMAGE_SIZE) - sides
    least = np.clip(centres - sides / 2 - _REACH, 0, limit).astype(int)
    most = np.clip(centres - sides / 2 + _REACH, 0, limit).astype(int)
    corners = rng.integers(least, most, endpoint=True)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float64)


def _draw_anchors(rng: np.random.Generator, size: str, heads: np.ndarray, direction: float, count: int) -> np.ndarray:
    """Draw boxes from which (..., 2) centres lie in the direction; (..., count, 4), whole pixels, maybe outside."""
    low, high = _SIDES[size]
    shape = (*heads.shape[:-1], count)
    angle = np.radians(direction + rng.uniform(-_HOLDS, _HOLDS, shape))
    distance = rng.uniform(_MIN_DISTANCE, _MAX_DISTANCE, shape)
    sides = rng.integers(low, high, size=(*shape, 2), endpoint=True)
    offset = distance[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    corners = np.rint(heads[..., None, :] - offset - sides / 2)
    return np.concatenate([corners, corners + sides], axis=-1)


def _outside(boxes: np.ndarray) -> np.ndarray:
    beyond = np.logical_or(boxes[..., :2] < 0, boxes[..., 2:] > np.array(IMAGE_SIZE))
    return np.logical_or(beyond[..., 0], beyond[..., 1])


def _touching(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether box n of a (..., n, 4) comes nearer than the gap to box m of b (..., m, 4), as (..., n, m) bool."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    apart = (a[..., :2] >= b[..., 2:] + _GAP) | (b[..., :2] >= a[..., 2:] + _GAP)
    return np.logical_not(apart.any(axis=-1))
