"""VinVL's `.tsv`: one line per image, its regions as JSON with arrays in base64."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from relgrounding.features.convert._regions import RegionSource, base64_numbers
from relgrounding.features.convert._sources import Entry, Item, check_shape, line_at, lines_of
from relgrounding.features.convert._tables import ImageSizes
from relgrounding.io._errors import BadFeatures, MissingFile, check_id
from relgrounding.io._hdf5 import damage
from relgrounding.io._values import is_number

LONGEST_JSON = 2**25
"""Small lists take twenty times the memory of their text."""
GEOMETRY = 6
"""Numbers at the end of a feature in `features.tsv`: x1/w, y1/h, x2/w, y2/h, width/w, height/h."""


class VinvlRegions(RegionSource):
    """`predictions.tsv` with features in it, or `features.tsv` beside the file that has its boxes.

    A line of the first is the image's key and `{"objects": [{"rect": [x1, y1, x2, y2], "feature": BASE64}, ...],
    "image_w", "image_h"}`, or the list alone; of the second the key, the number of boxes and base64, or the key and
    `{"num_boxes", "features": BASE64}`. Boxes are then those of `predictions.tsv` or `label.tsv` beside it
    (`train.feature.tsv`: `train.label.tsv`), in the same order.
    """

    def index(self) -> Iterator[Entry]:
        """Yield the images in the order of their lines."""
        self._beside: Path | None = None
        self._boxes: dict[str, tuple[np.ndarray, tuple[int, int] | None]] = {}
        sizes = ImageSizes(self)
        for at, number, line in lines_of(self.path):
            where = f"{self.path}, line {number}"
            with self.problems:
                key, features, found = self._parse(line, where)
                if found is None:
                    if self._beside is None:
                        self._read_boxes()
                    if key not in self._boxes:
                        raise BadFeatures(f"{where}: {self._beside} has no boxes of {key!r}")
                    found = self._boxes[key]
                boxes, size = found
                if len(boxes) != len(features):
                    raise BadFeatures(f"{where}: {len(features)} features and {len(boxes)} boxes; is it cut off?")
                _, dim = check_shape(features.shape, where, self.options.max_bytes)
                corners = self.corners(boxes)
                shares = features[:, -GEOMETRY:] if dim > GEOMETRY else None
                size = size or sizes(key, corners, shares)
                yield self.entry(check_id(key, where), corners, dim, "float32", (at, number), size, where)

    def read(self, entry: Entry) -> Item:
        """Return an image's regions."""
        at, number = entry.at
        where = f"{self.path}, line {number}"
        key, features, found = self._parse(line_at(self.path, at), where)
        boxes, _ = found or self._boxes[key]
        return self.item(entry, features, self.corners(boxes), where)

    def files(self) -> list[Path]:
        """Return the file, and the one that has its boxes."""
        return [self.path] + ([self._beside] if self._beside else [])

    def _parse(
        self, line: bytes, where: str
    ) -> tuple[str, np.ndarray, tuple[np.ndarray, tuple[int, int] | None] | None]:
        """Return the key, the features, and boxes and size where they are in this line."""
        key, *parts = _columns(line, where)
        if len(parts) == 2 and parts[0].isdigit() and len(parts[0]) < 7:
            return key, _features(parts[1], int(parts[0]), where), None
        content = _json(parts[-1], where)
        if isinstance(content, dict) and isinstance(content.get("features"), str):
            count = content.get("num_boxes")
            return key, _features(content["features"], count if isinstance(count, int) else 0, where), None
        objects, size = _objects(content, where)
        texts = [text for entry in objects if isinstance(text := entry.get("feature"), str)]
        if not objects or len(texts) < len(objects):
            raise BadFeatures(f"{where}: its objects have no 'feature'; name the features.tsv beside this file")
        with damage(where, "a list of equally long features"):
            features = np.concatenate([_features(text, 1, where) for text in texts])
        return key, features, (_rects(objects, where), size)

    def _read_boxes(self) -> None:
        name = self.path.name
        named = [name.replace("features", "label").replace("feature", "label"), "predictions.tsv", "label.tsv"]
        beside = [self.path.with_name(other) for other in named if other != name]
        self._beside = next((path for path in beside if path.exists()), None)
        if self._beside is None:
            raise MissingFile(f"{self.path} has no boxes; put {' or '.join(p.name for p in beside)} beside it")
        for _, number, line in lines_of(self._beside):
            where = f"{self._beside}, line {number}"
            key, *parts = _columns(line, where)
            objects, size = _objects(_json(parts[-1], where), where)
            self._boxes[key] = _rects(objects, where), size


def _columns(line: bytes, where: str) -> list[str]:
    try:
        found = line.decode("utf-8-sig").rstrip("\r\n").split("\t")
    except UnicodeDecodeError as error:
        raise BadFeatures(f"{where} is not UTF-8: {error}; copy it again") from None
    if len(found) not in (2, 3):
        raise BadFeatures(f"{where} has {len(found)} columns, expected 2 or 3 between tabs; is it cut off?")
    return found


def _json(text: str, where: str) -> Any:
    if len(text) > LONGEST_JSON:
        raise BadFeatures(f"{where} has {len(text):,} characters, more than {LONGEST_JSON:,}; is it one image?")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFeatures(f"{where} is cut off or not JSON: {str(error)[:200]}; copy it again") from None


def _objects(content: Any, where: str) -> tuple[list[dict[str, Any]], tuple[int, int] | None]:
    width, height = (content.get(key) if isinstance(content, dict) else None for key in ("image_w", "image_h"))
    objects = content.get("objects") if isinstance(content, dict) else content
    if not isinstance(objects, list) or not all(isinstance(entry, dict) for entry in objects):
        raise BadFeatures(f"{where} holds no list of objects; is it another file?")
    if not (is_number(width) and is_number(height) and min(width, height) >= 1):
        return objects, None
    return objects, (int(width), int(height))


def _rects(objects: list[dict[str, Any]], where: str) -> np.ndarray:
    rects = [entry.get("rect") for entry in objects]
    if not all(isinstance(rect, list) and len(rect) == 4 and all(map(is_number, rect)) for rect in rects):
        raise BadFeatures(f"{where}: an object has no 'rect' of four numbers; make it again")
    return np.array(rects, dtype=np.float64).reshape(len(rects), 4)


def _features(text: str, count: int, where: str) -> np.ndarray:
    if count < 1:
        raise BadFeatures(f"{where} has no number of boxes above 0; is it cut off?")
    return base64_numbers(text, (count, -1), where)
