"""List the configurations that come with the package, which commands take by name.

    relgrounding configs
    relgrounding train charades_vgn

`relgrounding train NAME --show` prints all settings of one.
"""

import argparse
from pathlib import Path

from relgrounding._printing import show
from relgrounding._settings import packaged_configs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes: nothing."""


def run(arguments: argparse.Namespace) -> None:
    """Print a line for each."""
    for folder, title in (
        ("", "configurations (relgrounding train NAME):"),
        ("ablations", "grids (relgrounding ablate NAME):"),
    ):
        found = packaged_configs(folder)
        width = max(map(len, found), default=0)
        show("\n".join([title, *(f"  {name:<{width}}  {first_sentence(path)}" for name, path in found.items())]))


def first_sentence(path: Path) -> str:
    """Return the sentence with which the comment at the top of a file begins."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    text = " ".join(line.removeprefix("# ").strip() for line in lines[:end])
    return text.partition(". ")[0].partition("; make the file")[0].partition(": see ")[0].removesuffix(".")
