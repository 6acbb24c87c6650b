"""Writers of the two layouts of features in HDF5 files (docs/features.md)."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relgrounding._files import replacing
from relgrounding.features._regions import Regions
from relgrounding.io._errors import BadFeatures

__all__ = ["write_clip_features", "write_region_features"]


def write_clip_features(
    path: str | Path,
    items: Iterable[tuple[str, np.ndarray]],
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write clip features, one float16 dataset per video; the file appears whole or not at all.

    Args:
        path: HDF5 file to make or to replace.
        items: (video id, (clips, dim) features), one after another; ids without "/".
        attributes: where the features come from, how they were made.

    Raises:
        BadFeatures: an id that HDF5 would read as a path, or that repeats; features not finite in float16.
    """
    with _new_file(path) as file:
        file.attrs.update(attributes or {})
        for key, features in items:
            if not key or "/" in key or key in (".", ".."):
                raise BadFeatures(f"{key!r} cannot name a dataset; use ids without '/'")
            if key in file:
                raise BadFeatures(f"video id {key!r} comes twice; give each video once")
            file.create_dataset(key, data=_half(features, key))


def write_region_features(
    path: str | Path, items: Iterable[tuple[str, Regions]], attributes: Mapping[str, Any] | None = None
) -> None:
    """Write region features in the flat ragged layout, float16; the file appears whole or not at all.

    Args:
        path: HDF5 file to make or to replace.
        items: (image id, its regions), one after another.
        attributes: where the features come from, how they were made.

    Raises:
        BadFeatures: no images, an id that repeats, features and boxes of different length, features not finite in
            float16.
    """
    ids: list[str] = []
    parts: list[tuple[np.ndarray, np.ndarray, tuple[int, int]]] = []
    for key, regions in items:
        if len(regions.features) != len(regions.boxes):
            raise BadFeatures(f"image {key!r} has {len(regions.features)} features and {len(regions.boxes)} boxes")
        ids.append(key)
        parts.append((_half(regions.features, key), regions.boxes, regions.size))
    if not ids:
        raise BadFeatures("no images to write")
    if len(set(ids)) != len(ids):
        repeated = next(key for key in ids if ids.count(key) > 1)
        raise BadFeatures(f"image id {repeated!r} comes twice; give each image once")
    with _new_file(path) as file:
        file.attrs.update(attributes or {})
        file["features"] = np.concatenate([features for features, _, _ in parts])
        file["boxes"] = np.concatenate([boxes for _, boxes, _ in parts]).astype(np.float32)
        file["offsets"] = np.cumsum([0, *(len(boxes) for _, boxes, _ in parts)], dtype=np.int64)
        file["sizes"] = np.asarray([size for _, _, size in parts], dtype=np.int64)
        file.create_dataset("ids", data=ids, dtype=h5py.string_dtype())


def _half(features: np.ndarray, key: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = np.asarray(features).astype(np.float16)
    if not np.isfinite(half).all():
        raise BadFeatures(f"features of {key!r} are not finite in float16 (largest number 65,504); scale them first")
    return half


@contextlib.contextmanager
def _new_file(path: str | Path) -> Iterator[h5py.File]:
    with replacing(Path(path)) as beside, h5py.File(beside, "w") as file:
        yield file
