"""One process's share of an extraction, and the shard of a feature store that it becomes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relgrounding._files import sha256
from relgrounding.features.extraction._errors import ExtractionError
from relgrounding.features.extraction._parts import Parts
from relgrounding.features.shards import MADE_OF, begin_shard, check_folder, finish, is_made, shard_name, sign


class OwnShard:
    """Shard i of n of a folder: every nth file, from the ith on. Each process makes its own.

    Args:
        folder: of the store.
        number: i, from 1.
        count: n.
        inputs: files by their ids, of all shards: each process must be given the same.
        source: of the extractor.
        pca: file of components; None: features as they are.

    Attributes:
        path: of the shard.
        inputs: the files of this shard by their ids.
        attributes: of the shard, beside its source.

    Raises:
        ExtractionError: there are more shards than files.
        ConfigError: the folder cannot become a store of so many shards.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        count: int,
        inputs: Mapping[str, Path],
        source: dict[str, Any],
        pca: Path | None = None,
    ) -> None:
        check_folder(folder, count, inputs.values())
        if count > len(inputs):
            raise ExtractionError(f"{count} shards of {len(inputs)} files; give at most {len(inputs)}")
        self.folder, self.number, self.count = folder, number, count
        self.path = folder / shard_name(number, count)
        self.inputs = dict(list(inputs.items())[number - 1 :: count])
        content = json.dumps([list(inputs), source, sha256(pca) if pca else "", count])
        self._made_of = hashlib.sha256(content.encode()).hexdigest()
        self.attributes = {MADE_OF: self._made_of}

    def is_made(self, overwrite: bool, source: dict[str, Any]) -> bool:
        """Return whether an earlier call has made this shard; else remove the index, which has to be made again.

        Args:
            overwrite: make it again if it was made of other files, or with other settings.
            source: of the extractor.

        Raises:
            ExtractionError: it was, or another shard of the folder was, and `overwrite` is not given.
        """
        if is_made(self.path, self._made_of):
            if self.path.with_name(self.path.name + ".parts").exists():  # stopped between its last two steps
                Parts(self.path, source).remove()
            return True
        names = [shard_name(number, self.count) for number in range(1, self.count + 1)]
        for path in (self.folder / name for name in names):
            if path.exists() and not overwrite and not is_made(path, self._made_of):
                raise ExtractionError(
                    f"{path} was made of other files, or with other settings, than this call is given; give all shards "
                    "the same, or name another folder (--overwrite makes this call's shard again)"
                )
        begin_shard(self.path)
        return False

    def finish(self, quiet: bool = False) -> str:
        """Make the index if this was the last shard; return what there is to say."""
        if finish(self.folder, self.count, self._made_of, quiet):
            return f"all {self.count} shards are there: {self.folder} is complete"
        return f"other shards of the {self.count} are still to be made; whichever is last makes the index"

    def sign(self) -> None:
        """Write the checksum of the shard beside it."""
        sign(self.path)


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
