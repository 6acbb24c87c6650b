"""Flickr30k Entities: phrases of captions with the boxes they refer to."""

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from relgrounding.datasets._dataset import Annotations, Check, Dataset, Published, Query, data_folder, register_dataset
from relgrounding.io._errors import BadAnnotation, DataError, Problems, check_id
from relgrounding.io._regular import check_regular, existing, read_text
from relgrounding.io._values import LARGEST, check_choice, has_area

__all__ = ["Flickr30k", "load_flickr30k"]

Box = tuple[float, float, float, float]
_PHRASE = re.compile(r"\[/EN#(?P<entity>\d+)/(?P<kind>\S+) (?P<text>[^\]]+)\]")
_SIZE = re.compile(rb"<width>\s*(?P<width>\d{1,6})\s*</width>\s*<height>\s*(?P<height>\d{1,6})\s*</height>")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
SPLITS = ("train", "val", "test")
LARGEST_FILE = 64 * 2**20


@register_dataset("flickr30k")
class Flickr30k(Dataset):
    """Flickr30k Entities."""

    modality = "image"
    published = Published({"train": 0, "val": 0, "test": 0}, {})
    # People publish results on val, and many copies come without the list of test.
    optional = ("val", "test")
    remedy = "docs/data.md has the commands that make it from the annotations and the images"

    def read(self, split: str, problems: Problems | None = None) -> Annotations:
        """Read `flickr30k_entities/` below the root; see `load_flickr30k`."""
        problems = problems or Problems(self.config.on_error)
        queries, sizes, boxes = _read_split(data_folder(self.config, "flickr30k_entities"), split, 2, problems)
        return Annotations(queries, {}, sizes, boxes=boxes)

    def protocols(self) -> list[str]:
        """Return the two readings of several boxes: the box around them, or any one of them."""
        return ["union", "any"]

    def checks(self, found: dict[str, Annotations]) -> Iterator[Check]:
        """Yield how many images of each list have annotations, and how many have two boxes or more."""
        root = data_folder(self.config, "flickr30k_entities")
        for split, annotations in found.items():
            listed = len(read_text(root / f"{split}.txt").split())
            queries = load_flickr30k(root, split, min_boxes=1, problems=Problems("skip"))
            annotated = len({query.item for query in queries})
            meaning = "annotations of the other images are not here: results cannot be compared"
            check = f"{split}: images of the list"
            if listed == annotated:
                yield Check(check, f"{listed:,}", f"{annotated:,}", "ok")
            else:
                yield Check(check, f"{listed:,}", f"{annotated:,}", "DIFFERS", meaning)
            meaning = "queries refer to these only: where there is one box, every answer is right"
            count = len({query.item for query in annotations.queries})
            yield Check(f"{split}: images with two boxes", "", f"{count:,}", "note", meaning)


class _Annotations(NamedTuple):
    images: frozenset[str]
    read: Callable[[str], bytes]


def load_flickr30k(root: str | Path, split: str, min_boxes: int = 2, problems: Problems | None = None) -> list[Query]:
    """Load the phrase queries of Flickr30k Entities; targets are all boxes of the phrase, in pixels.

    One query for each occurrence of a phrase that has a box. How several boxes are read (their bounding box, any one of
    them) is the evaluator's choice. Images of the split that the annotations lack are left out, and boxes without area;
    a phrase that has only such boxes is a bad one.

    Args:
        root: folder with the list `SPLIT.txt` and the annotations: `annotations.zip`, or the folders `Annotations` and
            `Sentences`.
        split: "train", "val" or "test".
        min_boxes: leave out images with fewer different boxes.
        problems: what becomes of a bad image; None: the first one stops.

    Returns:
        Queries in the order of list, captions and phrases. Ids are IMAGE-CAPTION-PHRASE, both counted from 0 and
        phrases without a box too; `kind` is the sort of thing ("people", "clothing", ..., "people/other").

    Raises:
        MissingFile: a file is missing; the message says where it comes from.
        BadAnnotation: an annotation file that is not in the official layout, or none of the split's images.
    """
    return _read_split(root, split, min_boxes, problems)[0]


def _read_split(
    root: str | Path, split: str, min_boxes: int, problems: Problems | None
) -> tuple[list[Query], dict[str, tuple[int, int]], dict[str, list[Box]]]:
    """Return the queries of `load_flickr30k`, and their images' (width, height), where stated, and different boxes."""
    check_choice("split", split, SPLITS, "Flickr30k Entities'")
    root, problems = Path(root), problems or Problems()
    listed = _find(root / f"{split}.txt")
    images = read_text(listed).split()
    queries: list[Query] = []
    left_out = 0
    sizes: dict[str, tuple[int, int]] = {}
    every: dict[str, list[Box]] = {}
    with _open(root) as annotations:
        present = [image for image in images if image in annotations.images]
        if not present:
            raise BadAnnotation(f"{root} has annotations of none of the {len(images)} images of {split!r}")
        for image in present:
            with problems:
                check_id(image, str(listed))
                content = annotations.read(f"Annotations/{image}.xml")
                boxes, without_area = _read_boxes(content, image)
                left_out += without_area
                different = list(dict.fromkeys(box for group in boxes.values() for box in group))
                if len(different) >= min_boxes:
                    captions = _captions(annotations.read(f"Sentences/{image}.txt"), image)
                    queries.extend(_phrases(image, captions, boxes, problems))
                    every[image] = different
                    if size := _SIZE.search(content):
                        sizes[image] = (int(size["width"]), int(size["height"]))
    problems.note("boxes without area left out", left_out, root)
    return queries, sizes, every


@contextlib.contextmanager
def _open(root: Path) -> Iterator[_Annotations]:
    """Open the folders, or else the archive."""
    folder = root / "Annotations"
    if folder.is_dir():
        yield _Annotations(
            frozenset(p.stem for p in folder.glob("*.xml")), lambda name: _find(root / name).read_bytes()
        )
        return
    path = _find(root / "annotations.zip")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeDecodeError) as error:
        raise BadAnnotation(f"{path} is damaged or not a ZIP archive: {error}; download it again") from None
    with archive:
        names = (Path(name) for name in archive.namelist())
        images = frozenset(name.stem for name in names if name.suffix == ".xml")
        yield _Annotations(images, lambda name: _unpack(archive, name, path))


def _unpack(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        if archive.getinfo(name).file_size > LARGEST_FILE:
            raise BadAnnotation(f"{path}, {name}: unpacked over {LARGEST_FILE >> 20} MB; download the archive again")
        return archive.read(name)
    except DataError:
        raise
    except Exception as error:  # a damaged archive can end in an exception of any kind
        raise BadAnnotation(f"{path}, {name}: missing or damaged: {error}; download the archive again") from None


def _captions(content: bytes, image: str) -> list[str]:
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadAnnotation(f"Sentences/{image}.txt: {error}; convert it to UTF-8") from None


def _phrases(image: str, captions: list[str], boxes: dict[str, list[Box]], problems: Problems) -> Iterator[Query]:
    for line, caption in enumerate(captions):
        for index, match in enumerate(_PHRASE.finditer(caption)):
            targets = boxes.get(match["entity"])
            if targets == []:
                where = f"Sentences/{image}.txt, line {line + 1}, entity {match['entity']}"
                problems.add(BadAnnotation(f"{where}: none of its boxes has an area; mend Annotations/{image}.xml"))
            elif targets:
                yield Query(f"{image}-{line}-{index}", image, match["text"].strip(), tuple(targets), match["kind"])


def _read_boxes(content: bytes, image: str) -> tuple[dict[str, list[Box]], int]:
    """Return the boxes of each entity, and how many without area were left out.

    A box may belong to several entities, an entity may have several boxes or none.
    """
    boxes: dict[str, list[Box]] = {}
    left_out = 0
    try:
        for entry in ElementTree.fromstring(content).iter("object"):
            for element in entry.iter("bndbox"):
                box = x1, y1, x2, y2 = tuple(float(element.findtext(corner, "")) for corner in _CORNERS)
                if not all(abs(value) <= LARGEST for value in box):
                    raise ValueError(f"{box} is not a box xmin ymin xmax ymax")
                fine = bool(has_area(np.array([box])).all())
                left_out += not fine
                for name in entry.iter("name"):
                    boxes.setdefault(name.text or "", []).extend([(x1, y1, x2, y2)] * fine)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise BadAnnotation(f"Annotations/{image}.xml: {error}; expected Flickr30k Entities' layout") from error
    return boxes, left_out


def _find(path: Path) -> Path:
    source = "https://github.com/BryanPlummer/flickr30k_entities (annotations.zip may stay packed)"
    check_regular(existing(path, f"download it from {source}"), follow_links=False)
    return path
