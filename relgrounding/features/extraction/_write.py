"""From the parts to one file of the layouts of docs/features.md, item by item."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relgrounding._files import replacing
from relgrounding.features.extraction._errors import ExtractionError
from relgrounding.features.extraction._parts import Parts


def write_clips(
    out: Path, ids: Sequence[str], parts: Parts, source: dict[str, Any], shard: Mapping[str, str] | None = None
) -> None:
    """Write one dataset (clips, dim) per video, with its length in seconds as the attribute `duration`.

    Args:
        out: the file.
        ids: of the videos.
        parts: what was extracted.
        source: how.
        shard: further attributes of a shard, which may be without any video.
    """
    with _new_file(out, ids, source, shard) as file:
        for key in ids:
            part = parts.get(key)
            dataset = file.create_dataset(key, data=part["features"])
            dataset.attrs["duration"] = float(part["duration"])


def write_regions(
    out: Path, ids: Sequence[str], parts: Parts, source: dict[str, Any], shard: Mapping[str, str] | None = None
) -> None:
    """Write the flat ragged layout of region features, and the detector's `scores` beside it where it gave any.

    Args: as of `write_clips`.
    """
    with _new_file(out, ids, source, shard) as file:
        if not ids:
            return
        offsets, sizes = [0], []
        for key in ids:
            part = parts.get(key)
            offsets.append(offsets[-1] + len(part["boxes"]))
            sizes.append(part["size"])
            for name in ("features", "boxes", "scores"):
                if name in part:
                    _append(file, name, part[name], offsets[-1])
        file["offsets"] = np.asarray(offsets, dtype=np.int64)
        file["sizes"] = np.asarray(sizes, dtype=np.int64)
        file.create_dataset("ids", data=list(ids), dtype=h5py.string_dtype())


def _append(file: h5py.File, name: str, rows: np.ndarray, length: int) -> None:
    if name not in file:
        file.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]), chunks=(64, *rows.shape[1:]))
        return
    file[name].resize(length, axis=0)
    file[name][length - len(rows) :] = rows


@contextlib.contextmanager
def _new_file(
    out: Path, ids: Sequence[str], source: dict[str, Any], shard: Mapping[str, str] | None
) -> Iterator[h5py.File]:
    """Yield a file that takes its name when it is complete."""
    if not ids and not shard:
        raise ExtractionError(f"no features to write: {out} was not made")
    with replacing(out) as beside, h5py.File(beside, "w") as file:
        file.attrs["source"] = json.dumps(source)
        file.attrs.update(shard or {})
        file.attrs["description"] = (
            f"{source['what']}; compare only with runs trained on features of the same model, weights and settings"
        )
        if source["weights"].startswith("random"):
            file.attrs["warning"] = "random weights: the features are meaningless"
        yield file
