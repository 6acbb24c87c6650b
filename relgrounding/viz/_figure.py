"""Making and saving figures without any global state of matplotlib."""

import os
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relgrounding._files import replacing
from relgrounding._printing import printable
from relgrounding.features.vocabulary import INVISIBLE
from relgrounding.predictor import Neighbour
from relgrounding.viz._fonts import add_fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUTH = "#00795c"
MODELS = ("#123f96", "#c24a00", "#b5509f", "#8a6d00", "#4d4d4d")
"""With `TRUTH`, the first three can be told apart without red, green or blue cones; dark enough for text on white."""
GAP = 30
"""White pixels below each of joined pictures."""
MOST_NEIGHBOURS, SPOKE = 3, 0.05
"""Neighbours that are drawn: so many at most, with messages of this weight or more."""


def speakers(neighbours: Sequence[Neighbour], answer: Sequence[float | int]) -> list[Neighbour]:
    """Return the neighbours of an answer to draw, each with its message of the highest weight."""
    found: dict[tuple[float, ...], Neighbour] = {}
    for neighbour in neighbours:
        if neighbour.weight >= SPOKE and neighbour.proposal != tuple(answer):
            found.setdefault(neighbour.proposal, neighbour)
    return list(found.values())[:MOST_NEIGHBOURS]


def describe(neighbour: Neighbour) -> list[str]:
    """Return the type of a message's edge with its weight, and the words that open it, if any."""
    words = ", ".join(f'"{printable(word)}" {change:+.2f}' for word, change in neighbour.opened_by())
    return [
        f"{printable(neighbour.edge_type)}, weight {neighbour.weight:.2f}",
        *([f"opened by {words}"] if words else []),
    ]


@dataclass(frozen=True)
class Shown:
    """Proposals with a name.

    Args:
        name: of who answers: "ground truth", a model.
        proposals: (start, end) in seconds or (x1, y1, x2, y2) in pixels.
        note: short text beside the name, such as "IoU 0.71".
        labels: one per proposal; none: they are drawn without.
        truth: whether it is the ground truth, which has a colour of its own.
        colour: empty: that of the ground truth, or the next one of the models.
        neighbours: of the messages to the first proposal, those with the highest weights first.
    """

    name: str
    proposals: Sequence[Sequence[float | int]]
    note: str = ""
    labels: Sequence[str] = field(default_factory=tuple)
    truth: bool = False
    colour: str = ""
    neighbours: Sequence[Neighbour] = ()

    @property
    def speakers(self) -> list[Neighbour]:
        """Neighbours to draw, see `speakers`."""
        return speakers(self.neighbours, self.proposals[0]) if self.neighbours else []


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


def save_figure(figure: "Figure", path: str | os.PathLike, dpi: int = 140) -> None:
    """Write a figure as PNG, and make its folder; characters that its font lacks are taken from installed ones."""
    add_fonts(figure)
    with replacing(Path(path)) as beside, warnings.catch_warnings():
        # A script that no font has is drawn as boxes, which `add_fonts` has reported; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from|.* does not support .* natively")
        figure.savefig(beside, dpi=dpi, format="png", metadata={"Software": "relgrounding"})


def join_pictures(paths: Sequence[Path], path: Path) -> None:
    """Write pictures that `save_figure` wrote as one, from top to bottom."""
    from matplotlib import image

    pictures = [image.imread(one)[..., :3] for one in paths]
    width = max(picture.shape[1] for picture in pictures)
    rows = [
        np.pad(picture, ((0, GAP), (0, width - picture.shape[1]), (0, 0)), constant_values=1) for picture in pictures
    ]
    with replacing(path) as beside:
        image.imsave(beside, np.concatenate(rows), format="png", metadata={"Software": "relgrounding"})


def is_figure(path: Path) -> bool:
    """Whether a file is a picture that `save_figure` wrote: it says so itself."""
    if not path.is_file() or path.is_symlink():
        return False
    with path.open("rb") as file:
        return b"Software\0relgrounding" in file.read(4096)


def set_query(figure: "Figure", query: str, width: int) -> None:
    """Put the sentence above a figure, in at most three lines of `width` characters."""
    query = printable(" ".join(INVISIBLE.sub("", query).split()))
    lines = textwrap.wrap(query, width, max_lines=3, placeholder=" ...")
    # Sentences are untrusted: a dollar sign does not begin a formula.
    figure.suptitle("\n".join(lines), fontsize=12, parse_math=False)


def colours(shown: list[Shown]) -> list[str]:
    """Return a colour per line or panel: the truth has its own, models take turns."""
    models = iter(range(len(shown)))
    return [one.colour or (TRUTH if one.truth else MODELS[next(models) % len(MODELS)]) for one in shown]
