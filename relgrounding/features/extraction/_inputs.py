"""The files that a command names, each under the id that it gets."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from relgrounding._names import check_name
from relgrounding.features._regions import RegionFeatures
from relgrounding.features.extraction._errors import ExtractionError

VIDEOS = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".ogv", ".flv", ".wmv", ".3gp")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def find_inputs(paths: Sequence[Path], suffixes: Sequence[str], numbers: bool = False) -> dict[str, Path]:
    """Return the files to read by their ids, in the order given; those of a folder by name.

    Args:
        paths: files, or folders whose files of these suffixes are meant.
        suffixes: in lower case.
        numbers: an id is the number at the end of the name without zeros before it (COCO's); else the name without
            its suffix.

    Raises:
        ExtractionError: no such file, a folder without any, a name without a number, an id that comes twice.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise ExtractionError(f"{path} does not exist")
        files = [path]
        if path.is_dir():
            files = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in suffixes and file.is_file() and not file.name.startswith(".")
            )
            if not files:
                raise ExtractionError(f"{path} holds no file of a known kind ({' '.join(suffixes)}); name files")
        elif not path.is_file():
            raise ExtractionError(f"{path} is not a regular file; name a file, or a folder of them")
        for file in files:
            key = check_name(_number(file) if numbers else file.stem, f"the id of {str(file)!a}")
            if key in found:
                raise ExtractionError(f"{found[key]} and {file} would both get the id {key!r}; rename one of them")
            found[key] = file
    return found


def with_boxes(inputs: Mapping[str, Path], paths: Sequence[Path], given: RegionFeatures) -> dict[str, Path]:
    """Return the files by the ids of their boxes, without those of folders that have no boxes.

    Args:
        inputs: files by their ids.
        paths: what `find_inputs` found them in; a file that is named itself stays.
        given: file of the boxes.

    Raises:
        ExtractionError: no file has boxes.
    """
    folders = {path for path in paths if path.is_dir()}
    kept = {given.find(key) or key: path for key, path in inputs.items() if key in given or path.parent not in folders}
    if not kept:
        raise ExtractionError(
            f"{given.path} holds boxes of {given.ids[0]!r} and others, of none of the {len(inputs)} files; "
            "--number-ids takes the number at the end of a name as the id"
        )
    return kept


def _number(path: Path) -> str:
    match = re.search(r"\d+$", path.stem)
    if match is None:
        raise ExtractionError(f"{path}: --number-ids takes the number at the end of a name, and this has none")
    return str(int(match[0]))
