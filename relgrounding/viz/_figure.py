"""Making and saving figures without any global state of matplotlib."""

import os
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from relgrounding._files import replacing
from relgrounding._printing import printable
from relgrounding.features.vocabulary import INVISIBLE
from relgrounding.viz._fonts import add_fonts
from relgrounding.viz._shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUTH = "#00795c"
MODELS = ("#0060a8", "#c24a00", "#8e4a86", "#8a6d00", "#4d4d4d")
"""Told apart also by people who confuse red and green, and dark enough for text on white."""


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size in inches.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("figures need matplotlib: pip install 'relgrounding[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", path: str | os.PathLike, dpi: int = 110) -> None:
    """Write a figure as PNG, and make its folder; characters that its font lacks are taken from installed ones."""
    add_fonts(figure)
    with replacing(Path(path)) as beside, warnings.catch_warnings():
        # A script that no font has shows boxes: `add_fonts` has said so, and it is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from|.* does not support .* natively")
        figure.savefig(beside, dpi=dpi, format="png")


def set_query(figure: "Figure", query: str, width: int) -> None:
    """Put the sentence above a figure, in at most three lines of `width` characters."""
    query = printable(" ".join(INVISIBLE.sub("", query).split()))
    lines = textwrap.wrap(query, width, max_lines=3, placeholder=" ...")
    # Sentences are not ours: a dollar sign in one is no formula.
    figure.suptitle("\n".join(lines), fontsize=12, parse_math=False)


def colours(shown: list[Shown]) -> list[str]:
    """Return a colour for each line or panel: the truth has its own, models take turns."""
    models = iter(range(len(shown)))
    return [one.colour or (TRUTH if one.truth else MODELS[next(models) % len(MODELS)]) for one in shown]
