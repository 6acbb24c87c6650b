"""What is in a generated scene and how it is described: attributes, descriptions, objects that fit a query."""

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
# What a relation leads to is named by one word: weak training has to find it without ever being asked for it.
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
