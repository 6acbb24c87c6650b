"""Region features in HDF5 tables: BAN's and bottom-up-attention-vqa's, with an index beside them; meshed-memory's."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from relgrounding._printing import get_logger
from relgrounding.features.convert._detections import image_sizes
from relgrounding.features.convert._hdf5 import Numbers, dataset_of
from relgrounding.features.convert._regions import Hdf5Regions, RegionSource
from relgrounding.features.convert._sources import Entry, check_shape, number_type
from relgrounding.io._errors import BadFeatures, check_id
from relgrounding.io._hdf5 import damage, member, names, read
from relgrounding.io._ids import canonical_id
from relgrounding.io._pickle import load_plain_pickle
from relgrounding.io._regular import existing

logger = get_logger("relgrounding.features")
INDEX = "_imgid2idx.pkl"


class ImageSizes:
    """Sizes of images where their features come without, or with some only.

    Args:
        source: whose `--sizes` come first.
    """

    def __init__(self, source: RegionSource) -> None:
        self._path, self._known, self._told = source.path, image_sizes(source.options.sizes), False

    def __call__(self, name: str, boxes: np.ndarray, shares: np.ndarray | None = None) -> tuple[int, int]:
        """Return (width, height): as given, or by the same boxes as shares of the image, or else what the boxes cover.

        Args:
            name: id of the image.
            boxes: (n, 4) x1 y1 x2 y2 in pixels.
            shares: (n, 4 or more) the same, divided by the image's width and height.
        """
        if (known := self._known.get(canonical_id(name))) is not None:
            return known
        if shares is not None and (found := _size_of_shares(boxes, shares[:, :4])):
            return found
        if not self._told:
            logger.warning(
                "%s holds no sizes of images: they are taken to end where their outermost boxes end; "
                "--sizes instances.json gives the true ones",
                self._path,
            )
            self._told = True
        width, height = np.ceil(np.maximum(boxes[:, 2:].max(0), 1)).astype(int).tolist()
        return width, height


def _size_of_shares(boxes: np.ndarray, shares: np.ndarray) -> tuple[int, int] | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        width, height = (float(np.median((boxes / shares)[:, axis])) for axis in (2, 3))
    if not 1 <= min(width, height) <= max(width, height) < 1e6:
        return None
    size = round(width), round(height)
    return size if np.allclose(shares * (*size, *size), boxes, rtol=1e-3, atol=1) else None


class TableRegions(Hdf5Regions):
    """`image_features`, `image_bb` and, where images have different numbers of regions, `pos_boxes`, of all images.

    The ids are in a pickle beside it, `NAME_imgid2idx.pkl`: a dict from id to the image's number.
    """

    def _entries(self) -> Iterator[Entry]:
        sizes, shares = ImageSizes(self), None
        features, boxes = (dataset_of(self._file, key, str(self.path)) for key in ("image_features", "image_bb"))
        kind = number_type(features.dtype, f"image_features in {self.path}")
        every = self._whole(boxes)
        if isinstance(member(self._file, "spatial_features", str(self.path)), h5py.Dataset):
            shares = self._whole(dataset_of(self._file, "spatial_features", str(self.path)))
        begins = self._begins(features)
        if boxes.ndim != features.ndim or boxes.shape[:-1] != features.shape[:-1] or boxes.shape[-1] != 4:
            raise BadFeatures(f"{self.path}: image_features {features.shape} and image_bb {boxes.shape} do not fit")
        for name, number in self._numbers_of_images(len(begins)):
            with self.problems:
                rows, where = slice(*begins[number].tolist()), f"{name!r} in {self.path}"
                corners = self.corners(every[rows].reshape(-1, 4))
                at = [
                    Numbers(None, key, rows, array)
                    for key, array in (("image_features", features), ("image_bb", boxes))
                ]
                shape = (len(corners), features.shape[-1])
                _, dim = check_shape(shape, where, self.options.max_bytes)
                share = None if shares is None else shares[rows].reshape(len(corners), -1)
                yield self.entry(name, corners, dim, kind, at, sizes(name, corners, share), where)

    def files(self) -> list[Path]:
        """Return the table and its index."""
        return [self.path, self._index]

    @property
    def _index(self) -> Path:
        return self.path.with_name(self.path.stem + INDEX)

    def _whole(self, dataset: h5py.Dataset) -> np.ndarray:
        return read(dataset, (), f"{dataset.name} in {self.path}", self.options.max_bytes)

    def _begins(self, features: h5py.Dataset) -> np.ndarray:
        """Return (images, 2) first row of each image, and the row behind its last."""
        if features.ndim == 3:
            return np.arange(len(features))[:, None] + (0, 1)
        if features.ndim != 2:
            raise BadFeatures(f"{self.path}: image_features has shape {features.shape}, expected (regions, dim)")
        found = self._whole(dataset_of(self._file, "pos_boxes", str(self.path)))
        fits = found.ndim == 2 and found.shape[1] == 2 and found.dtype.kind in "iu"
        if (
            not fits
            or (found[:, 0] > found[:, 1]).any()
            or found.min(initial=0) < 0
            or found.max(initial=0) > len(features)
        ):
            raise BadFeatures(f"{self.path}: pos_boxes are not the first and last rows of images; make the file again")
        return found.astype(np.int64)

    def _numbers_of_images(self, images: int) -> list[tuple[str, int]]:
        existing(self._index, f"{self.path} states no ids, they are in this file beside it")
        found = load_plain_pickle(self._index)
        if not isinstance(found, dict) or not all(isinstance(n, int) and 0 <= n < images for n in found.values()):
            raise BadFeatures(f"{self._index} is not a dict from ids to numbers below {images}; is it of another file?")
        return sorted(((check_id(key, str(self._index)), number) for key, number in found.items()), key=lambda x: x[1])


class PrefixRegions(Hdf5Regions):
    """Meshed-memory: `ID_features`, `ID_boxes` and, where it is there, `ID_size`: height, width."""

    def _entries(self) -> Iterator[Entry]:
        sizes = ImageSizes(self)
        present = names(self._file, str(self.path))
        for key in (name for name in present if name.endswith("_features")):
            name = key.removesuffix("_features")
            where = f"{name!r} in {self.path}"
            with self.problems, damage(where):
                features, boxes = (dataset_of(self._file, f"{name}_{part}", where) for part in ("features", "boxes"))
                rows, dim = check_shape(features.shape or (), where, self.options.max_bytes)
                if boxes.shape != (rows, 4):
                    raise BadFeatures(f"{where}: its boxes are not ({rows}, 4); make it again")
                corners = self.corners(read(boxes, (), where, self.options.max_bytes))
                if isinstance(array := member(self._file, f"{name}_size", where), h5py.Dataset):
                    height, width = map(int, read(array, (), where).reshape(-1)[:2])
                    if min(width, height) < 1:
                        raise BadFeatures(f"{where}: its image has the size {width} x {height}; make it again")
                else:
                    width, height = sizes(name, corners)
                at = [Numbers(None, array.name[1:], (), array) for array in (features, boxes)]
                yield self.entry(
                    check_id(name, where), corners, dim, number_type(features.dtype, where), at, (width, height), where
                )
