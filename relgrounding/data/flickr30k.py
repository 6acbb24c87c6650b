"""Flickr30k Entities: phrases of captions with the boxes they refer to."""

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from relgrounding.data._query import Query

__all__ = ["load_flickr30k"]

Box = tuple[float, float, float, float]
_PHRASE = re.compile(r"\[/EN#(?P<entity>\d+)/(?P<kind>\S+) (?P<text>[^\]]+)\]")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Annotations(NamedTuple):
    images: frozenset[str]
    read: Callable[[str], bytes]


def load_flickr30k(root: str | Path, split: str, min_boxes: int = 2) -> list[Query]:
    """Load the phrase queries of Flickr30k Entities; targets are all boxes of the phrase, in pixels.

    One query for each occurrence of a phrase that has a box. How several boxes are read (their bounding box, any one of
    them) is the evaluator's choice. Images of the split that the annotations lack are left out.

    Args:
        root: folder with the list `SPLIT.txt` and the annotations: `annotations.zip`, or the folders `Annotations` and
            `Sentences`.
        split: "train", "val" or "test".
        min_boxes: leave out images with fewer different boxes.

    Returns:
        Queries in the order of list, captions and phrases. Ids are IMAGE-CAPTION-PHRASE, both counted from 0 and
        phrases without a box too; `kind` is the sort of thing ("people", "clothing", ..., "people/other").

    Raises:
        FileNotFoundError: a file is missing; the message says where it comes from.
        ValueError: an annotation file that is not in the official layout, or none of the split's images.
    """
    root = Path(root)
    images = _find(root / f"{split}.txt").read_text(encoding="utf-8").split()
    queries: list[Query] = []
    with _open(root) as annotations:
        present = [image for image in images if image in annotations.images]
        if not present:
            raise ValueError(f"{root} has annotations of none of the {len(images)} images of {split!r}")
        for image in present:
            boxes = _read_boxes(annotations.read(f"Annotations/{image}.xml"), image)
            if len({box for group in boxes.values() for box in group}) >= min_boxes:
                captions = annotations.read(f"Sentences/{image}.txt").decode("utf-8").splitlines()
                queries.extend(_phrases(image, captions, boxes))
    return queries


@contextlib.contextmanager
def _open(root: Path) -> Iterator[_Annotations]:
    """Open the folders, or else the archive."""
    folder = root / "Annotations"
    if folder.is_dir():
        yield _Annotations(
            frozenset(p.stem for p in folder.glob("*.xml")), lambda name: _find(root / name).read_bytes()
        )
        return
    with zipfile.ZipFile(_find(root / "annotations.zip")) as archive:
        names = (Path(name) for name in archive.namelist())
        yield _Annotations(frozenset(name.stem for name in names if name.suffix == ".xml"), archive.read)


def _phrases(image: str, captions: list[str], boxes: dict[str, list[Box]]) -> Iterator[Query]:
    for line, caption in enumerate(captions):
        for place, match in enumerate(_PHRASE.finditer(caption)):
            targets = boxes.get(match["entity"])
            if targets:
                yield Query(f"{image}-{line}-{place}", image, match["text"].strip(), tuple(targets), match["kind"])


def _read_boxes(content: bytes, image: str) -> dict[str, list[Box]]:
    """Return the boxes of each entity; a box may belong to several, an entity may have several or none."""
    boxes: dict[str, list[Box]] = {}
    try:
        for entry in ElementTree.fromstring(content).iter("object"):
            for element in entry.iter("bndbox"):
                x1, y1, x2, y2 = (float(element.findtext(corner, "")) for corner in _CORNERS)
                for name in entry.iter("name"):
                    boxes.setdefault(name.text or "", []).append((x1, y1, x2, y2))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"Annotations/{image}.xml: {error}; expected Flickr30k Entities' layout") from error
    return boxes


def _find(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} not found; download it from https://github.com/BryanPlummer/flickr30k_entities "
            "(annotations.zip may stay packed)"
        )
    return path
