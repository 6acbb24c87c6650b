"""What every format of features has in common: a list of items whose sizes are known, read one at a time."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from relgrounding.data._errors import BadFeatures, MissingFile, Problems, UnsafeFile, check_id
from relgrounding.data._hdf5 import MOST_NUMBERS


@dataclass(frozen=True)
class Entry:
    """A video or image of a source.

    Args:
        id: of the video or image.
        rows: clips or regions.
        dim: width of a feature.
        dtype: of the numbers in the source, float16 or float32; what is neither is read as float32.
        at: where the source finds it again.
        size: (width, height) of an image.
    """

    id: str
    rows: int
    dim: int
    dtype: str
    at: Any
    size: tuple[int, int] | None = None


class Item(NamedTuple):
    """What was read: (rows, dim) features and, for images, (rows, 4) boxes x1 y1 x2 y2 in pixels."""

    features: np.ndarray
    boxes: np.ndarray | None = None


class Source:
    """A file or folder of features in a format of its own.

    Args:
        path: of the file or folder.
        problems: what becomes of items that cannot be used.
        options: see `relgrounding.data.convert.convert_features`.
    """

    layout: ClassVar[str] = "clips"

    def __init__(self, path: Path, problems: Problems, box_format: str = "xyxy", sizes: Path | None = None) -> None:
        self.path, self.problems = path, problems
        self.box_format, self.sizes = box_format, sizes
        self.entries: list[Entry] = []
        seen: set[str] = set()
        for entry in self.index():
            if entry.id in seen:
                problems.add(BadFeatures(f"{path}: {entry.id!r} comes twice; keep one of them"))
            else:
                seen.add(entry.id)
                self.entries.append(entry)

    def index(self) -> Any:
        """Yield the entries, in an order that does not change from call to call."""
        raise NotImplementedError

    def read(self, entry: Entry) -> Item:
        """Return one item."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """Return the files that are read; their sizes and times tell whether the source is still the same."""
        return [self.path]


def folder_files(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a folder with an ending, by name.

    Raises:
        MissingFile: there are none.
        UnsafeFile: one of them is a link out of the folder.
    """
    root = folder.resolve()
    found = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(suffix))
    if not found:
        raise MissingFile(f"{folder} holds no *{suffix} file; name the folder that does")
    for path in found:
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UnsafeFile(f"{path} is a link out of the folder; copy what it points to, or name that folder")
    return found


def stem_id(path: Path, suffix: str) -> str:
    """Return the id that a file is named after; COCO's file names stand for their image number."""
    name = path.name[: -len(suffix)]
    for ending in (".jpg", ".jpeg", ".png", ".mp4", ".avi", ".mkv"):
        name = name.removesuffix(ending)
    if name.startswith("COCO_") and name[-12:].isdigit():
        name = str(int(name[-12:]))
    return check_id(name, str(path))


def number_type(dtype: np.dtype, place: str) -> str:
    """Return the type that numbers are kept in.

    Raises:
        BadFeatures: they are no numbers.
    """
    if dtype.kind not in "fiu":
        raise BadFeatures(f"{place} holds {dtype}, expected numbers; make the file again")
    return dtype.name if dtype.name in ("float16", "float32") else "float32"


def check_shape(shape: tuple[int, ...], place: str) -> tuple[int, int]:
    """Return (rows, dim) of features whose inner axes may be of length 1, as in (rows, 1, 1, dim).

    Raises:
        BadFeatures: another shape, no features, or more than fit in memory.
    """
    if len(shape) < 2 or any(n != 1 for n in shape[1:-1]) or 0 in shape:
        raise BadFeatures(f"{place} has shape {shape}, expected (rows, dim); make the file again")
    if shape[0] * shape[-1] > MOST_NUMBERS:
        raise BadFeatures(f"{place} claims shape {shape}: too large for one item; is the file damaged?")
    return shape[0], shape[-1]


def check_finite(features: np.ndarray, place: str) -> np.ndarray:
    """Return the features, or refuse NaN and infinity."""
    if not np.isfinite(features).all():
        raise BadFeatures(f"{place} holds NaN or infinity; extract it again, or leave it out with --on-error skip")
    return features


def corner_boxes(boxes: np.ndarray, box_format: str) -> np.ndarray:
    """Return boxes as float32 x1 y1 x2 y2; "xywh" boxes are converted."""
    boxes = np.array(boxes, dtype=np.float32)
    if box_format == "xywh":
        boxes[:, 2:] += boxes[:, :2]
    return boxes
