"""Every item once: those that are done are left alone, bad files stop the run or are counted."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from relgrounding._printing import note, progress
from relgrounding.features.extraction._errors import ExtractionError
from relgrounding.features.extraction._parts import Parts


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
