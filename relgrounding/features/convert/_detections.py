"""A detector's boxes as JSON, for RefCOCO: what it saw and where, as features."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from relgrounding.features.convert._regions import RegionSource
from relgrounding.features.convert._sources import Entry, Item
from relgrounding.io._errors import BadAnnotation, BadFeatures, DataError, check_id
from relgrounding.io._ids import canonical_id
from relgrounding.io._regular import check_regular, existing, read_text
from relgrounding.io._values import is_number

CHUNK = 2**20


class Detections(RegionSource):
    """`[{"image_id", "bbox" or "box": [x, y, width, height], "category_id", "score"}, ...]`, COCO's layout of results.

    Features: one-hot category (of those in the file, by number), x1/w, y1/h, x2/w, y2/h, area / (w h), and the score.
    Of the JSON only seven numbers a detection are kept.
    """

    def index(self) -> Iterator[Entry]:
        """Yield the images in the order of their first detection."""
        check_regular(self.path)
        sizes = image_sizes(self.options.sizes)
        rows: dict[str, list[tuple[float, ...]]] = {}
        for number, entry in enumerate(iter_json_list(self.path)):
            with self.problems:
                where = f"{self.path}, detection {number}"
                image, row = _detection(entry, where)
                if image not in sizes and not _own_size(entry, sizes, image):
                    raise BadFeatures(
                        f"{where}: size of image {image!r} unknown; name COCO's instances.json with --sizes"
                    )
                rows.setdefault(image, []).append(row)
        self._rows = {image: np.array(found, dtype=np.float64) for image, found in rows.items()}
        seen = sorted({int(row[4]) for found in rows.values() for row in found})
        self._column = {category: index for index, category in enumerate(seen)}
        for image, found in self._rows.items():
            with self.problems:
                boxes, where = self._boxes(found, sizes[image]), f"image {image!r} in {self.path}"
                yield self.entry(image, boxes, len(seen) + 6, "float32", None, sizes[image], where)

    def read(self, entry: Entry) -> Item:
        """Return an image's detections."""
        assert entry.size is not None  # index gives one to every image
        rows = self._rows[entry.id]
        boxes = self._boxes(rows, entry.size)
        shares = boxes / np.array([*entry.size, *entry.size], dtype=np.float32)
        area = (shares[:, 2] - shares[:, 0]) * (shares[:, 3] - shares[:, 1])
        seen = np.eye(len(self._column), dtype=np.float32)[[self._column[int(c)] for c in rows[:, 4]]]
        features = np.concatenate([seen, shares, area[:, None], rows[:, 5:6]], axis=1).astype(np.float32)
        return self.item(entry, features, boxes, f"image {entry.id!r} in {self.path}")

    def _boxes(self, rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        # Detectors round; what is left after the cut has no area where the box lies outside.
        return np.clip(self.corners(rows[:, :4]), 0, np.array([*size, *size], dtype=np.float32))


def iter_json_list(path: Path) -> Iterator[Any]:
    """Yield the elements of a file that is one JSON list, a piece of the file at a time.

    Raises:
        BadFeatures: it is not a list, not UTF-8, cut off, or an element is longer than 1 MB.
    """
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(CHUNK).lstrip()
            if not text.startswith("["):
                raise BadFeatures(f"{path} is not a JSON list of detections; it begins with {text[:20]!r}")
            at, ended = 1, False
            while True:
                while at < len(text) and text[at] in " \t\r\n,":
                    at += 1
                if text.startswith("]", at):
                    return
                try:
                    value, end = decoder.raw_decode(text, at)
                    if end == len(text) and not ended:
                        raise ValueError("a number may go on in the next piece")
                    yield value
                    at = end
                except (ValueError, RecursionError) as error:
                    more = file.read(CHUNK)
                    if isinstance(error, RecursionError) or not more or len(text) - at > 4 * CHUNK:
                        raise BadFeatures(f"{path} is cut off or not JSON: {error}; copy it again") from None
                    text, at = text[at:] + more, 0
    except UnicodeDecodeError as error:
        raise BadFeatures(f"{path} is not UTF-8: {error}; convert it") from None


def _detection(entry: Any, where: str) -> tuple[str, tuple[float, ...]]:
    box = entry.get("bbox", entry.get("box")) if isinstance(entry, dict) else None
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise BadFeatures(f"{where}: expected image_id, bbox of four numbers, category_id, score")
    category, score = entry.get("category_id", 0), entry.get("score", 1.0)
    if not isinstance(category, int) or not 0 <= category < 10_000 or not is_number(score):
        raise BadFeatures(f"{where}: category_id {str(category)[:20]} or score {str(score)[:20]} is not a valid number")
    return canonical_id(check_id(entry.get("image_id"), where)), (*map(float, box), float(category), float(score))


def _own_size(entry: dict[str, Any], sizes: dict[str, tuple[int, int]], image: str) -> bool:
    width, height = entry.get("width"), entry.get("height")
    if not (is_number(width) and is_number(height) and width >= 1 and height >= 1):
        return False
    sizes[image] = int(width), int(height)
    return True


def image_sizes(path: Path | None) -> dict[str, tuple[int, int]]:
    """Return (width, height) of images by their ids, of COCO's instances.json.

    Raises:
        MissingFile: no such file.
        BadAnnotation: it has no list of images.
    """
    if path is None:
        return {}
    existing(path, "--sizes names COCO's instances.json, or any file with its 'images'")
    try:
        images = json.loads(read_text(path, follow_links=True))["images"]
        return {canonical_id(str(image["id"])): (int(image["width"]), int(image["height"])) for image in images}
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise BadAnnotation(f"{path} has no list 'images' of id, width and height: {error}") from None
