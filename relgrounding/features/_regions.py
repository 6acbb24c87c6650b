"""Features of the regions of images, in the flat ragged layout (docs/features.md)."""

import os
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Float32

from relgrounding._printing import get_logger
from relgrounding.features._stores import IN_MEMORY_LIMIT, _Store
from relgrounding.io._errors import BadFeatures
from relgrounding.io._hdf5 import member, read, read_texts
from relgrounding.io._regular import MAX_BYTES

logger = get_logger("relgrounding.features")


class Regions(NamedTuple):
    """Regions of one image.

    Args:
        features: (regions, dim).
        boxes: (regions, 4) x1, y1, x2, y2 in pixels.
        size: (width, height) of the image in pixels.
    """

    features: Float32[np.ndarray, "regions dim"]
    boxes: Float32[np.ndarray, "regions 4"]
    size: tuple[int, int]


class RegionFeatures(_Store):
    """Region features of images: the flat ragged layout, all images' regions one after another.

    The file holds `features` (N, dim), `boxes` (N, 4) x1 y1 x2 y2 in pixels, `offsets` (images + 1), `ids` (images),
    `sizes` (images, 2) width, height; image i owns the rows offsets[i] to offsets[i + 1].

    A box without area, or whose centre lies outside of its image, is left out together with its feature.

    Args:
        path: HDF5 file.
        in_memory: read the whole file on first use; by default where file and content are under 512 MB.

    Attributes:
        left_out: how many boxes of the images that were read so far were left out.

    Raises:
        MissingFile: no such file.
        MissingFeatures: `store[id]` of an image that the file does not hold.
        BadFeatures: a dataset is missing, shapes disagree, or features are not finite.
    """

    states = "image sizes"
    _NAMES = ("features", "boxes", "offsets", "ids", "sizes")

    def _forget(self) -> None:
        super()._forget()
        self._ids: list[str] = []
        self._row: dict[str, int] | None = None
        self._data: dict[str, Any] = {}
        self._fine = set[int]()  # images in memory that need no further check
        self.left_out: dict[str, int] = {}

    @property
    def ids(self) -> list[str]:
        """Ids of the images, in the order of the file."""
        self._rows()
        return self._ids

    @property
    def dim(self) -> int:
        """Width of a region's feature."""
        self._rows()  # the file is checked before anything is read from it
        return self._check_width(int(self._member("features").shape[1]))

    def _check_width(self, width: int) -> int:
        if not width:
            raise BadFeatures(
                f"{self.path} holds boxes without features; extract images --boxes makes features of them"
            )
        return width

    def __getitem__(self, key: str) -> Regions:
        row = self._row_of(key)
        return self._read(row, self._ids[row])

    def _read(self, row: int, key: str) -> Regions:
        begin, end = self._data["offsets"][row : row + 2].tolist()
        features, boxes = self._part("features", begin, end), self._part("boxes", begin, end)
        boxes, size = np.array(boxes, dtype=np.float32), self._size(row)
        if row in self._fine:
            return Regions(np.array(features, dtype=np.float32), boxes, size)
        features = self._check(features, key)
        fine = usable_boxes(boxes, size, f"boxes of {key!r} in {self.path}")
        if not fine.all():
            features, boxes = self._leave_out(key, features, boxes, fine)
        return Regions(features, boxes, size)

    def _leave_out(self, key: str, features: np.ndarray, boxes: np.ndarray, fine: np.ndarray) -> list[np.ndarray]:
        row = int(np.flatnonzero(~fine)[0])
        what = f"{self.path}: row {row} of {key!r}, {boxes[row].tolist()}, has no area or lies outside of its image"
        if not fine.any():
            raise BadFeatures(f"{what}, and {key!r} has no other box; leave it out with data.on_error=skip")
        if not self.left_out:
            logger.warning("%s: left out; prepare.py verify counts all such boxes", what)
        self.left_out[key] = int((~fine).sum())
        return [features[fine], boxes[fine]]

    def counts(self) -> list[tuple[str, int, tuple[int, int]]]:
        """Return each image's id, number of regions and (width, height), in the order of the file."""
        return self._counts(self.ids)

    def _counts(self, ids: list[str]) -> list[tuple[str, int, tuple[int, int]]]:
        numbers = np.diff(self._data["offsets"]).tolist()
        sizes = self._data["sizes"].astype(np.int64).tolist()
        return [(key, count, (w, h)) for key, count, (w, h) in zip(ids, numbers, sizes, strict=True)]

    def count(self, key: str) -> int:
        """Return the number of regions that the file holds of an image.

        Raises:
            MissingFeatures: the file does not hold the image.
        """
        return self._count(self._row_of(key))

    def _count(self, row: int) -> int:
        begin, end = self._data["offsets"][row : row + 2].tolist()
        return end - begin

    def size(self, key: str) -> tuple[int, int]:
        """Return (width, height) of an image in pixels.

        Raises:
            MissingFeatures: the file does not hold the image.
        """
        return self._size(self._row_of(key))

    def _size(self, row: int) -> tuple[int, int]:
        width, height = map(int, self._data["sizes"][row])
        return width, height

    def _part(self, name: str, begin: int, end: int) -> np.ndarray:
        if self.in_memory:
            return self._data[name][begin:end]
        return read(self._member(name), slice(begin, end), f"{name} in {self.path}")

    def _member(self, name: str) -> h5py.Dataset:
        found = member(self._open(), name, str(self.path))
        if not isinstance(found, h5py.Dataset):
            raise BadFeatures(f"{self.path} lacks {name}; docs/features.md has the flat ragged layout")
        return found

    def _row_of(self, key: str) -> int:
        rows, found = self._rows(), self.find(key)
        if found is None:
            raise self._missing(key)
        return rows[found]

    def _rows(self) -> dict[str, int]:
        if self._row is None or (not self.in_memory and self._owner != os.getpid()):
            self._read_index()
        assert self._row is not None  # narrows the type for mypy
        return self._row

    def _read_index(self) -> None:
        file = self._open()
        self._read_arrays(file)
        self._ids = read_texts(member(file, "ids", str(self.path)), f"ids in {self.path}")
        self._row = {key: row for row, key in enumerate(self._ids)}
        if len(self._row) != len(self._ids):
            self._row = None
            raise BadFeatures(f"ids in {self.path} repeat: {len(self._ids)} ids, {len(set(self._ids))} different ones")

    def _read_arrays(self, file: h5py.File) -> None:
        """Read everything but the ids and, where they stay in the file, features and boxes."""
        missing = [name for name in self._NAMES if member(file, name, str(self.path)) is None]
        if missing:
            raise BadFeatures(
                f"{self.path} lacks {', '.join(missing)}; docs/features.md has the flat ragged layout, to which "
                "relgrounding prepare features converts others"
            )
        found = {name: self._member(name) for name in self._NAMES}
        if found["features"].ndim != 2:
            raise BadFeatures(f"features in {self.path} has shape {found['features'].shape}, expected (regions, dim)")
        if found["ids"].ndim != 1:
            raise BadFeatures(f"ids in {self.path} must hold one text per image; make the file again")
        n_images, n_regions = len(found["ids"]), len(found["features"])
        expected = {"boxes": (n_regions, 4), "offsets": (n_images + 1,), "sizes": (n_images, 2)}
        for name, shape in expected.items():
            if found[name].shape != shape:
                raise BadFeatures(f"{name} in {self.path} has shape {found[name].shape}, expected {shape}")
        if self._auto and found["features"].nbytes >= IN_MEMORY_LIMIT:
            self.in_memory = False  # packed, the file is smaller than what it holds
        wanted = [*expected, "features"] if self.in_memory else ["offsets", "sizes"]
        # A caller who asks for a large file in memory gets it.
        limit = MAX_BYTES if self._auto else max(MAX_BYTES, 2 * self.path.stat().st_size)
        self._data = {name: read(found[name], (), f"{name} in {self.path}", limit) for name in wanted}
        offsets, sizes = self._data["offsets"], self._data["sizes"]
        rising = offsets.dtype.kind in "iu" and (np.diff(offsets.astype(np.int64)) >= 0).all()
        if not rising or offsets[0] != 0 or offsets[-1] != n_regions:
            raise BadFeatures(f"offsets in {self.path} must rise from 0 to the number of regions, {n_regions}")
        if not (sizes >= 1).all() or not np.isfinite(sizes).all():
            raise BadFeatures(f"sizes in {self.path} must be widths and heights of 1 pixel or more")
        if self.in_memory:
            self._fine = set(np.flatnonzero(_surely_fine(**self._data)).tolist())


def usable_boxes(boxes: np.ndarray, size: tuple[int, int], where: str, box_format: str = "xyxy") -> np.ndarray:
    """Return which boxes can be proposals: those that have an area, and their centre in the image.

    Detectors do return a few others. What no detector returns is an error: then all boxes are suspect.

    Args:
        boxes: (n, 4) x1 y1 x2 y2.
        size: (width, height).
        where: file and image, for the message.
        box_format: that the boxes had before they became x1 y1 x2 y2.

    Returns:
        (n,) bool.

    Raises:
        BadFeatures: a box that is not finite, or whose corners are in the wrong order; two boxes or more, and more than
            half of them, outside of the image; boxes that are all within one pixel of the corner, as shares of the
            image would be.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        extent, centre = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
        wrong = ~np.isfinite(boxes).all(1)
        if box_format == "xyxy":
            wrong |= (extent < 0).any(1)
        outside = ~((centre >= 0) & (centre <= size)).all(1)
    image = f"an image of {size[0]} x {size[1]}"
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        advice = "is it x y width height? relgrounding prepare features --box-format xywh converts it"
        advice = advice if np.isfinite(boxes[row]).all() else "it is not finite: make the file again"
        raise BadFeatures(f"{where}: row {row}, {boxes[row].tolist()}, is not a box x1 y1 x2 y2 in {image}; {advice}")
    if outside.sum() > max(1, len(boxes) // 2):
        row = int(np.flatnonzero(outside)[0])
        raise BadFeatures(
            f"{where}: {outside.sum()} of {len(boxes)} boxes lie outside of {image}, such as row {row}, "
            f"{boxes[row].tolist()}; are the boxes in pixels of this image, and is this its width and height?"
        )
    fine = (extent > 0).all(1) & ~outside
    if fine.any() and boxes[fine].max() <= 1 and (min(size) > 2 or max(size) <= 1):
        raise BadFeatures(
            f"{where}: all boxes end within 1 pixel of {image}; shares of the image? multiply them by its width and "
            "height, and give those in pixels"
        )
    return fine


def _surely_fine(features: np.ndarray, boxes: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return which images have finite features and boxes that `usable_boxes` lets pass, all images at once.

    It may miss some: a sum of finite features may overflow, and boxes within the first pixel may be shares of one.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(features.sum(1, dtype=np.float32))
        start, end = np.hsplit(boxes.astype(np.float32), 2)
        centre, size = (start + end) / 2, np.repeat(sizes.astype(np.int64), np.diff(offsets.astype(np.int64)), axis=0)
        usable = (end > start) & (end > 1) & (centre >= 0) & (centre <= size)  # of infinite ones none is true
    failed = np.concatenate([[0], np.cumsum(~(finite & usable.all(1)))])
    return failed[offsets[1:]] == failed[offsets[:-1]]
