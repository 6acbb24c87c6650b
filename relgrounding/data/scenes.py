"""Generated scenes with referring expressions: the data set that needs no download.

A scene holds four to six objects (size x colour x shape). Two thirds of the queries name a target by its attributes
("the small red circle"; some add a relation that is true but not needed); a third can be answered through a relation
only ("the red circle left of the blue one": two objects fit "the red circle"). Scenes come in minimal pairs whose
queries are each false in the other scene, so that an image-sentence loss can learn attributes and relations alike.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from relgrounding.data._query import Query
from relgrounding.data._scene_layout import HEADS, IMAGE_SIZE, OPPOSITE, RELATIONS, holds, scatter, scatter_relation
from relgrounding.data._scene_objects import (
    ANCHOR_NAMED,
    COLOURS,
    SceneObject,
    attribute_pair,
    describe,
    in_words,
    relation_set,
)
from relgrounding.data.features import Regions

__all__ = ["Scene", "SceneObject", "SceneStore", "make_scenes"]

_SPLITS = ("train", "val", "test")
_MIN_OBJECTS, _MAX_OBJECTS = 4, 6
# All splits and seeds share one projection from attributes to features, as they would share one feature extractor.
_PROJECTION_SEED = 20200601


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What a scene shows, for drawing it.

    Args:
        objects: the attributes of each object.
        boxes: (n, 4) float32, x1 y1 x2 y2 in pixels.
        size: width and height of the image in pixels.
    """

    objects: tuple[SceneObject, ...]
    boxes: np.ndarray
    size: tuple[int, int]


class SceneStore(Mapping[str, Regions]):
    """Region features of generated scenes, read like `RegionFeatures`: `store[id]` gives a `Regions`.

    Args:
        scenes: the scenes by id.
        features: (objects, dim) float32 by id.
    """

    def __init__(self, scenes: Mapping[str, Scene], features: Mapping[str, np.ndarray]):
        self._scenes = dict(scenes)
        self._features = dict(features)

    def __getitem__(self, item: str) -> Regions:
        scene = self.scene(item)
        return Regions(features=self._features[item], boxes=scene.boxes, size=scene.size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._scenes)

    def __len__(self) -> int:
        return len(self._scenes)

    @property
    def ids(self) -> list[str]:
        """The scenes' ids, in the order in which they were made."""
        return list(self._scenes)

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return next(iter(self._features.values())).shape[1]

    def scene(self, item: str) -> Scene:
        """Return the objects of a scene, in the order of its regions; an unknown id raises `KeyError`."""
        if item not in self._scenes:
            raise KeyError(f"no scene with id {item!r}; the {len(self)} ids of this store are in its property `ids`")
        return self._scenes[item]


def make_scenes(
    split: str, n_pairs: int, seed: int = 0, noise: float = 0.5, dim: int = 64
) -> tuple[list[Query], SceneStore]:
    """Generate `2 * n_pairs` scenes, one query each.

    Pair i is relational where i % 3 == 2: exactly a third of the queries where n_pairs is a multiple of 3. A region's
    feature is P a + noise * e with a the one-hot attributes, P a fixed random matrix scaled so that P a has unit mean
    square on average, and e standard normal. Places are in the boxes only. Pair i depends on (split, seed, i) alone.

    Args:
        split: "train", "val" or "test"; the same seed gives different scenes for each.
        n_pairs: number of minimal pairs, >= 1.
        seed: non-negative integer.
        noise: standard deviation of the noise on every feature value, >= 0.
        dim: length of a feature vector, >= 1.

    Returns:
        The queries (`kind` "attribute" or "relation", `group` the id of the pair, `targets` one box) and the store.

    Raises:
        ValueError: unknown split, or a number out of its range.

    >>> queries, store = make_scenes("val", 3)
    >>> [query.kind for query in queries]
    ['attribute', 'attribute', 'attribute', 'attribute', 'relation', 'relation']
    >>> store[queries[0].item].features.shape[1]
    64
    """
    _check_arguments(split, n_pairs, seed, noise, dim)
    queries: list[Query] = []
    scenes: dict[str, Scene] = {}
    features: dict[str, np.ndarray] = {}
    projection = _projection(dim)
    for i in range(n_pairs):
        rng = np.random.default_rng([seed, _SPLITS.index(split), i])
        kind = "relation" if i % 3 == 2 else "attribute"
        group = f"{split}-{seed}-{i:05d}"
        if kind == "relation":
            drawn = _relation_scenes(rng)
        else:
            drawn = _attribute_scenes(rng) if rng.random() < 0.5 else _anchor_scenes(rng)
        for letter, (scene, target, text) in zip("ab", drawn, strict=True):
            item = f"{group}-{letter}"
            scenes[item] = scene
            attributes = np.stack([thing.one_hot() for thing in scene.objects])
            error = rng.standard_normal((len(attributes), dim), dtype=np.float32)
            features[item] = attributes @ projection + np.float32(noise) * error
            box = tuple(float(value) for value in scene.boxes[target])
            queries.append(Query(id=item, item=item, text=text, targets=(box,), kind=kind, group=group))
    return queries, SceneStore(scenes, features)


def _attribute_scenes(rng: np.random.Generator) -> list[tuple[Scene, int, str]]:
    """Two scenes that differ in one attribute of the target (and in the places), with targets and sentences."""
    object_sets, descriptions = attribute_pair(rng, _draw_count(rng))
    # Such a relation is not needed to answer. But as the object it leads to is in both scenes and the target in one
    # only, it shows which of two objects a sentence is about: nothing else in pairs of image and sentence does.
    mentions = rng.random() < 0.5
    drawn = []
    for objects, description in zip(object_sets, descriptions, strict=True):
        boxes = scatter(rng, [thing.size for thing in objects])
        text = in_words(description)
        relations = _relations_to_others(objects, boxes) if mentions else []
        if relations:
            relation, anchor = relations[rng.integers(len(relations))]
            text += f" {relation} {in_words(describe(objects[anchor], ANCHOR_NAMED))}"
        scene, target = _shuffle(rng, objects, boxes, target=0)
        drawn.append((scene, target, text))
    return drawn


def _anchor_scenes(rng: np.random.Generator) -> list[tuple[Scene, int, str]]:
    """Two scenes that differ in the colour of the object that the target is in a relation to.

    The target can be told by its attributes; what tells the scenes apart is whether the other object is there.
    """
    while True:
        (objects, _), (description, _) = attribute_pair(rng, _draw_count(rng))
        boxes = scatter(rng, [thing.size for thing in objects])
        relations = _relations_to_others(objects, boxes)
        unused = sorted(set(COLOURS) - {thing.colour for thing in objects})
        if not relations or not unused:
            continue
        relation, anchor = relations[rng.integers(len(relations))]
        changed = list(objects)
        changed[anchor] = replace(objects[anchor], colour=unused[rng.integers(len(unused))])
        if not changed[anchor].matches(description):
            break
    drawn = []
    for shown in (objects, changed):
        scene, target = _shuffle(rng, shown, boxes, target=0)
        text = f"{in_words(description)} {relation} {in_words(describe(shown[anchor], ANCHOR_NAMED))}"
        drawn.append((scene, target, text))
    return drawn


def _relations_to_others(objects: list[SceneObject], boxes: np.ndarray) -> list[tuple[str, int]]:
    """Return the relations of object 0 to others whose colour is theirs alone, each with the other's number."""
    colours = [thing.colour for thing in objects]
    others = [k for k in range(1, len(objects)) if colours.count(colours[k]) == 1]
    return [(relation, k) for k in others for relation in RELATIONS if holds(relation, boxes[0], boxes[k])]


def _relation_scenes(rng: np.random.Generator) -> list[tuple[Scene, int, str]]:
    """Two scenes of the same objects at other places; the sentences differ in the relation, each false in the other."""
    objects, head, anchor = relation_set(rng, _draw_count(rng), HEADS)
    first = list(RELATIONS)[rng.integers(len(RELATIONS))]
    drawn = []
    for relation in (first, OPPOSITE[first]):
        boxes, target = scatter_relation(rng, [thing.size for thing in objects], relation)
        scene, target = _shuffle(rng, objects, boxes, target)
        drawn.append((scene, target, f"{in_words(head)} {relation} {in_words(anchor)}"))
    return drawn


def _shuffle(rng: np.random.Generator, objects: list[SceneObject], boxes: np.ndarray, target: int) -> tuple[Scene, int]:
    order = rng.permutation(len(objects))
    scene = Scene(objects=tuple(objects[k] for k in order), boxes=boxes[order], size=IMAGE_SIZE)
    return scene, int(np.flatnonzero(order == target)[0])


def _draw_count(rng: np.random.Generator) -> int:
    return int(rng.integers(_MIN_OBJECTS, _MAX_OBJECTS, endpoint=True))


def _projection(dim: int) -> np.ndarray:
    """(attribute values, dim): three of its rows, one an attribute, add up to a vector of unit mean square."""
    rng = np.random.default_rng(_PROJECTION_SEED)
    rows = SceneObject("small", "red", "circle").one_hot().size
    return (rng.standard_normal((rows, dim)) / np.sqrt(3)).astype(np.float32)


def _check_arguments(split: str, n_pairs: int, seed: int, noise: float, dim: int) -> None:
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r} of the generated scenes; use one of {', '.join(_SPLITS)}")
    for name, value, least in (("n_pairs", n_pairs, 1), ("seed", seed, 0), ("noise", noise, 0), ("dim", dim, 1)):
        if not value >= least:
            raise ValueError(f"make_scenes: {name} is {value}; give a number of at least {least}")
