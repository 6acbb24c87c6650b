"""Boxes on a picture, on a generated scene, or on a blank canvas."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from relgrounding._printing import printable
from relgrounding.datasets.demo import Scene
from relgrounding.viz._figure import TRUTH, Shown, colours, describe, new_figure, set_query

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {1: (1, 6.0), 2: (2, 3.4), 4: (2, 3.4)}
"""By the number of panels, those of one row and their width in inches: all can still be read on a phone."""
MORE = (3, 2.6)
TALLEST = 1.2
"""Height of a panel by its width: pictures that are taller are drawn smaller."""
SHAPE_COLOURS = {
    "red": "#d62f2f",
    "green": "#2c9c3f",
    "blue": "#2f62d6",
    "yellow": "#e8c81e",
    "purple": "#8a3fb8",
    "orange": "#ef8a1d",
}


def regions_figure(
    query: str,
    image_size: Sequence[float | int],
    shown: Sequence[Shown],
    picture: np.ndarray | Scene | None = None,
    context: Sequence[Sequence[float | int]] = (),
    names: Sequence[str] = (),
) -> "Figure":
    """Draw answers: one panel each, boxes over the picture, the sentence above.

    The ground truth is dashed in the panels of the others. Arrows come from the neighbours whose messages the first box
    got, wider for higher weights; the lines below say of what type they are and which words open them.

    Args:
        query: the sentence.
        image_size: (width, height) in pixels.
        shown: the answers, from left to right.
        picture: (height, width, 3) pixels, or a generated scene; None: a blank canvas.
        context: other boxes of the image, drawn thin where there is no picture.
        names: one per box of `context`, written into the first panel where there is no picture; empty: none is.

    Returns:
        A figure for `save_figure`.

    Raises:
        ImportError: matplotlib is missing.
    """
    shown = list(shown)
    columns, panel = PANELS.get(len(shown), MORE)
    rows = -(-len(shown) // columns)
    width, height = image_size
    tall = panel * min(max(height / width, 0.4), TALLEST)
    unit = max(width / panel, height / tall)
    lines = max(len(_written(one, panel)) for one in shown)
    figure = new_figure(panel * columns, (tall + 0.3 + 0.16 * lines) * rows + 0.6)
    set_query(figure, query, int(panel * columns * 10))
    # Generated objects are small: a line on their edge would hide which shape they have.
    grow = width / 120 if isinstance(picture, Scene) else 0.0
    truth = [box for one in shown if one.truth for box in one.proposals]
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(shown) :]:
        axes.remove()
    for axes, one, colour in zip(grid, shown, colours(shown), strict=False):
        _canvas(axes, image_size, picture, context)
        if not one.truth:
            for box in truth:
                _box(axes, box, TRUTH, style="--", width=1.8, grow=grow)
        # The best one comes last, on top of the others.
        for rank, box in reversed(list(enumerate(one.proposals))):
            first = rank == 0 or one.truth
            _box(axes, box, colour, width=2.2 if first else 1.2, grow=grow)
        _neighbours(axes, one, colour, grow, panel)
        taken = _labels(axes, one, colour, image_size, unit)
        if axes is grid[0] and picture is None:
            _write_names(axes, names, context, taken, image_size, unit)
        title = printable(one.name) + (f"   {one.note}" if one.note else "")
        title = textwrap.fill(title, int(12.5 * panel), drop_whitespace=False)
        axes.set_title(title, fontsize=10, color=colour, parse_math=False)
    return figure


def _canvas(axes: Any, size: Sequence[float | int], picture: np.ndarray | Scene | None, context: Sequence) -> None:
    if isinstance(picture, np.ndarray):
        axes.imshow(picture, extent=(0, size[0], size[1], 0))
    else:
        axes.set_facecolor("#fafafa")
        if isinstance(picture, Scene):
            _scene(axes, picture)
        for box in context:
            _box(axes, box, "0.75", width=0.7, halo=False)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("0.7")


def _box(
    axes: Any,
    box: Sequence[float | int],
    colour: str,
    width: float,
    style: str = "-",
    halo: bool = True,
    grow: float = 0.0,
) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    x1, y1, x2, y2 = box[0] - grow, box[1] - grow, box[2] + grow, box[3] + grow
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    if halo and style == "-":
        patch.set_path_effects([Stroke(linewidth=width + 1.2, foreground="white"), Normal()])
    patch.set_clip_on(False)  # a box at the edge of the image is drawn in full
    axes.add_patch(patch)


def _neighbours(axes: Any, one: Shown, colour: str, grow: float, panel: float) -> None:
    """Draw an arrow from each neighbour that spoke to the first box, and write below what it said."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.patheffects import Normal, Stroke

    for number, neighbour in enumerate(one.speakers, start=1):
        _box(axes, neighbour.proposal, colour, width=1.2, style=":", grow=grow)
        ends = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (neighbour.proposal, one.proposals[0])]
        width = 0.8 + 2.2 * neighbour.weight
        bend = f"arc3,rad={0.12 if number % 2 else -0.12}"  # so that neighbours in one direction have two arrows
        style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 13, "shrinkA": 7, "shrinkB": 7}
        arrow = FancyArrowPatch(*ends, color=colour, linewidth=width, connectionstyle=bend, zorder=3, **style)
        arrow.set_path_effects([Stroke(linewidth=width + 1.6, foreground="white"), Normal()])
        axes.add_patch(arrow)
        mark = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": colour, "linewidth": 1.0}
        corner = neighbour.proposal[0] - grow, neighbour.proposal[1] - grow
        axes.text(*corner, str(number), ha="center", va="center", fontsize=8, color=colour, bbox=mark, zorder=4)
    text = "\n".join(_written(one, panel))
    axes.set_xlabel(text, loc="left", fontsize=8, color=colour, linespacing=1.3, parse_math=False)


def _written(one: Shown, panel: float) -> list[str]:
    """Return the lines below a panel of this width in inches: what each neighbour said."""
    lines = (f"{number}: {', '.join(describe(neighbour))}" for number, neighbour in enumerate(one.speakers, start=1))
    return [part for line in lines for part in textwrap.wrap(line, int(17 * panel), subsequent_indent="    ")]


class _Spot(NamedTuple):
    """A rectangle that a label takes, by its centre and size in pixels of the image."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: "_Spot") -> bool:
        """Whether two labels would overlap."""
        across = abs(self.x - other.x) * 2 < self.width + other.width
        return across and abs(self.y - other.y) * 2 < self.height + other.height


def _spots(
    label: str, box: Sequence[float | int], size: Sequence[float | int], unit: float, inside: bool = False
) -> list[_Spot]:
    """Return where a label may stand: at the corners of its box and between them, in and outside, within the image.

    Args:
        label: the text.
        box: x1, y1, x2, y2 in pixels.
        size: (width, height) of the image in pixels.
        unit: pixels of the image per inch of the panel, which give the size of a label.
        inside: prefer positions inside the box where it is large enough.
    """
    wide, tall = (0.14 + 0.07 * len(label)) * unit, 0.2 * unit
    x1, y1, x2, y2 = box
    across = (x1 + wide / 2, x2 - wide / 2, (x1 + x2) / 2)
    heights = [y1 - tall * 0.7, y2 + tall * 0.7, y1 + tall * 0.7, y2 - tall * 0.7]
    if inside and x2 - x1 > wide and y2 - y1 > tall:
        heights = heights[2:] + heights[:2]
    spots = [(x, y) for y in heights for x in across]
    spots = [(min(max(x, wide / 2), size[0] - wide / 2), min(max(y, tall / 2), size[1] - tall / 2)) for x, y in spots]
    return [_Spot(x, y, wide, tall) for x, y in spots]


def _labels(axes: Any, one: Shown, colour: str, size: Sequence[float | int], unit: float) -> list[_Spot]:
    """Write each label beside its box, at the first position that no earlier label has taken, and return them."""
    taken: list[_Spot] = []
    for label, box in zip(one.labels, one.proposals, strict=False):
        label = printable(label)
        spots = _spots(label, box, size, unit)
        free = [spot for spot in spots if not any(spot.meets(other) for other in taken)]
        taken.append((free or spots)[0])
        frame = {"boxstyle": "round,pad=0.2", "facecolor": colour, "edgecolor": "white", "linewidth": 0.6}
        text = {"ha": "center", "va": "center", "fontsize": 8.5, "color": "white", "parse_math": False}
        axes.text(*taken[-1][:2], label, bbox=frame, zorder=5, **text)
    return taken


def _write_names(
    axes: Any, names: Sequence[str], boxes: Sequence, taken: list[_Spot], size: Sequence[float | int], unit: float
) -> None:
    """Write what the other boxes hold, larger boxes first, where there is room."""
    from matplotlib.patheffects import Normal, Stroke

    order = sorted(zip(names, boxes, strict=False), key=lambda one: -(one[1][2] - one[1][0]) * (one[1][3] - one[1][1]))
    for name, box in order:
        name = printable(name)
        free = [
            spot for spot in _spots(name, box, size, unit, inside=True) if not any(spot.meets(other) for other in taken)
        ]
        if name and free:
            taken.append(free[0])
            text = axes.text(*free[0][:2], name, ha="center", va="center", fontsize=8, color="0.35", parse_math=False)
            text.set_path_effects([Stroke(linewidth=2.5, foreground="#fafafa"), Normal()])


def _scene(axes: Any, scene: Scene) -> None:
    from matplotlib.patches import Ellipse, Polygon, Rectangle

    for thing, (x1, y1, x2, y2) in zip(scene.objects, scene.boxes.tolist(), strict=True):
        colour = SHAPE_COLOURS[thing.colour]
        middle, wide, tall = ((x1 + x2) / 2, (y1 + y2) / 2), x2 - x1, y2 - y1
        if thing.shape == "circle":
            patch: Any = Ellipse(middle, wide, tall)
        elif thing.shape == "square":
            patch = Rectangle((x1, y1), wide, tall)
        elif thing.shape == "triangle":
            patch = Polygon([(x1, y2), (x2, y2), (middle[0], y1)])
        else:
            turns = np.arange(10) * np.pi / 5 - np.pi / 2
            radius = np.where(np.arange(10) % 2, 0.2, 0.5)
            patch = Polygon(np.stack([np.cos(turns) * radius * wide, np.sin(turns) * radius * tall], 1) + middle)
        patch.set(facecolor=colour, edgecolor="0.25", linewidth=0.5)
        axes.add_patch(patch)
