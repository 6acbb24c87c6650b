"""Generated scenes with referring expressions: the data set that needs no download.

A scene holds objects (size x colour x shape). A third of the queries name one of four to six by its attributes ("the
small red circle"). A third can be answered through a relation only ("the red circle left of the blue one": two of three
objects are red circles). The last third add a relation to a description that one object alone fits. Scenes come in
minimal pairs whose queries are each false in the other scene; in two thirds of the pairs both scenes show the same
objects, elsewhere, so that an image-sentence loss can learn relations as well as attributes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from relgrounding._settings import ConfigError, number
from relgrounding.datasets._dataset import Annotations, DataConfig, Dataset, Query, register_dataset
from relgrounding.datasets._scenes import (
    HEADS,
    IMAGE_SIZE,
    OPPOSITE,
    RELATIONS,
    SceneObject,
    attribute_pair,
    in_words,
    relation_set,
    scatter,
    scatter_pair,
    scatter_relation,
)
from relgrounding.features import Regions
from relgrounding.io import Problems

__all__ = ["Demo", "Scene", "SceneObject", "SceneStore", "make_scenes"]

_SPLITS = ("train", "val", "test")
_MIN_OBJECTS, _MAX_OBJECTS = 4, 6
# All splits and seeds share one projection from attributes to features, as they would share one feature extractor.
_PROJECTION_SEED = 20200601


@dataclass
class DemoConfig(DataConfig):
    """Settings of the generated scenes."""

    demo_pairs: int = number(6000, least=1, most=10_000_000)
    """Minimal pairs of generated scenes to train on (a tenth of them to test on)."""
    demo_noise: float = number(0.3, least=0)
    """Standard deviation of the noise on the features of generated scenes."""


@register_dataset("demo")
class Demo(Dataset):
    """Generated scenes, drawn from the seed of the run."""

    Config = DemoConfig
    modality = "image"
    generated = True
    by_kind = True

    def read(self, split: str, problems: Problems | None = None) -> Annotations:
        """Generate the scenes of "train" or "test"; see `make_scenes`."""
        if split not in ("train", "test"):
            raise ConfigError(f"{split!r} is not a split of the generated scenes; they have 'train' and 'test'")
        pairs = self.config.demo_pairs if split == "train" else max(1, self.config.demo_pairs // 10)
        queries, store = make_scenes(split, pairs, self.seed, self.config.demo_noise)
        return Annotations(queries, {}, {}, store)

    def splits(self) -> list[str]:
        return ["train", "test"]

    def protocols(self) -> list[str]:
        """Return the protocol: every query refers to one box."""
        return ["single"]


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

    def size(self, item: str) -> tuple[int, int]:
        """Return (width, height) of a scene in pixels."""
        return self.scene(item).size

    def scene(self, item: str) -> Scene:
        """Return the objects of a scene, in the order of its regions; an unknown id raises `KeyError`."""
        if item not in self._scenes:
            raise KeyError(f"no scene with id {item!r}; the {len(self)} ids of this store are in its property `ids`")
        return self._scenes[item]


Drawn = tuple[Scene, int, str]
"""A scene, the position of the target among its objects, and the sentence."""


def make_scenes(
    split: str, n_pairs: int, seed: int = 0, noise: float = 0.5, dim: int = 64
) -> tuple[list[Query], SceneStore]:
    """Generate `2 * n_pairs` scenes, one query each.

    Pair i is relational where i % 3 == 2: exactly a third of the queries where n_pairs is a multiple of 3. A region's
    feature is P a + noise * e with a the one-hot attributes, P a fixed random matrix scaled so that P a has unit mean
    square on average, and e standard normal. Positions are in the boxes only. Pair i depends on (split, seed, i) alone.

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
        drawn = (_attribute_scenes, _mention_scenes, _relation_scenes)[i % 3](rng)
        for letter, (scene, target, text) in zip("ab", drawn, strict=True):
            item = f"{group}-{letter}"
            scenes[item] = scene
            attributes = np.stack([thing.one_hot() for thing in scene.objects])
            error = rng.standard_normal((len(attributes), dim), dtype=np.float32)
            features[item] = attributes @ projection + np.float32(noise) * error
            box = tuple(float(value) for value in scene.boxes[target])
            queries.append(Query(id=item, item=item, text=text, targets=(box,), kind=kind, group=group))
    return queries, SceneStore(scenes, features)


def _attribute_scenes(rng: np.random.Generator) -> list[Drawn]:
    """Two scenes that differ in one attribute of the target (and in where the objects lie)."""
    object_sets, descriptions = attribute_pair(rng, int(rng.integers(_MIN_OBJECTS, _MAX_OBJECTS, endpoint=True)))
    drawn = []
    for objects, description in zip(object_sets, descriptions, strict=True):
        boxes = scatter(rng, [thing.size for thing in objects])
        drawn.append((*_shuffle(rng, objects, boxes, target=0), in_words(description)))
    return drawn


def _mention_scenes(rng: np.random.Generator) -> list[Drawn]:
    """Two scenes of the same two objects; the sentences differ in the relation.

    The target can be told by its attributes; what tells the scenes apart is the relation alone, between so few objects
    that it can be learnt from pairs of image and sentence. Any two relations meet: were they always opposite, half the
    plane would do for each of them.
    """
    first, second = rng.permutation(len(RELATIONS))[:2]
    relations = [list(RELATIONS)[k] for k in (first, second)]
    return _related_scenes(rng, 1, relations, lambda sizes, relation: (scatter_pair(rng, sizes, relation), 0))


def _relation_scenes(rng: np.random.Generator) -> list[Drawn]:
    """Two scenes of the same three objects; the sentences, which fit one of two alike, have opposite relations."""
    first = list(RELATIONS)[rng.integers(len(RELATIONS))]
    relations = [first, OPPOSITE[first]]
    return _related_scenes(rng, HEADS, relations, lambda sizes, relation: scatter_relation(rng, sizes, relation))


def _related_scenes(
    rng: np.random.Generator,
    heads: int,
    relations: list[str],
    arrange: Callable[[list[str], str], tuple[np.ndarray, int]],
) -> list[Drawn]:
    """Scenes of the same objects that lie elsewhere, one for each relation."""
    objects, head, anchor = relation_set(rng, heads)
    drawn = []
    for relation in relations:
        boxes, target = arrange([thing.size for thing in objects], relation)
        text = f"{in_words(head)} {relation} {in_words(anchor)}"
        drawn.append((*_shuffle(rng, objects, boxes, target), text))
    return drawn


def _shuffle(rng: np.random.Generator, objects: list[SceneObject], boxes: np.ndarray, target: int) -> tuple[Scene, int]:
    order = rng.permutation(len(objects))
    scene = Scene(objects=tuple(objects[k] for k in order), boxes=boxes[order], size=IMAGE_SIZE)
    return scene, int(np.flatnonzero(order == target)[0])


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
