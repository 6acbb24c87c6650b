"""The finished items of an extraction: a folder beside the output, one file per item, each complete or absent."""

import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relgrounding._files import replacing
from relgrounding._printing import note, progress
from relgrounding.features.convert._pca import Components, fit_components, load_components, save_components
from relgrounding.features.extraction._errors import ExtractionError


class Parts:
    """Results of single items, kept until the output is written.

    Args:
        out: the output file; the folder is beside it, under its name and ".parts".
        source: what the features depend on, as JSON can hold it. Parts made otherwise are refused, not mixed.

    Raises:
        ExtractionError: the folder holds parts of another source.
    """

    def __init__(self, out: Path, source: dict[str, Any]) -> None:
        self.folder = out.with_name(out.name + ".parts")
        self.components: Components | None = None
        settings = self.folder / "source.json"
        if self.folder.is_symlink() or (self.folder.exists() and not self._is_ours(settings)):
            raise ExtractionError(f"{self.folder} was not made by an extraction, and would be removed; rename it")
        self.folder.mkdir(parents=True, exist_ok=True)
        if settings.exists() and any(self.folder.glob("*.npz")):
            self._check(json.loads(settings.read_text(encoding="utf-8")), source)
        else:
            with replacing(settings) as beside:
                beside.write_text(json.dumps(source, indent=2), encoding="utf-8")

    def _is_ours(self, settings: Path) -> bool:
        return self.folder.is_dir() and (settings.is_file() or not any(self.folder.iterdir()))

    def _check(self, found: dict[str, Any], source: dict[str, Any]) -> None:
        differing = [key for key in found.keys() | source.keys() if found.get(key) != source.get(key)]
        if differing:
            key = min(differing)
            raise ExtractionError(
                f"{self.folder} was begun with {key} {found.get(key)!r}, this is {source.get(key)!r}; "
                "continue with the former, or remove the folder"
            )

    def __contains__(self, key: object) -> bool:
        return self._path(str(key)).exists()

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays of an item, float16 where they are its features."""
        arrays = arrays | {"features": _half(arrays["features"])}
        with replacing(self._path(key)) as beside, beside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's signature takes the names for its option

    def get(self, key: str) -> dict[str, np.ndarray]:
        """Return the arrays of an item."""
        try:
            with np.load(self._path(key), allow_pickle=False) as arrays:
                found = dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ExtractionError(f"{self._path(key)} cannot be read ({error}); remove it and run again") from None
        if self.components is not None:
            found["features"] = _half(self.components(found["features"]))
        return found

    def reduce(self, ids: Sequence[str], pca: int | Path, kept: Path) -> str:
        """Let `get` return principal components of the features, and say which.

        Args:
            ids: items to fit on.
            pca: number of components, or the file of those of another extraction.
            kept: file for components that are fitted here.

        Raises:
            DataError: a file of no use, or more components than the features have numbers.
            ExtractionError: the components are of features of another width.
        """
        dim = self.get(ids[0])["features"].shape[1]
        if isinstance(pca, int):
            components = fit_components((self.get(key)["features"] for key in ids), dim, pca)
            save_components(kept, components, "")
        else:
            components = load_components(pca)[0]
            if len(components.mean) != dim:
                raise ExtractionError(f"{pca} is for features of width {len(components.mean)}, these have {dim}")
        self.components = components
        of = "fitted on them" if isinstance(pca, int) else f"of {pca.name}"
        return f"{components.matrix.shape[1]} of {dim} numbers, {of}, {components.share:.1%} of the variance"

    def remove(self) -> None:
        """Remove the folder: the output is written."""
        shutil.rmtree(self.folder)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def _half(features: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    if not np.isfinite(half).all():
        raise ExtractionError(
            "features are not finite in float16 (largest number 65,504): are these the right weights?"
        )
    return half


def extract_all(
    inputs: Mapping[str, Path], extract: Callable[[str, Path], dict[str, np.ndarray]], parts: Parts, skip: bool
) -> list[str]:
    """Extract what is not done yet, with a progress bar.

    Args:
        inputs: files by their ids.
        extract: from id and file to the arrays of a part.
        parts: what is done, and where more goes.
        skip: name and leave out a bad file instead of raising.

    Returns:
        The ids that have features now, in the order of `inputs`.

    Raises:
        ExtractionError: a bad file, unless `skip`.
    """
    done = []
    for key, path in progress(inputs.items(), desc="extracting", unit="file"):
        if key not in parts:
            try:
                parts.put(key, extract(key, path))
            except ExtractionError as error:
                message = str(error) if str(path) in str(error) else f"{path}: {error}"
                if not skip:
                    raise ExtractionError(f"{message} (--on-error skip leaves such files out)") from None
                note(f"skipped: {message}", sys.stderr)
                continue
        done.append(key)
    return done
