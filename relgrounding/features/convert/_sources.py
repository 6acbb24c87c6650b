"""What every format of features has in common: a list of items whose sizes are known, read one at a time."""

import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from relgrounding.io._errors import BadFeatures, MissingFile, Problems, UnsafeFile, check_id
from relgrounding.io._ids import canonical_id
from relgrounding.io._npy import check_bytes
from relgrounding.io._regular import MAX_BYTES, check_regular

FEATURE_KEYS = ("features", "x", "feat", "feature")
LONGEST_LINE = 256 * 2**20


class Options(NamedTuple):
    """How a source is read; see `relgrounding.features.convert.convert_features`."""

    box_format: str = "xyxy"
    sizes: Path | None = None
    follow_links: bool = False
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True)
class Entry:
    """A video or image of a source.

    Args:
        id: of the video or image; `Source` makes it canonical.
        rows: clips or regions that are used; 0 for an image none of whose boxes can be used.
        dim: width of a feature.
        dtype: of the numbers in the source, float16 or float32; what is neither is read as float32.
        at: where the source finds it again.
        size: (width, height) of an image.
        keep: the rows that are used; None: all.
        name: the id as the source has it.
        duration: seconds of a video, where the source states them.
    """

    id: str
    rows: int
    dim: int
    dtype: str
    at: Any
    size: tuple[int, int] | None = None
    keep: np.ndarray | None = field(default=None, compare=False)
    name: str = ""
    duration: float | None = None

    @property
    def stored(self) -> int:
        """Rows in the source."""
        return self.rows if self.keep is None else len(self.keep)


class Item(NamedTuple):
    """What was read: (rows, dim) features and, for images, (rows, 4) boxes x1 y1 x2 y2 in pixels."""

    features: np.ndarray
    boxes: np.ndarray | None = None


class Source:
    """A file or folder of features in a format of its own.

    Args:
        path: of the file or folder.
        problems: what becomes of items that cannot be used.
        options: how it is read.

    Attributes:
        entries: of the items that can be used.
        left_out: boxes that cannot be proposals; those of images without any other count, too.
        without: images that have no other boxes.
        first: where the first such box is.
    """

    layout: ClassVar[str] = "clips"

    def __init__(self, path: Path, problems: Problems, options: Options) -> None:
        self.path, self.problems, self.options = path, problems, options
        self.entries: list[Entry] = []
        self.left_out, self.without, self.first = 0, 0, ""
        seen: dict[str, int] = {}
        for entry in self.index():
            key, name = canonical_id(entry.id), entry.name or entry.id
            if entry.rows == 0:
                self.without += 1
            elif key not in seen:
                seen[key] = len(self.entries)
                self.entries.append(replace(entry, id=key, name=name))
            else:
                first = self.entries[seen[key]]
                where = " and ".join(dict.fromkeys(str(self.path_of(one)) for one in (first, entry)))
                wrong = f"{name!r} comes twice; keep one of them"
                if first.name != name:
                    wrong = f"{first.name!r} and {name!r} both have the id {key!r}; rename or remove one of them"
                problems.add(BadFeatures(f"{where}: {wrong}"))

    def index(self) -> Any:
        """Yield the entries, in an order that does not change from call to call."""
        raise NotImplementedError

    def path_of(self, entry: Entry) -> Path:
        """Return the path of the source of an entry."""
        return self.path

    def read(self, entry: Entry) -> Item:
        """Return one item."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """Return the files that are read; their sizes and times tell whether the source is still the same."""
        return [self.path]

    def origin(self, reduced: bool = False) -> dict[str, Any]:
        """Return the attributes that stay true of converted features: a warning, and how they were extracted.

        Args:
            reduced: whether only their principal components are kept.
        """
        return {}


class Joined(Source):
    """Several sources of one layout, such as a file per split; no item may be in two of them."""

    def __init__(self, sources: Sequence[Source], problems: Problems) -> None:
        self._sources = sources
        layouts = {source.layout for source in sources}
        if len(layouts) > 1:
            raise BadFeatures(f"{sources[0].path} and the other files hold clips and regions; convert each by itself")
        self.layout = layouts.pop()  # type: ignore[misc]  # that of its sources
        super().__init__(sources[0].path, problems, sources[0].options)
        self.left_out, self.without = (sum(getattr(s, name) for s in sources) for name in ("left_out", "without"))
        self.first = next((source.first for source in sources if source.first), "")

    def index(self) -> Iterator[Entry]:
        """Yield the entries of each source after those of the one before."""
        for source in self._sources:
            for entry in source.entries:
                yield replace(entry, at=(source, entry))

    def path_of(self, entry: Entry) -> Path:
        """Return the path of the source that an entry is of."""
        source, _ = entry.at
        return source.path

    def read(self, entry: Entry) -> Item:
        """Return one item."""
        source, inner = entry.at
        return source.read(inner)

    def files(self) -> list[Path]:
        """Return the files of all sources."""
        return [path for source in self._sources for path in source.files()]

    def origin(self, reduced: bool = False) -> dict[str, Any]:
        """Return what is true of the features of all sources, and any warning."""
        first, *rest = (source.origin(reduced) for source in self._sources)
        same = {key: value for key, value in first.items() if all(other.get(key) == value for other in rest)}
        warnings = [said["warning"] for said in (first, *rest) if "warning" in said]
        return same | ({"warning": warnings[0]} if warnings else {})


def folder_files(folder: Path, suffixes: Sequence[str], follow_links: bool) -> list[Path]:
    """Return the files of a folder with an ending, in any case, by name; those whose name begins with a dot are not.

    Args:
        folder: or a single file, which is returned whatever its name.
        suffixes: in lower case.
        follow_links: whether links out of the folder are read.

    Raises:
        MissingFile: there are none.
        UnsafeFile: one of them is not a regular file, or a link out of the folder.
    """
    if not folder.is_dir():
        check_regular(folder)
        return [folder]
    root = folder.resolve()
    found = sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if not entry.name.startswith(".") and entry.name.lower().endswith(tuple(suffixes))
    )
    if not found:
        raise MissingFile(f"{folder} holds no *{suffixes[0]} file; name the folder that does")
    for path in found:
        if not follow_links and path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UnsafeFile(
                f"{path} is a link out of the folder; --follow-links reads it, if you trust what made the folder"
            )
        check_regular(path)
    return found


def lines_of(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield the offset, the number from 1 and the bytes of each line of a file that is not blank."""
    check_regular(path)
    with path.open("rb") as file:
        at = 0
        for number in itertools.count(1):
            line = file.readline(LONGEST_LINE)
            if not line:
                return
            if line.strip():
                yield at, number, line
            at = file.tell()


def line_at(path: Path, at: int) -> bytes:
    """Return the line at an offset."""
    with path.open("rb") as file:
        file.seek(at)
        return file.readline(LONGEST_LINE)


def one_of(held: Collection[str], known: Sequence[str], where: str) -> str:
    """Return the first known name that is held.

    Raises:
        BadFeatures: none of them is.
    """
    for key in known:
        if key in held:
            return key
    raise BadFeatures(f"{where} has none of {', '.join(known)}; it holds {', '.join(sorted(held))[:100]}")


def stem_id(path: Path) -> str:
    """Return the id that a file is named after."""
    return check_id(path.stem, str(path))


def number_type(dtype: np.dtype, where: str) -> str:
    """Return the type that numbers are kept in.

    Raises:
        BadFeatures: they are not numbers.
    """
    if dtype.kind not in "fiu":
        raise BadFeatures(f"{where} holds {dtype}, expected numbers; make the file again")
    return dtype.name if dtype.name in ("float16", "float32") else "float32"


def check_shape(shape: tuple[int, ...], where: str, limit: int = MAX_BYTES) -> tuple[int, int]:
    """Return (rows, dim) of features whose inner axes may be of length 1, as in (rows, 1, 1, dim).

    Raises:
        BadFeatures: another shape, no features, or more than `limit` bytes as float32.
    """
    if len(shape) < 2 or any(n != 1 for n in shape[1:-1]) or 0 in shape:
        raise BadFeatures(f"{where} has shape {shape}, expected (rows, dim); make the file again")
    check_bytes(shape, np.dtype(np.float32), where, limit)
    return shape[0], shape[-1]


def check_finite(features: np.ndarray, where: str) -> np.ndarray:
    """Return the features, or refuse NaN and infinity."""
    if not np.isfinite(features).all():
        raise BadFeatures(f"{where} holds NaN or infinity; extract it again, or leave it out with --on-error skip")
    return features


def corner_boxes(boxes: np.ndarray, box_format: str) -> np.ndarray:
    """Return boxes as float32 x1 y1 x2 y2; "xywh" boxes are converted."""
    boxes = np.array(boxes, dtype=np.float32)
    if box_format == "xywh":
        boxes[:, 2:] += boxes[:, :2]
    return boxes
