"""From the formats that features circulate in to the library's two HDF5 layouts."""

import hashlib
import json
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from relgrounding._files import local_only
from relgrounding._printing import get_logger, progress
from relgrounding._signals import look
from relgrounding.features.convert._clips import Hdf5Clips, NpyClips, NpzClips, PtClips
from relgrounding.features.convert._detections import Detections
from relgrounding.features.convert._output import Output
from relgrounding.features.convert._pca import Components, fit_components, load_components, save_components
from relgrounding.features.convert._regions import BOX_KEYS, Hdf5Regions, NpzRegions, TsvRegions
from relgrounding.features.convert._shards import Target, check_targets, split
from relgrounding.features.convert._sources import Entry, Item, Joined, Options, Source, folder_files
from relgrounding.features.convert._tables import PrefixRegions, TableRegions
from relgrounding.features.convert._vinvl import VinvlRegions
from relgrounding.features.shards import MADE_OF, SHARD, check_complete, is_store, read_index
from relgrounding.io._errors import BadFeatures, Problems
from relgrounding.io._hdf5 import damage, member, names, open_hdf5
from relgrounding.io._regular import MAX_BYTES, check_regular, existing

__all__ = ["FORMATS", "Converted", "convert_features", "detect_format", "open_source"]

logger = get_logger("relgrounding.features")

FORMATS: dict[str, type[Source]] = {
    "npy": NpyClips,
    "npz-clips": NpzClips,
    "pt": PtClips,
    "hdf5-clips": Hdf5Clips,
    "tsv": TsvRegions,
    "vinvl": VinvlRegions,
    "npz": NpzRegions,
    "hdf5-regions": Hdf5Regions,
    "hdf5-table": TableRegions,
    "hdf5-prefix": PrefixRegions,
    "detections": Detections,
}
FILE_AN_ITEM = (".npy", ".npz", ".pt")
FILE_OF_MANY = (".h5", ".hdf5", ".hdf", ".tsv")


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
        boxes_left_out: boxes of no area, or outside of their image.
        images_left_out: images that have no other box.
        complete: whether the output is; false where other shards are still to be made.
    """

    layout: str
    items: int
    rows: int
    dim: int
    resumed: int
    skipped: int
    variance: float
    boxes_left_out: int = 0
    images_left_out: int = 0
    complete: bool = True


def detect_format(path: Path, follow_links: bool = False) -> str:
    """Detect a format from the content.

    Args:
        path: file or folder.
        follow_links: whether links out of a folder are read.

    Returns:
        A key of `FORMATS`.

    Raises:
        MissingFile: no such file or folder.
        UnsafeFile: it is not a regular file, or a link out of its folder.
        BadFeatures: no format fits; the message says what the file looks like.
    """
    if path.is_dir():
        endings = _endings(path)
        if not (endings <= set(FILE_OF_MANY) or len(endings) == 1) or not endings:
            found = f"files of several kinds, {', '.join(sorted(endings))}" if endings else "no feature files"
            raise BadFeatures(
                f"{path} holds {found}: expected one kind of {', '.join(FILE_AN_ITEM + FILE_OF_MANY)}; "
                "name the format with --format"
            )
        return detect_format(folder_files(path, tuple(endings), follow_links)[0])
    check_regular(existing(path, "name a feature file, or the folder of such files"))
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf5_format(path)
    if path.suffix.lower() in FILE_AN_ITEM or head.startswith((b"\x93NUMPY", b"PK\x03\x04")):
        return _item_format(path, head)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        return "detections"
    columns = head.split(b"\n")[0].split(b"\t")
    if len(columns) > 3:
        return "tsv"
    if len(columns) > 1 and (columns[1][:1] in (b"{", b"[") or (len(columns) == 3 and columns[1].isdigit())):
        return "vinvl"
    raise BadFeatures(
        f"{path} begins with {head[:16]!r}: no HDF5, no list in JSON and no table with tabs; is it another file, or "
        f"cut off? formats are {', '.join(FORMATS)}"
    )


def _endings(folder: Path) -> set[str]:
    seen = {path.suffix.lower() for path in folder.iterdir() if not path.name.startswith(".")}
    return seen & {*FILE_AN_ITEM, *FILE_OF_MANY}


def _item_format(path: Path, head: bytes) -> str:
    if not head.startswith(b"PK\x03\x04"):
        return "pt" if path.suffix.lower() == ".pt" else "npy"
    with damage(str(path), "a NumPy archive"), zipfile.ZipFile(path) as archive:
        held = {Path(name).stem for name in archive.namelist() if name.endswith(".npy")}
    return "pt" if not held else "npz" if held & set(BOX_KEYS) else "npz-clips"


def _hdf5_format(path: Path) -> str:
    with open_hdf5(path) as file:
        held = names(file, str(path))
        if "offsets" in held:
            return "hdf5-regions"
        if {"image_features", "image_bb"} <= set(held):
            return "hdf5-table"
        first = next((name for name in held if name.endswith("_features")), None)
        if first and first.removesuffix("_features") + "_boxes" in held:
            return "hdf5-prefix"
        inner = member(file, held[0], str(path)) if held else None
        several = isinstance(inner, h5py.Group) and len(names(inner, str(path))) > 1
        return "hdf5-regions" if several else "hdf5-clips"


def open_source(
    paths: Sequence[Path], format: str = "", problems: Problems | None = None, options: Options | None = None
) -> tuple[Source, str]:
    """Open features of any format for reading.

    Args:
        paths: files or folders; several of them make one source.
        format: key of `FORMATS`; empty: detected from the content.
        problems: what becomes of items that cannot be used; None: the first one stops.
        options: how they are read; without a box format it is xywh for detections, else xyxy.

    Returns:
        The source, and its format.

    Raises:
        DataError: it cannot be used.
    """
    problems, options = problems or Problems(), options or Options("")
    files = []
    for path in paths:
        if is_store(path):
            files += [path / shard.file for shard in read_index(path).shards if shard.items]
            continue
        many = path.is_dir() and not _one_item_a_file(format)
        if many and (format or set() < _endings(path) <= set(FILE_OF_MANY)):
            found = folder_files(path, FILE_OF_MANY, options.follow_links)
            check_complete(path, [file.name for file in found if file.name.startswith(SHARD)])
            files += found
        else:
            files.append(path)
    formats = [format or detect_format(path, options.follow_links) for path in files]
    if len(files) > 1 and "detections" in formats:
        raise BadFeatures("detections of several files would not have the same categories; join the lists in one file")
    sources = []
    for path, name in zip(files, formats, strict=True):
        boxes = options.box_format or ("xywh" if name == "detections" else "xyxy")
        sources.append(FORMATS[name](path, problems, options._replace(box_format=boxes)))
    return (sources[0] if len(sources) == 1 else Joined(sources, problems)), "+".join(sorted(set(formats)))


def _one_item_a_file(format: str) -> bool:
    return format in FORMATS and issubclass(FORMATS[format], NpyClips | NpzRegions)


def convert_features(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    format: str = "",
    *,
    pca: int | Path | None = None,
    float16: bool = False,
    box_format: str = "",
    sizes: Path | None = None,
    on_error: str = "stop",
    follow_links: bool = False,
    max_bytes: int = MAX_BYTES,
    quiet: bool = True,
    shards: int = 0,
    wanted: Collection[int] = (),
    replace: bool = False,
) -> Converted:
    """Convert features item by item; an interrupted call resumes where it stopped.

    Beside OUT appear OUT.sha256, and OUT.pca.npz where components were fitted. While it is being written there are
    OUT.part and OUT.journal; the same call resumes from these, after comparing their content with its checksums.

    Args:
        source: file or folder, or several, such as a file per split; no item may be in two of them.
        out: HDF5 file to make or to replace.
        format: key of `FORMATS`; empty: detected from the content.
        pca: number of principal components to keep, fitted on all rows in a pass of its own, or the file of components
            that an earlier conversion has left; None: features as they are.
        float16: halve the size of the file; numbers then have 11 significant bits, up to 65,504.
        box_format: "xyxy" or "xywh", of the source; empty: xywh for detections, else xyxy.
        sizes: COCO's instances.json, for images whose size is not with their features.
        on_error: "stop" at the first item that cannot be used, or "skip" (a pass of its own finds them). A box of no
            area, or outside of its image, costs neither: it is left out, and counted.
        follow_links: read links out of a folder of features, as the caches of model hubs are made of.
        max_bytes: of one array in memory, whatever a file declares.
        quiet: without progress bars.
        shards: number of shards of a feature store, whose folder OUT is then; 0: one file.
        wanted: numbers of the shards to make, from 1; empty: all. The call that finds all shards there makes the index.
        replace: make the wanted shards also where OUT holds others of other files, or with other settings.

    Raises:
        DataError: the source cannot be used, see its kinds; OUT was begun with another one, or with other settings.
        ConfigError: OUT is a directory, the source itself, or a file of another kind.
    """
    paths = [local_only(path, "IN") for path in ([source] if isinstance(source, str | Path) else source)]
    out = local_only(out, "OUT")
    if format and format not in FORMATS:
        raise BadFeatures(f"unknown format {format!r}; formats are {', '.join(FORMATS)}")
    if box_format not in ("", "xyxy", "xywh"):
        raise BadFeatures(f"unknown box format {box_format!r}; use xyxy or xywh")
    problems = Problems(on_error)
    opened, format = open_source(paths, format, problems, Options(box_format, sizes, follow_links, max_bytes))
    read = [*paths, *opened.files(), *(path for path in (sizes, pca) if isinstance(path, Path))]
    making = check_targets(out, shards, wanted, read, isinstance(pca, int))
    entries = _usable(opened, problems, quiet)
    _check_left_out(opened, entries)
    dim = _one_dim(entries, paths[0])
    options = {"format": format, "box_format": opened.options.box_format}
    base = content = _fingerprint(opened, entries, options)
    components, base = _components(pca, out, opened, entries, dim, base, quiet)
    if components is not None and len(components.mean) != dim:
        raise BadFeatures(f"{paths[0]} has features of width {dim}, the components are for {len(components.mean)}")
    dtype = "float16" if float16 or ({e.dtype for e in entries} == {"float16"} and components is None) else "float32"
    width = dim if components is None else components.matrix.shape[1]
    fingerprint = hashlib.sha256(f"{base} {dtype} {width}".encode()).hexdigest()
    attributes = opened.origin(reduced=components is not None) | {
        "description": f"{', '.join(path.name for path in paths)}, converted from {format}"
        + (f", PCA {dim} to {width}" if components else "")
    }
    resumed, items = 0, list[Entry]()
    targets = [Target(0, out, entries)]
    if making is not None:
        facts = options | {"pca": f"{width} of {dim}" if components else "none", "type": dtype, "width": width}
        facts |= {"items": f"{len(entries)} of {', '.join(path.name for path in paths)}"}
        facts["the digest of what is read"] = content[:16]
        targets = split(entries, making, wanted)
        made_of = hashlib.sha256(f"{fingerprint} {shards}".encode()).hexdigest()
        making.describe(made_of, facts, replace or len(targets) == shards)
        attributes |= {MADE_OF: made_of}
    for target in targets:
        items += target.entries
        if making is not None and not making.begin(target.number):
            resumed += len(target.entries)
            continue
        output = Output(target.path, opened.layout, target.entries, width, dtype, attributes, fingerprint)
        resumed += output.done
        _fill(output, opened, target.entries, components, dtype, quiet)
    complete = making is None or making.finish(quiet) is not None
    share = components.share if components else 1.0
    rows = sum(entry.rows for entry in items)
    left_out = opened.left_out, opened.without
    return Converted(opened.layout, len(items), rows, width, resumed, problems.total, share, *left_out, complete)


def _fill(
    output: Output, source: Source, entries: Sequence[Entry], components: Components | None, dtype: str, quiet: bool
) -> None:
    """Write the items that a file lacks, and finish it."""
    try:
        for entry in _bar(entries[output.done :], "converting", quiet, len(entries), output.done):
            output.write(_changed(source.read(entry), components, dtype, entry.id))
        output.finish()
    finally:
        output.close()


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
    if not entries and not source.left_out:
        raise BadFeatures(f"{source.path} has no features that can be used; is it empty, or of another format?")
    return entries


def _check_left_out(source: Source, entries: list[Entry]) -> None:
    """Say which boxes are left out, and refuse a source most of whose boxes are."""
    kept = sum(entry.rows for entry in entries)
    if source.left_out > kept:
        raise BadFeatures(
            f"{source.path}: {source.left_out:,} of {source.left_out + kept:,} boxes have no area or lie outside of "
            f"their image, such as {source.first}; are these the boxes and sizes of the same pictures?"
        )
    if source.left_out:
        logger.warning(
            "%s: %s left out, of no area or outside of its image; the first: %s",
            source.path,
            "1 box" if source.left_out == 1 else f"{source.left_out:,} boxes",
            source.first,
        )


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
    items = [(entry.id, entry.rows, entry.dim, entry.size, entry.duration) for entry in entries]
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
    for entry in progress(entries, desc=desc, unit="item", total=total, initial=initial, quiet=quiet):
        look()
        yield entry
