"""Outputs of a benchmark, as types of arguments: checked and made before anything is measured."""

import argparse
from pathlib import Path

from relgrounding._files import check_output, check_output_folder


def folder(text: str) -> Path:
    """The folder of that name, made if it is not there."""
    try:
        path = check_output_folder(Path(text))
        path.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def file(text: str) -> Path:
    """A file of that name that may be written; its folder is made."""
    try:
        path = check_output(Path(text))
        path.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path
