"""What the shards of an extraction are made of, of which each process makes its own."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relgrounding._files import sha256
from relgrounding.features.extraction._errors import ExtractionError
from relgrounding.features.shards import Making


def begin_shards(
    folder: Path,
    count: int,
    inputs: Mapping[str, Path],
    source: Mapping[str, Any],
    pca: Path | None = None,
    overwrite: bool = False,
) -> Making:
    """Return the shards of a folder, of which the ith of n has every nth file from the ith on.

    Args:
        folder: of the store.
        count: n.
        inputs: files by their ids, of all shards: each process must be given the same.
        source: of the extractor.
        pca: file of components; None: features as they are.
        overwrite: make shards again that were made of other files, or with other settings.

    Raises:
        ExtractionError: there are more shards than files.
        BadFeatures: the folder was begun with other files, or with other settings, and `overwrite` is not given.
        ConfigError: the folder cannot become a store of so many shards.
    """
    making = Making(folder, count, inputs.values())
    if count > len(inputs):
        raise ExtractionError(f"{count} shards of {len(inputs)} files; give at most {len(inputs)}")
    components = sha256(pca) if pca else ""
    content = json.dumps([list(inputs), source, components, count])
    ids = hashlib.sha256("\n".join(inputs).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    facts = {**source, "pca": f"{pca.name}, sha256 {components}" if pca else "none"}
    facts["files"] = f"{len(inputs)}, {next(iter(inputs))!r} first, sha256 of their ids {ids}"
    making.describe(hashlib.sha256(content.encode()).hexdigest(), facts, overwrite)
    return making


def whats_left(making: Making, quiet: bool = False) -> str:
    """Make the index if all shards are there; return what there is to say."""
    if making.finish(quiet):
        return f"all {making.count} shards are there: {making.folder} is complete"
    if other := making.other():
        return f"{other} was made of other files, or with other settings: make it again, too, with --overwrite"
    return f"other shards of the {making.count} are still to be made; whichever is last makes the index"


def check_components(pca: int | Path | None) -> Path | None:
    """Return the file of components for a shard, or None.

    Raises:
        ExtractionError: they would be fitted on one shard, and differ from those of the others.
    """
    if isinstance(pca, int):
        raise ExtractionError(
            "components fitted on one shard would not be those of the others: extract without --pca, and let "
            "prepare features --pca reduce the store, or give the components of another extraction, --pca FILE.pca.npz"
        )
    return pca
