"""Region features in the formats that people have: bottom-up-attention `.tsv`, `.npz` an image, HDF5."""

import base64
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relgrounding.data._convert_sources import (
    Entry,
    Item,
    Source,
    check_finite,
    check_shape,
    corner_boxes,
    folder_files,
    number_type,
    stem_id,
)
from relgrounding.data._errors import BadFeatures, check_id
from relgrounding.data._hdf5 import (
    MOST_NUMBERS,
    attribute,
    damage,
    member,
    names,
    offset_of,
    open_hdf5,
    read,
    read_plain,
)
from relgrounding.data.features import RegionFeatures, check_boxes

LONGEST_LINE = 256 * 2**20
_TEN_BEGIN = ["image_id", "image_h", "image_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"]
TSV_COLUMNS = {
    6: ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"],
    10: [*_TEN_BEGIN, "num_boxes", "boxes", "features"],  # with objects and attributes
}
FEATURE_KEYS = ("features", "x", "feat", "feature")
BOX_KEYS = ("boxes", "bbox", "box", "bboxes")
SIZE_KEYS = (("image_w", "image_h"), ("width", "height"), ("image_width", "image_height"), ("img_w", "img_h"))


class RegionSource(Source):
    """Regions of images."""

    layout = "regions"

    def item(self, entry: Entry, features: np.ndarray, boxes: np.ndarray, place: str) -> Item:
        """Return an item after its features and boxes, x1 y1 x2 y2, were checked."""
        assert entry.size is not None  # every index of regions gives one
        check_boxes(boxes, entry.size, place)
        return Item(check_finite(features, place), boxes)

    def corners(self, boxes: np.ndarray) -> np.ndarray:
        """Return boxes as x1 y1 x2 y2."""
        return corner_boxes(boxes, self.box_format)


class TsvRegions(RegionSource):
    """Bottom-up attention: a line an image, its arrays in base64; 6 columns, or 10 with objects and attributes."""

    def index(self) -> Iterator[Entry]:
        """Yield the images in the order of their lines; a line's arrays are only measured."""
        with self.path.open("rb") as file:
            number = 0
            while True:
                at, number = file.tell(), number + 1
                line = file.readline(LONGEST_LINE)
                if not line:
                    return
                if line.strip() and not line.startswith((b"image_id\t", b"img_id\t")):
                    with self.problems:
                        place = f"{self.path}, line {number}"
                        fields = self._fields(line, place)
                        yield self._entry(fields, (at, number), place)

    def read(self, entry: Entry) -> Item:
        """Return an image's regions."""
        at, number = entry.at
        place = f"{self.path}, line {number}"
        with self.path.open("rb") as file:
            file.seek(at)
            fields = self._fields(file.readline(LONGEST_LINE), place)
        with damage(place, "base64"):
            boxes, features = (
                np.frombuffer(base64.b64decode(fields[name], validate=True), "<f4").reshape(entry.rows, width)
                for name, width in (("boxes", 4), ("features", entry.dim))
            )
        return self.item(entry, features, self.corners(boxes), place)

    def _fields(self, line: bytes, place: str) -> dict[str, bytes]:
        values = line.rstrip(b"\r\n").split(b"\t")
        names = TSV_COLUMNS.get(len(values))
        if names is None:
            raise BadFeatures(
                f"{place} has {len(values)} columns, expected {' '.join(TSV_COLUMNS[6])} between tabs; is it cut off?"
            )
        return dict(zip(names, values, strict=True))

    def _entry(self, fields: dict[str, bytes], at: tuple[int, int], place: str) -> Entry:
        try:
            name = fields["image_id"].decode("utf-8")
            rows, width, height = (int(fields[key]) for key in ("num_boxes", "image_w", "image_h"))
        except ValueError:
            raise BadFeatures(f"{place}: image_id is not UTF-8, or size or num_boxes no number") from None
        numbers = _base64_bytes(fields["features"]) // 4
        if rows < 1 or min(width, height) < 1 or _base64_bytes(fields["boxes"]) != rows * 16 or numbers % max(rows, 1):
            raise BadFeatures(f"{place}: {rows} boxes do not fit its arrays or size; is the line cut off?")
        rows, dim = check_shape((rows, numbers // rows), place)
        return Entry(check_id(name, place), rows, dim, "float32", at, (width, height))


def _base64_bytes(text: bytes) -> int:
    return len(text) * 3 // 4 - (text[-2:].count(b"=") if text else 0)


class NpzRegions(RegionSource):
    """`IMAGE.npz` each: `features` or `x`, `boxes` or `bbox`, and the image's width and height."""

    def index(self) -> Iterator[Entry]:
        """Yield the images by the names of their files."""
        self._files = folder_files(self.path, ".npz")
        for path in self._files:
            with self.problems, damage(str(path), "NumPy archive"), zipfile.ZipFile(path) as archive:
                names = {name.removesuffix(".npy") for name in archive.namelist()}
                keys = [_key(names, known, path) for known in (FEATURE_KEYS, BOX_KEYS)]
                shape, dtype = _npy_header(archive, keys[0])
                count, _ = check_shape(_npy_header(archive, keys[1])[0], f"{path}, {keys[1]}")
                # One tool that writes this format has the axes of features the other way round.
                turned = len(shape) == 2 and shape[0] != count and shape[1] == count
                rows, dim = check_shape(shape[::-1] if turned else shape, f"{path}, {keys[0]}")
                if rows != count:
                    raise BadFeatures(f"{path} has {rows} features and {count} boxes; make it again")
                size = _npz_size(archive, names, path)
                kind = number_type(dtype, f"{path}, {keys[0]}")
                yield Entry(stem_id(path, ".npz"), rows, dim, kind, (path, keys, turned), size)

    def read(self, entry: Entry) -> Item:
        """Return an image's regions."""
        path, keys, turned = entry.at
        with damage(str(path), "NumPy archive"), zipfile.ZipFile(path) as archive:
            features, boxes = (_npy(archive, key) for key in keys)
            features = (features.T if turned else features).reshape(entry.rows, entry.dim)
            boxes = boxes.reshape(entry.rows, 4)
        return self.item(entry, features, self.corners(boxes), str(path))

    def files(self) -> list[Path]:
        """Return every `.npz` file."""
        return self._files


def _key(names: set[str], known: tuple[str, ...], path: Path) -> str:
    for key in known:
        if key in names:
            return key
    raise BadFeatures(f"{path} has none of {', '.join(known)}; it holds {', '.join(sorted(names))[:100]}")


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    return shape, dtype


def _npy_header(archive: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(f"{key}.npy") as file:
        return _header(file)


def _npy(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    shape, dtype = _npy_header(archive, key)
    if int(np.prod(shape, dtype=object)) > MOST_NUMBERS or dtype.kind not in "fiu":
        raise BadFeatures(f"{key} claims shape {shape} of {dtype}; is the file damaged?")
    with archive.open(f"{key}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _npz_size(archive: zipfile.ZipFile, names: set[str], path: Path) -> tuple[int, int]:
    pairs: list[Any] = [pair for pair in SIZE_KEYS if names.issuperset(pair)]
    values = [_npy(archive, key).reshape(-1)[:1] for key in pairs[0]] if pairs else []
    if not values and "size" in names:
        values = list(_npy(archive, "size").reshape(-1)[:2, None])
    if len(values) != 2 or not all(len(v) and np.isfinite(v[0]) and v[0] >= 1 for v in values):
        raise BadFeatures(f"{path} says no size of the image; add image_w and image_h, or size (width, height)")
    return int(values[0][0]), int(values[1][0])


class Hdf5Regions(RegionSource):
    """The library's own flat ragged layout, to reduce, or a group an image: `IMAGE/features`, `IMAGE/boxes`."""

    def index(self) -> Iterator[Entry]:
        """Yield the images in the order of the file."""
        self._file, self._bytes = open_hdf5(self.path), self.path.open("rb", buffering=0)
        weakref.finalize(self, self._bytes.close)
        if member(self._file, "offsets", str(self.path)) is not None:
            yield from self._flat()
            return
        for name in names(self._file, str(self.path)):
            place = f"{name!r} in {self.path}"
            with self.problems, damage(place):
                yield self._group_entry(name, place)

    def read(self, entry: Entry) -> Item:
        """Return an image's regions."""
        place = f"{entry.id!r} in {self.path}"
        group, *arrays = entry.at
        if all(offset is not None for _, offset, _ in arrays):
            shapes = ((entry.rows, entry.dim), (entry.rows, 4))
            features, boxes = (
                read_plain(self._bytes, offset, shape, dtype, place)
                for shape, (_, offset, dtype) in zip(shapes, arrays, strict=True)
            )
        elif not group:
            features, boxes, _ = self._store[entry.id]
        else:
            found = member(self._file, group, place)
            features, boxes = (read(self._array(found, key, place), (), place) for key, _, _ in arrays)
        with damage(place):
            corners = self.corners(boxes.reshape(entry.rows, 4)) if group else boxes
            return self.item(entry, features.reshape(entry.rows, entry.dim), corners, place)

    def _flat(self) -> Iterator[Entry]:
        self._store, begin = RegionFeatures(self.path, in_memory=False), 0
        arrays = [(name, *_place(self._array(self._file, name, str(self.path)))) for name in ("features", "boxes")]
        kind = number_type(arrays[0][2], f"features in {self.path}")
        for image, count, size in self._store.counts():
            with self.problems:
                rows, dim = check_shape((count, self._store.dim), f"{image!r} in {self.path}")
                at = [
                    (name, None if offset is None else offset + begin * width * dtype.itemsize, dtype)
                    for (name, offset, dtype), width in zip(arrays, (dim, 4), strict=True)
                ]
                yield Entry(check_id(image, str(self.path)), rows, dim, kind, ("", *at), size)
            begin += count

    def _group_entry(self, name: str, place: str) -> Entry:
        group = member(self._file, name, str(self.path))
        if not isinstance(group, h5py.Group):
            raise BadFeatures(f"{place} is no group of an image with features and boxes; name the format")
        present = set(names(group, place))
        pairs = ((attribute(group, w, place), attribute(group, h, place)) for w, h in SIZE_KEYS)
        sizes = next((pair for pair in pairs if None not in pair), None)
        width, height = map(int, sizes or read(self._array(group, "size", place), (), place))
        keys = (_key(present, FEATURE_KEYS, Path(place)), _key(present, BOX_KEYS, Path(place)))
        features, boxes = (self._array(group, key, place) for key in keys)
        rows, dim = check_shape(features.shape or (), place)
        if boxes.shape != (rows, 4) or min(width, height) < 1:
            raise BadFeatures(f"{place}: its boxes are not ({rows}, 4), or its image has no size; make it again")
        at = (name, (keys[0], *_place(features)), (keys[1], *_place(boxes)))
        return Entry(check_id(name, place), rows, dim, number_type(features.dtype, place), at, (width, height))

    def _array(self, group: h5py.Group, key: str, place: str) -> h5py.Dataset:
        found = member(group, key, place)
        if not isinstance(found, h5py.Dataset):
            raise BadFeatures(f"{place} lacks {key}; expected features, boxes and size (width, height)")
        return found


def _place(dataset: h5py.Dataset) -> tuple[int | None, np.dtype]:
    return offset_of(dataset), dataset.dtype
