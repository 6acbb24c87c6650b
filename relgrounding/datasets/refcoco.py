"""RefCOCO, RefCOCO+ and RefCOCOg: sentences with an object of a COCO image."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from relgrounding._printing import brief, progress
from relgrounding._signals import look
from relgrounding.datasets._dataset import (
    NOT_VISUAL,
    Annotations,
    Check,
    DataConfig,
    Dataset,
    Published,
    Query,
    data_folder,
    register_dataset,
)
from relgrounding.features import Regions, write_region_features
from relgrounding.io._errors import BadAnnotation, DataError, Problems, check_id
from relgrounding.io._pickle import load_plain_pickle
from relgrounding.io._regular import check_regular, existing, read_text
from relgrounding.io._values import LARGEST, check_text, has_area, parse_json

__all__ = ["ImageObjects", "Instances", "RefCOCO", "RefCOCOPlus", "RefCOCOg", "load_instances", "load_refcoco"]

LEFT_OUT = "objects without area left out"
SPLIT_BY = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
REMEDY = "relgrounding prepare coco-categories --name {} makes one"


@dataclass
class RefCOCOConfig(DataConfig):
    """Settings of the RefCOCO family."""

    split_by: Literal["", "unc", "google", "umd"] = ""
    """Who made the splits; empty: unc for RefCOCO and RefCOCO+, umd for RefCOCOg."""


class _Family(Dataset):
    """What the three have in common."""

    Config = RefCOCOConfig
    modality = "image"
    published: ClassVar[Published]

    def read(self, split: str, problems: Problems | None = None) -> Annotations:
        """Read the data set's folder in `refcoco/` below the root; see `load_refcoco`."""
        root, config = data_folder(self.config, "refcoco"), self.config
        queries = load_refcoco(root, self.name, split, config.split_by, problems or Problems(config.on_error))
        instances = load_instances(root, self.name)
        sizes = dict(zip(instances.ids, map(tuple, instances.sizes.tolist()), strict=True))
        boxes = {image: instances[image].boxes for image in {query.item for query in queries}}
        return Annotations(queries, {}, sizes, boxes=boxes)

    def objects(self, item: str) -> list[tuple[str, tuple[float, ...]]]:
        """Return the category and the box of each of COCO's objects of an image."""
        instances = load_instances(data_folder(self.config, "refcoco"), self.name)
        if item not in instances:
            return []
        found = instances[item]
        names = [instances.categories[number] for number in found.category.tolist()]
        return list(zip(names, map(tuple, found.boxes.tolist()), strict=True))

    def protocols(self) -> list[str]:
        """Return the protocol: every expression refers to one box."""
        return ["single"]

    def splits(self) -> list[str] | None:
        return super().splits() if self._as_published else None

    @property
    def _as_published(self) -> bool:
        return self.config.split_by in ("", SPLIT_BY[self.name][0])

    def sizes(self) -> Published | None:
        """Return the sizes of the whole and, where the splits are those that they were published for, of the splits."""
        if self._as_published:
            return self.published
        return self.published._replace(queries=dict.fromkeys(self.published.queries, 0))

    def checks(self, found: dict[str, Annotations]) -> Iterator[Check]:
        """Yield how many training images the test splits of the other two hold, whose images are COCO's as well."""
        learnt = {query.item for query in found["train"].queries} if "train" in found else set()
        family = [kind for kind in (RefCOCO, RefCOCOPlus, RefCOCOg) if learnt and kind.name != self.name]
        for other, split in [(kind.name, split) for kind in family for split in kind.published.queries]:
            if split != "train":
                with contextlib.suppress(DataError):
                    queries = load_refcoco(data_folder(self.config, "refcoco"), other, split)
                    count = len(learnt & {query.item for query in queries})
                    meaning = f"train on {self.name} and test on {other} only after taking these out of training"
                    check, status = f"train and {other} {split}: shared", "note" if count else "ok"
                    yield Check(check, "0", f"{count:,}", status, meaning * bool(count))


@register_dataset("refcoco")
class RefCOCO(_Family):
    """RefCOCO."""

    published = Published({"train": 120624, "val": 10834, "testA": 5657, "testB": 5095}, {}, 50000, 19994)
    remedy = REMEDY.format("refcoco")


@register_dataset("refcoco+")
class RefCOCOPlus(_Family):
    """RefCOCO+, whose expressions do not refer to locations."""

    published = Published({"train": 120191, "val": 10758, "testA": 5726, "testB": 4889}, {}, 49856, 19992)
    remedy = REMEDY.format("refcoco+")


@register_dataset("refcocog")
class RefCOCOg(_Family):
    """RefCOCOg, whose expressions are longer."""

    # the test split is what the published total, 95,010, leaves
    published = Published({"train": 80512, "val": 4896, "test": 9602}, {}, 49822, 25799)
    remedy = REMEDY.format("refcocog")


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
        without_area: COCO's ids of the objects that were left out because their box has no width or no height.
    """

    categories: tuple[str, ...]
    ids: tuple[str, ...]
    sizes: Int64[np.ndarray, "images 2"]
    offsets: Int64[np.ndarray, " ends"]
    boxes: Float64[np.ndarray, "objects 4"]
    category: Int64[np.ndarray, " objects"]
    annotation: Int64[np.ndarray, " objects"]
    without_area: frozenset[int] = frozenset()

    @cached_property
    def _index(self) -> dict[str, int]:
        return {image: index for index, image in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image: object) -> bool:
        return image in self._index

    def __getitem__(self, image: str) -> ImageObjects:
        if image not in self._index:
            raise KeyError(f"no image {image!r} among the {len(self)} of these annotations")
        index = self._index[image]
        rows = slice(*self.offsets[index : index + 2])
        width, height = self.sizes[index].tolist()
        return ImageObjects((width, height), self.boxes[rows], self.category[rows], self.annotation[rows])


def load_instances(root: str | Path, name: str) -> Instances:
    """Load all objects of the images of a data set of the RefCOCO family; those without area are left out and counted.

    Args:
        root: folder that holds the folders refcoco, refcoco+ and refcocog.
        name: "refcoco", "refcoco+" or "refcocog".

    Raises:
        MissingFile: a file is missing; the message says where it comes from.
        BadAnnotation: unknown name, or a file that is not in COCO's layout.
    """
    path = _find(root, name, "instances.json")
    stat = path.stat()
    return _load_instances(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)  # each split of a data set needs them
def _load_instances(path: Path, size: int, time: int) -> Instances:
    try:
        instances = _instances(parse_json(read_text(path), str(path), "download it again"), path)
    except DataError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise BadAnnotation(
            f"{path} is damaged, or not COCO's layout of images, annotations and categories: "
            f"{type(error).__name__} {error}; download it again"
        ) from None
    for image in instances.ids:
        check_id(image, str(path))
    Problems().note(LEFT_OUT, len(instances.without_area), path)
    return instances


def _instances(content: Any, path: Path) -> Instances:
    number = {category["id"]: index for index, category in enumerate(content["categories"])}
    row = {image["id"]: index for index, image in enumerate(content["images"])}
    objects = content["annotations"]
    owner = np.array([row[entry["image_id"]] for entry in objects], dtype=np.int64)
    order = np.argsort(owner, kind="stable")
    boxes = np.array([entry["bbox"] for entry in objects], dtype=np.float64).reshape(len(objects), 4)
    annotation = np.array([entry["id"] for entry in objects], dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        boxes[:, 2:] += boxes[:, :2]
    fine = has_area(boxes)
    order = order[fine[order]]
    sizes = np.array([(image["width"], image["height"]) for image in content["images"]], dtype=np.int64).reshape(-1, 2)
    if (sizes < 1).any() or (sizes > LARGEST).any() or len(row) != len(sizes):
        raise BadAnnotation(f"{path}: an image has no possible size, or comes twice; download it again")
    return Instances(
        categories=tuple(str(category["name"]) for category in content["categories"]),
        ids=tuple(str(image["id"]) for image in content["images"]),
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner[fine], minlength=len(row)))]).astype(np.int64),
        boxes=boxes[order],
        category=np.array([number[entry["category_id"]] for entry in objects], dtype=np.int64)[order],
        annotation=annotation[order],
        without_area=frozenset(annotation[~fine].tolist()),
    )


def load_refcoco(
    root: str | Path, name: str, split: str, split_by: str = "", problems: Problems | None = None
) -> list[Query]:
    """Load the queries of a data set of the RefCOCO family, one per sentence; the target is the object's box in pixels.

    Args:
        root: folder that holds the folders refcoco, refcoco+ and refcocog.
        name: "refcoco", "refcoco+" or "refcocog".
        split: "train", "val", "testA", "testB" (RefCOCO, RefCOCO+), "train", "val", "test" (RefCOCOg; google: no test).
        split_by: who made the splits, and so which file is read, `refs(SPLIT_BY).p`: "unc" or "google" for RefCOCO,
            "unc" for RefCOCO+, "umd" or "google" for RefCOCOg; empty: the first of these.
        problems: what becomes of a bad expression; None: the first one stops.

    Returns:
        Queries in the order of the file; ids are the sentences' numbers, `kind` is the category of the object.

    Raises:
        MissingFile: a file is missing; the message says where it comes from.
        UnsafeFile: the file of expressions holds more than plain data.
        BadAnnotation: unknown name or maker of splits, a split that the file does not hold, an expression that is not
            as documented, or an object that `instances.json` lacks.
    """
    problems = problems or Problems()
    path = _find(root, name, _refs(name, split_by))
    refs = load_plain_pickle(path)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise BadAnnotation(f"{path} does not hold a list of expressions; download it again")
    splits = {str(ref.get("split")) for ref in refs}
    if split not in splits:
        raise BadAnnotation(f"{path} has no split {split!r}; it holds {', '.join(sorted(splits)) or 'nothing'}")
    instances = load_instances(root, name)
    if instances.without_area:
        problems.notes[LEFT_OUT] += len(instances.without_area)  # logged when the file was read
    row = {number: index for index, number in enumerate(instances.annotation.tolist())}
    owner = np.repeat(np.arange(len(instances)), np.diff(instances.offsets))
    queries: list[Query] = []
    for ref in refs:
        if ref.get("split") != split:
            continue
        with problems:
            where = f"{path}, ref {brief(ref.get('ref_id'), 20)}"
            number = ref.get("ann_id")
            if isinstance(number, int) and number in instances.without_area:
                raise BadAnnotation(
                    f"{where}: the box of annotation {number} in instances.json has no area; leave the expression out"
                )
            if not isinstance(number, int) or number not in row:
                raise BadAnnotation(f"{where}: instances.json lacks annotation {brief(number, 20)}")
            at = row[number]
            target = (tuple(instances.boxes[at].tolist()),)
            kind = instances.categories[instances.category[at]]
            image = check_id(ref.get("image_id"), where)
            if instances.ids[owner[at]] != image:
                raise BadAnnotation(
                    f"{where}: annotation {number} is of another image than {image}; take both from one release"
                )
            for sentence in _sentences(ref, where):
                with problems:
                    sent_id, text = _sentence(sentence, where)
                    queries.append(Query(sent_id, image, text, target, kind))
    return queries


def _refs(name: str, split_by: str) -> str:
    makers = SPLIT_BY.get(name, ("",))
    if split_by and split_by not in makers:
        raise BadAnnotation(f"there is no {split_by!r} split of {name}; there is {', '.join(makers)}")
    return f"refs({split_by or makers[0]}).p"


def _sentences(ref: dict[str, Any], where: str) -> list[Any]:
    sentences = ref.get("sentences")
    if not isinstance(sentences, list):
        raise BadAnnotation(f"{where}: it has no list of sentences; download the file again")
    return sentences


def _sentence(sentence: Any, where: str) -> tuple[str, str]:
    if not isinstance(sentence, dict):
        raise BadAnnotation(f"{where}: a sentence is {brief(sentence)!r}; expected sent_id and sent")
    text = check_text(sentence.get("sent"), "sentence", where)
    return check_id(sentence.get("sent_id"), where), text


def _find(root: str | Path, name: str, file: str) -> Path:
    if name not in SPLIT_BY:
        raise BadAnnotation(f"{name!r} is not one of the RefCOCO family: {', '.join(SPLIT_BY)}")
    remedy = f"download {name} from https://github.com/lichengunc/refer and keep its folder {name}"
    path = existing(Path(root) / name / file, remedy)
    check_regular(path, follow_links=False)
    return path


def category_features(objects: ImageObjects, num_categories: int) -> np.ndarray:
    """Return one-hot category and geometry of each object: x1/w, y1/h, x2/w, y2/h, area / (w h).

    Args:
        objects: of one image.
        num_categories: of the data set.

    Returns:
        (objects, num_categories + 5) float64 from 0 to 1.
    """
    width, height = objects.size
    corners = objects.boxes / (width, height, width, height)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return np.concatenate([np.eye(num_categories)[objects.category], corners, area[:, None]], axis=1)


def coco_categories(out: Path, root: Path, name: str) -> str:
    """Write category and geometry of every annotated object, and return a line about them."""
    instances = load_instances(root, name)

    def items() -> Iterator[tuple[str, Regions]]:
        for image in progress(instances.ids, desc="writing", unit="image"):
            look()
            objects = instances[image]
            if len(objects.boxes):
                features = category_features(objects, len(instances.categories)).astype(np.float32)
                yield image, Regions(features, objects.boxes.astype(np.float32), objects.size)

    attributes = {
        "description": "one-hot COCO category, then x1/w y1/h x2/w y2/h area/(w h), of every annotated object",
        "warning": NOT_VISUAL,
        "name": name,
        "categories": list(instances.categories),
    }
    write_region_features(out, items(), attributes)
    return f"{out}: {len(instances.boxes)} objects of {len(instances)} images of {name}" + (
        f"; {LEFT_OUT}: {len(instances.without_area)}" if instances.without_area else ""
    )
