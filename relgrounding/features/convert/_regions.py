"""Region features as they circulate: bottom-up-attention `.tsv`, one `.npz` per image, HDF5."""

import base64
import codecs
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relgrounding.features._regions import RegionFeatures, usable_boxes
from relgrounding.features.convert._hdf5 import Hdf5Source, Numbers, dataset_of
from relgrounding.features.convert._sources import (
    FEATURE_KEYS,
    Entry,
    Item,
    Source,
    check_finite,
    check_shape,
    corner_boxes,
    folder_files,
    line_at,
    lines_of,
    number_type,
    one_of,
    stem_id,
)
from relgrounding.io._errors import BadFeatures, check_id
from relgrounding.io._hdf5 import attribute, damage, member, names, read
from relgrounding.io._npy import member_header, read_member

LARGEST_SIDE = 2**31
"""Pixels."""
_TEN_BEGIN = ["image_id", "image_h", "image_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"]
TSV_COLUMNS = {
    6: ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"],
    10: [*_TEN_BEGIN, "num_boxes", "boxes", "features"],  # with objects and attributes
}
TSV_NAMES = {
    "image_id": ("image_id", "img_id"),
    "image_w": ("image_w", "img_w", "width"),
    "image_h": ("image_h", "img_h", "height"),
    "num_boxes": ("num_boxes",),
    "boxes": ("boxes", "bbox"),
    "features": ("features",),
}
BOX_KEYS = ("boxes", "bbox", "box", "bboxes")
SIZE_KEYS = (("image_w", "image_h"), ("width", "height"), ("image_width", "image_height"), ("img_w", "img_h"))


class RegionSource(Source):
    """Regions of images."""

    layout = "regions"

    def entry(
        self, name: str, boxes: np.ndarray, dim: int, dtype: str, at: Any, size: tuple[int, int], where: str
    ) -> Entry:
        """Return the entry of an image, after its boxes were looked at: those that cannot be proposals are left out.

        Args:
            name: id of the image.
            boxes: (rows, 4) x1 y1 x2 y2.
            dim: width of a feature.
            dtype: of the features.
            at: where the source finds it again.
            size: (width, height).
            where: file and image, for messages.

        Raises:
            BadFeatures: see `relgrounding.features._stores.usable_boxes`.
        """
        if not 1 <= min(size) <= max(size) <= LARGEST_SIDE:
            raise BadFeatures(f"{where}: its image is said to have {size[0]} x {size[1]} pixels; make it again")
        keep = usable_boxes(boxes, size, where, self.options.box_format)
        rows = int(keep.sum())
        if rows < len(keep):
            self.left_out += len(keep) - rows
            self.first = self.first or f"{where}, row {int(np.flatnonzero(~keep)[0])}"
        return Entry(name, rows, dim, dtype, at, size, None if rows == len(keep) else keep)

    def item(self, entry: Entry, features: np.ndarray, boxes: np.ndarray, where: str) -> Item:
        """Return an item without the boxes that are left out, after its features were checked."""
        features, boxes = features.reshape(entry.stored, entry.dim), boxes.reshape(entry.stored, 4)
        if entry.keep is not None:
            features, boxes = features[entry.keep], boxes[entry.keep]
        return Item(check_finite(features, where), boxes)

    def corners(self, boxes: np.ndarray) -> np.ndarray:
        """Return boxes as x1 y1 x2 y2."""
        return corner_boxes(boxes, self.options.box_format)


class TsvRegions(RegionSource):
    """Bottom-up attention: one line per image, its arrays in base64.

    The columns are those that a first line names, or else 6, or 10 with objects and attributes.
    """

    def index(self) -> Iterator[Entry]:
        """Yield the images in the order of their lines; of a line's arrays only the boxes are read."""
        self._columns: list[str] | None = None
        for at, number, line in lines_of(self.path):
            where = f"{self.path}, line {number}"
            if number == 1 and (columns := header_columns(line, where)):
                self._columns = columns
                continue
            with self.problems:
                yield self._entry(self._fields(line, where), (at, number), where)

    def read(self, entry: Entry) -> Item:
        """Return an image's regions."""
        at, number = entry.at
        where = f"{self.path}, line {number}"
        fields = self._fields(line_at(self.path, at), where)
        features = base64_numbers(fields["features"], (entry.stored, entry.dim), where)
        return self.item(
            entry, features, self.corners(base64_numbers(fields["boxes"], (entry.stored, 4), where)), where
        )

    def _fields(self, line: bytes, where: str) -> dict[str, bytes]:
        values = line.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n").split(b"\t")
        names = self._columns or TSV_COLUMNS.get(len(values))
        if names is None or len(names) != len(values):
            expected = " ".join(self._columns or TSV_COLUMNS[6])
            raise BadFeatures(f"{where} has {len(values)} columns, expected {expected} between tabs; is it cut off?")
        return dict(zip(names, values, strict=True))

    def _entry(self, fields: dict[str, bytes], at: tuple[int, int], where: str) -> Entry:
        try:
            name = fields["image_id"].decode("utf-8")
            rows, width, height = (int(fields[key]) for key in ("num_boxes", "image_w", "image_h"))
        except ValueError:
            raise BadFeatures(f"{where}: image_id is not UTF-8, or size or num_boxes no number") from None
        numbers = _base64_bytes(fields["features"]) // 4
        if rows < 1 or min(width, height) < 1 or _base64_bytes(fields["boxes"]) != rows * 16 or numbers % max(rows, 1):
            raise BadFeatures(f"{where}: {rows} boxes do not fit its arrays or size; is the line cut off?")
        rows, dim = check_shape((rows, numbers // rows), where, self.options.max_bytes)
        boxes = self.corners(base64_numbers(fields["boxes"], (rows, 4), where))
        return self.entry(check_id(name, where), boxes, dim, "float32", at, (width, height), where)


def header_columns(line: bytes, where: str) -> list[str] | None:
    """Return the columns that a first line names, by the names they have here; None: it is not such a line.

    Raises:
        BadFeatures: it names columns, but not those that are needed.
    """
    names = [name.strip().lower() for name in line.decode("utf-8-sig", "replace").split("\t")]
    if names[0] not in ("image_id", "img_id") and not {"num_boxes", "features"} <= set(names):
        return None
    found = [next((key for key, known in TSV_NAMES.items() if name in known), name) for name in names]
    if lacking := [key for key in TSV_NAMES if found.count(key) != 1]:
        raise BadFeatures(f"{where} names the columns {', '.join(names)[:200]}; expected {lacking[0]} once among them")
    return found


def base64_numbers(text: bytes | str, shape: tuple[int, int], where: str) -> np.ndarray:
    """Return float32 numbers that are written in base64.

    Raises:
        BadFeatures: it is not base64, or of another length.
    """
    with damage(where, "base64"):
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(shape)


def _base64_bytes(text: bytes) -> int:
    return len(text) * 3 // 4 - (text[-2:].count(b"=") if text else 0)


class NpzRegions(RegionSource):
    """`IMAGE.npz` each: `features` or `x`, `boxes` or `bbox`, and the image's width and height."""

    def index(self) -> Iterator[Entry]:
        """Yield the images by the names of their files."""
        self._files = folder_files(self.path, [".npz"], self.options.follow_links)
        for path in self._files:
            with self.problems, damage(str(path), "a NumPy archive"), zipfile.ZipFile(path) as archive:
                names = {name.removesuffix(".npy") for name in archive.namelist()}
                keys = [one_of(names, known, str(path)) for known in (FEATURE_KEYS, BOX_KEYS)]
                where = f"{path}, {keys[0]}"
                shape, dtype = member_header(archive, keys[0], str(path))
                boxes = self._boxes(archive, keys[1], path)
                # One tool that writes this format transposes the features.
                turned = len(shape) == 2 and shape[0] != len(boxes) and shape[1] == len(boxes)
                rows, dim = check_shape(shape[::-1] if turned else shape, where, self.options.max_bytes)
                if rows != len(boxes):
                    raise BadFeatures(f"{path} has {rows} features and {len(boxes)} boxes; make it again")
                size = self._size(archive, names, path)
                kind = number_type(dtype, where)
                yield self.entry(stem_id(path), boxes, dim, kind, (path, keys, turned), size, str(path))

    def read(self, entry: Entry) -> Item:
        """Return an image's regions."""
        path, keys, turned = entry.at
        with damage(str(path), "a NumPy archive"), zipfile.ZipFile(path) as archive:
            features = read_member(archive, keys[0], str(path), self.options.max_bytes)
            boxes = self._boxes(archive, keys[1], path)
            return self.item(entry, features.T if turned else features, boxes, str(path))

    def files(self) -> list[Path]:
        """Return every `.npz` file."""
        return self._files

    def _boxes(self, archive: zipfile.ZipFile, key: str, path: Path) -> np.ndarray:
        rows, width = check_shape(member_header(archive, key, str(path)).shape, f"{path}, {key}")
        if width != 4:
            raise BadFeatures(f"{path}, {key} has {width} numbers per box, expected 4; make it again")
        return self.corners(read_member(archive, key, str(path), self.options.max_bytes).reshape(rows, 4))

    def _size(self, archive: zipfile.ZipFile, names: set[str], path: Path) -> tuple[int, int]:
        pairs: list[Any] = [pair for pair in SIZE_KEYS if names.issuperset(pair)]
        values = [read_member(archive, key, str(path), 64).reshape(-1)[:1] for key in pairs[0]] if pairs else []
        if not values and "size" in names:
            values = list(read_member(archive, "size", str(path), 64).reshape(-1)[:2, None])
        if len(values) != 2 or not all(len(v) and np.isfinite(v[0]) and v[0] >= 1 for v in values):
            raise BadFeatures(
                f"{path} does not state the size of the image; add image_w and image_h, or size (width, height)"
            )
        return int(values[0][0]), int(values[1][0])


class Hdf5Regions(Hdf5Source, RegionSource):
    """The library's own flat ragged layout, to reduce it, or one group per image: `IMAGE/features`, `IMAGE/boxes`."""

    def _entries(self) -> Iterator[Entry]:
        if member(self._file, "offsets", str(self.path)) is not None:
            yield from self._flat()
            return
        for name in names(self._file, str(self.path)):
            where = f"{name!r} in {self.path}"
            with self.problems, damage(where):
                yield self._group_entry(name, where)

    def read(self, entry: Entry) -> Item:
        """Return an image's regions."""
        where = f"{entry.name!r} in {self.path}"
        with damage(where):
            features, boxes = (self.numbers(at, entry.stored, where) for at in entry.at)
            return self.item(entry, features, self.corners(boxes), where)

    def _flat(self) -> Iterator[Entry]:
        # The library's own file is x1 y1 x2 y2, whatever the boxes were that it was made from.
        self.options = self.options._replace(box_format="xyxy")
        store = RegionFeatures(self.path, in_memory=False)
        arrays = {name: dataset_of(self._file, name, str(self.path)) for name in ("features", "boxes")}
        kind = number_type(arrays["features"].dtype, f"features in {self.path}")
        counts = store.counts()
        boxes, begin = read(arrays["boxes"], (), f"boxes in {self.path}", self.options.max_bytes), 0
        for image, count, size in counts:
            with self.problems:
                where, rows = f"{image!r} in {self.path}", slice(begin, begin + count)
                check_shape((max(count, 1), store.dim), where, self.options.max_bytes)
                at = [Numbers(None, name, rows, array, begin) for name, array in arrays.items()]
                key = check_id(image, str(self.path))
                yield self.entry(key, self.corners(boxes[rows]), store.dim, kind, at, size, where)
            begin += count

    def _group_entry(self, name: str, where: str) -> Entry:
        group = member(self._file, name, str(self.path))
        if not isinstance(group, h5py.Group):
            raise BadFeatures(f"{where} is not a group of an image with features and boxes; name the format")
        present = set(names(group, where))
        pairs = ((self._scalar(group, w, where), self._scalar(group, h, where)) for w, h in SIZE_KEYS)
        sizes = next((pair for pair in pairs if None not in pair), None)
        width, height = map(int, sizes or read(dataset_of(group, "size", where), (), where).reshape(-1)[:2])
        features, boxes = (dataset_of(group, one_of(present, keys, where), where) for keys in (FEATURE_KEYS, BOX_KEYS))
        rows, dim = check_shape(features.shape or (), where, self.options.max_bytes)
        if boxes.shape != (rows, 4) or min(width, height) < 1:
            raise BadFeatures(f"{where}: its boxes are not ({rows}, 4), or its image has no size; make it again")
        at = [Numbers(name, array.name.rsplit("/", 1)[-1], (), array) for array in (features, boxes)]
        kind = number_type(features.dtype, where)
        content = read(boxes, (), where, self.options.max_bytes)
        return self.entry(check_id(name, where), self.corners(content), dim, kind, at, (width, height), where)

    def _scalar(self, group: h5py.Group, key: str, where: str) -> Any:
        """Return a number that is an attribute, or a dataset of one number (VL-T5's `img_w`), or None."""
        found = attribute(group, key, where)
        if found is None and isinstance(array := member(group, key, where), h5py.Dataset) and array.size == 1:
            found = read(array, (), where).reshape(-1)[0]
        return found
