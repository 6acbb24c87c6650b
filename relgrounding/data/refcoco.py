"""RefCOCO, RefCOCO+ and RefCOCOg: sentences with an object of a COCO image."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from relgrounding.data._pickle import load_plain_pickle
from relgrounding.data._query import Query

__all__ = ["ImageObjects", "Instances", "load_instances", "load_refcoco"]

REFS = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}


class ImageObjects(NamedTuple):
    """Annotated objects of one image.

    Args:
        size: (width, height) in pixels.
        boxes: (objects, 4) x1, y1, x2, y2 in pixels.
        category: (objects,) position in `Instances.categories`.
        annotation: (objects,) COCO's id of the object.
    """

    size: tuple[int, int]
    boxes: Float64[np.ndarray, "objects 4"]
    category: Int64[np.ndarray, " objects"]
    annotation: Int64[np.ndarray, " objects"]


@dataclass(frozen=True, eq=False)
class Instances:
    """Annotated objects of a set of images, one image's after another's; `instances[id]` are those of one image.

    Args:
        categories: names of the categories.
        ids: id of each image.
        sizes: (images, 2) width, height in pixels.
        offsets: (images + 1,); image i owns the rows offsets[i] to offsets[i + 1] of what follows.
        boxes: (objects, 4) x1, y1, x2, y2 in pixels.
        category: (objects,) position in `categories`.
        annotation: (objects,) COCO's id of the object.
    """

    categories: tuple[str, ...]
    ids: tuple[str, ...]
    sizes: Int64[np.ndarray, "images 2"]
    offsets: Int64[np.ndarray, " ends"]
    boxes: Float64[np.ndarray, "objects 4"]
    category: Int64[np.ndarray, " objects"]
    annotation: Int64[np.ndarray, " objects"]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {image: place for place, image in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image: object) -> bool:
        return image in self._place

    def __getitem__(self, image: str) -> ImageObjects:
        if image not in self._place:
            raise KeyError(f"no image {image!r} among the {len(self)} of these annotations")
        place = self._place[image]
        rows = slice(*self.offsets[place : place + 2])
        width, height = self.sizes[place].tolist()
        return ImageObjects((width, height), self.boxes[rows], self.category[rows], self.annotation[rows])


def load_instances(root: str | Path, name: str) -> Instances:
    """Load all objects of the images of a data set of the RefCOCO family.

    Args:
        root: folder that holds the folders refcoco, refcoco+ and refcocog.
        name: "refcoco", "refcoco+" or "refcocog".

    Raises:
        FileNotFoundError: a file is missing; the message says where it comes from.
        ValueError: unknown name, or a box without area (the message has its id).
    """
    path = _find(root, name, "instances.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    number = {category["id"]: place for place, category in enumerate(content["categories"])}
    place = {image["id"]: row for row, image in enumerate(content["images"])}
    objects = content["annotations"]
    owner = np.array([place[entry["image_id"]] for entry in objects], dtype=np.int64)
    order = np.argsort(owner, kind="stable")
    boxes = np.array([entry["bbox"] for entry in objects], dtype=np.float64).reshape(-1, 4)
    annotation = np.array([entry["id"] for entry in objects], dtype=np.int64)
    empty = np.flatnonzero(~(boxes[:, 2:] > 0).all(1))
    if len(empty):
        raise ValueError(f"{path}: annotation {annotation[empty[0]]} has no area; drop it from the file")
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        categories=tuple(category["name"] for category in content["categories"]),
        ids=tuple(str(image["id"]) for image in content["images"]),
        sizes=np.array([(image["width"], image["height"]) for image in content["images"]], dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(place)))]).astype(np.int64),
        boxes=boxes[order],
        category=np.array([number[entry["category_id"]] for entry in objects], dtype=np.int64)[order],
        annotation=annotation[order],
    )


def load_refcoco(root: str | Path, name: str, split: str) -> list[Query]:
    """Load the queries of a data set of the RefCOCO family, one a sentence; the target is the object's box in pixels.

    Args:
        root: folder that holds the folders refcoco, refcoco+ and refcocog.
        name: "refcoco", "refcoco+" (both split by UNC) or "refcocog" (split by UMD).
        split: "train", "val", "testA", "testB" (RefCOCO, RefCOCO+), "train", "val", "test" (RefCOCOg).

    Returns:
        Queries in the order of the file; ids are the sentences' numbers, `kind` is the category of the object.

    Raises:
        FileNotFoundError: a file is missing; the message says where it comes from.
        pickle.UnpicklingError: the file of expressions holds more than plain data.
        ValueError: unknown name, a split that the file does not hold, or an object that `instances.json` lacks.
    """
    path = _find(root, name, REFS.get(name, ""))
    refs = load_plain_pickle(path)
    splits = {ref["split"] for ref in refs}
    if split not in splits:
        raise ValueError(f"{path} has no split {split!r}; it holds {', '.join(sorted(splits))}")
    instances = load_instances(root, name)
    row = {number: place for place, number in enumerate(instances.annotation.tolist())}
    queries: list[Query] = []
    for ref in refs:
        if ref["split"] != split:
            continue
        if ref["ann_id"] not in row:
            raise ValueError(f"{path}, ref {ref['ref_id']}: instances.json lacks annotation {ref['ann_id']}")
        place = row[ref["ann_id"]]
        target = (tuple(instances.boxes[place].tolist()),)
        kind = instances.categories[instances.category[place]]
        queries.extend(
            Query(str(sentence["sent_id"]), str(ref["image_id"]), sentence["sent"], target, kind)
            for sentence in ref["sentences"]
        )
    return queries


def _find(root: str | Path, name: str, file: str) -> Path:
    if name not in REFS:
        raise ValueError(f"{name!r} is not one of the RefCOCO family: {', '.join(REFS)}")
    path = Path(root) / name / file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found; download {name} from https://github.com/lichengunc/refer and keep its folder {name}"
        )
    return path
