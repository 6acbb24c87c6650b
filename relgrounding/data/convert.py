"""From the formats of features that people have to the library's two HDF5 layouts."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from relgrounding._files import HDF5, check_output
from relgrounding.data._convert_clips import Hdf5Clips, NpyClips
from relgrounding.data._convert_detections import Detections
from relgrounding.data._convert_output import Output
from relgrounding.data._convert_pca import Components, fit_components, load_components, save_components
from relgrounding.data._convert_regions import Hdf5Regions, NpzRegions, TsvRegions
from relgrounding.data._convert_sources import Entry, Item, Source
from relgrounding.data._errors import BadFeatures, MissingFile, Problems
from relgrounding.data._hdf5 import member, names, open_hdf5

__all__ = ["FORMATS", "Converted", "convert_features", "detect_format"]

FORMATS: dict[str, type[Source]] = {
    "npy": NpyClips,
    "hdf5-clips": Hdf5Clips,
    "tsv": TsvRegions,
    "npz": NpzRegions,
    "hdf5-regions": Hdf5Regions,
    "detections": Detections,
}


class Converted(NamedTuple):
    """What a conversion made.

    Args:
        layout: "clips" or "regions".
        items: videos or images.
        rows: clips or regions.
        dim: width of a feature.
        resumed: items that an interrupted conversion had written.
        skipped: items that were left out.
        variance: share that PCA kept; 1 without it.
    """

    layout: str
    items: int
    rows: int
    dim: int
    resumed: int
    skipped: int
    variance: float


def detect_format(path: Path) -> str:
    """Find out a format by looking.

    Args:
        path: file or folder.

    Returns:
        A key of `FORMATS`.

    Raises:
        MissingFile: no such file or folder.
        BadFeatures: it is none of the formats; the message says what it looks like.
    """
    if path.is_dir():
        endings = {suffix for suffix in ("npy", "npz") if any(path.glob(f"*.{suffix}"))}
        if len(endings) == 1:
            return endings.pop()
        found = "both" if endings else "neither"
        raise BadFeatures(f"{path} holds {found} of .npy and .npz files; name the format with --format")
    if not path.is_file():
        raise MissingFile(f"{path} not found; name a feature file, or the folder of such files")
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf5_format(path)
    if head.lstrip()[:1] == b"[":
        return "detections"
    if head.split(b"\n")[0].count(b"\t") >= 3:
        return "tsv"
    raise BadFeatures(
        f"{path} begins with {head[:16]!r}: no HDF5, no list in JSON and no table with tabs; is it another file, or "
        f"cut off? formats are {', '.join(FORMATS)}"
    )


def _hdf5_format(path: Path) -> str:
    with open_hdf5(path) as file:
        if member(file, "offsets", str(path)) is not None:
            return "hdf5-regions"
        inner = next((member(file, name, str(path)) for name in names(file, str(path))), None)
        several = isinstance(inner, h5py.Group) and len(names(inner, str(path))) > 1
        return "hdf5-regions" if several else "hdf5-clips"


def convert_features(
    source: str | Path,
    out: str | Path,
    format: str = "",
    *,
    pca: int | Path | None = None,
    float16: bool = False,
    box_format: str = "",
    sizes: Path | None = None,
    on_error: str = "stop",
    quiet: bool = True,
) -> Converted:
    """Convert features item by item; an interrupted call goes on where it was.

    Beside OUT appear OUT.sha256, and OUT.pca.npz where components were fitted. While it is being written there are
    OUT.part and OUT.journal; the same call goes on from these, after it has compared what they hold with its checksums.

    Args:
        source: file or folder.
        out: HDF5 file to make or to replace.
        format: key of `FORMATS`; empty: found out by looking.
        pca: number of principal components to keep, fitted on all rows in a pass of its own, or the file of components
            that an earlier conversion has left; None: features as they are.
        float16: halve the size of the file; numbers then have 11 significant bits, up to 65,504.
        box_format: "xyxy" or "xywh", of the source; empty: xywh for detections, else xyxy.
        sizes: COCO's instances.json, for detections whose images have no size.
        on_error: "stop" at the first item that cannot be used, or "skip" (a pass of its own finds them).
        quiet: without progress bars.

    Raises:
        DataError: the source cannot be used; see its kinds.
        ConfigError: OUT is a directory, the source itself, or a file of another kind.
    """
    source, out = Path(source), Path(out)
    format = format or detect_format(source)
    if format not in FORMATS:
        raise BadFeatures(f"unknown format {format!r}; formats are {', '.join(FORMATS)}")
    if box_format not in ("", "xyxy", "xywh"):
        raise BadFeatures(f"unknown box format {box_format!r}; use xyxy or xywh")
    problems = Problems(on_error)
    kind = FORMATS[format]
    box_format = box_format or ("xywh" if kind is Detections else "xyxy")
    opened = kind(source, problems, box_format, sizes)
    read = [source, *opened.files(), *(path for path in (sizes, pca) if isinstance(path, Path))]
    check_output(out, read, HDF5, (".part", ".journal", ".sha256", *([".pca.npz"] if isinstance(pca, int) else [])))
    entries = _usable(opened, problems, quiet)
    dim = _one_dim(entries, source)
    base = _fingerprint(opened, entries, {"format": format, "box_format": box_format})
    components, base = _components(pca, out, opened, entries, dim, base, quiet)
    if components is not None and len(components.mean) != dim:
        raise BadFeatures(f"{source} has features of width {dim}, the components are for {len(components.mean)}")
    dtype = "float16" if float16 or ({e.dtype for e in entries} == {"float16"} and components is None) else "float32"
    width = dim if components is None else components.matrix.shape[1]
    fingerprint = hashlib.sha256(f"{base} {dtype} {width}".encode()).hexdigest()
    attributes = {
        "description": f"{source.name}, converted from {format}" + (f", PCA {dim} to {width}" if components else "")
    }
    output = Output(out, opened.layout, entries, width, dtype, attributes, fingerprint)
    resumed = output.done
    try:
        for entry in _bar(entries[resumed:], "converting", quiet, len(entries), resumed):
            output.write(_changed(opened.read(entry), components, dtype, entry.id))
        output.finish()
    finally:
        output.close()
    share = components.share if components else 1.0
    rows = sum(entry.rows for entry in entries)
    return Converted(opened.layout, len(entries), rows, width, resumed, problems.total, share)


def _changed(item: Item, components: Components | None, dtype: str, key: str) -> Item:
    features = item.features if components is None else components(item.features)
    if features.dtype == dtype and components is None:
        return item  # whose reader has checked it
    with np.errstate(over="ignore"):
        features = features.astype(dtype)
    if not np.isfinite(features).all():
        raise BadFeatures(f"features of {key!r} are not finite in {dtype}; scale them, or leave out --float16")
    return item._replace(features=features)


def _usable(source: Source, problems: Problems, quiet: bool) -> list[Entry]:
    """Return the entries; where bad ones are skipped, each is read once to find these before the file is laid out."""
    entries = source.entries
    if problems.on_error == "skip":
        fine = []
        for entry in _bar(entries, "checking", quiet, len(entries)):
            with problems:
                source.read(entry)
                fine.append(entry)
        entries = fine
    if not entries:
        raise BadFeatures(f"{source.path} has no features that can be used; is it empty, or of another format?")
    return entries


def _one_dim(entries: list[Entry], source: Path) -> int:
    dim = entries[0].dim
    for entry in entries:
        if entry.dim != dim:
            raise BadFeatures(
                f"{source}: features of {entry.id!r} have width {entry.dim}, those of {entries[0].id!r} {dim}; "
                "one file holds one kind of features"
            )
    return dim


def _fingerprint(source: Source, entries: list[Entry], options: dict[str, str]) -> str:
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in source.files()]
    items = [(entry.id, entry.rows, entry.dim, entry.size) for entry in entries]
    return hashlib.sha256(json.dumps([options, stats, items]).encode()).hexdigest()


def _components(
    pca: int | Path | None, out: Path, source: Source, entries: list[Entry], dim: int, base: str, quiet: bool
) -> tuple[Components | None, str]:
    """Return the components to use and the fingerprint that they lead to; fitted ones are kept for a second start."""
    if pca is None:
        return None, base
    if not isinstance(pca, int):
        found = load_components(pca)[0]
        return found, hashlib.sha256(base.encode() + found.matrix.tobytes() + found.mean.tobytes()).hexdigest()
    base = f"{base} pca {pca}"
    kept = out.with_name(out.name + ".pca.npz")
    if kept.is_file():
        found, fingerprint = load_components(kept)
        if fingerprint == base:
            return found, base
    out.parent.mkdir(parents=True, exist_ok=True)
    blocks = (source.read(entry).features for entry in _bar(entries, "fitting PCA", quiet, len(entries)))
    found = fit_components(blocks, dim, pca)
    save_components(kept, found, base)
    return found, base


def _bar(entries: Iterable[Entry], desc: str, quiet: bool, total: int, initial: int = 0) -> Iterator[Entry]:
    return iter(tqdm(entries, desc=desc, unit="item", total=total, initial=initial, disable=quiet))
