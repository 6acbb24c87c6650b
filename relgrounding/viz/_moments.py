"""Moments as bars on one time axis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from relgrounding._printing import printable
from relgrounding.viz._figure import Shown, colours, describe, new_figure, set_query

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TIMES = 3
NEIGHBOUR = 0.2
"""Height of the bar of a neighbour, in rows."""


def moments_figure(query: str, duration: float | int, shown: Sequence[Shown]) -> "Figure":
    """Draw answers: one line each, moments as bars on the time axis of the video, the sentence above.

    Args:
        query: the sentence.
        duration: of the video, in seconds.
        shown: the answers, from top to bottom; the first moment of each counts, others are drawn paler. Of the ground
            truth, all moments are right. Below an answer come the neighbours whose messages it got, thinner.

    Returns:
        A figure for `save_figure`.

    Raises:
        ImportError: matplotlib is missing.
    """
    shown = list(shown)
    lines = [line for one, colour in zip(shown, colours(shown), strict=True) for line in _lines(one, colour)]
    explained = any(line.height == NEIGHBOUR for line in lines)
    figure = new_figure(9.0 if explained else 6.6, 1.3 + (0.42 if explained else 0.34) * len(lines))
    axes = figure.add_subplot()
    set_query(figure, query, 90 if explained else 66)
    for row, line in enumerate(lines):
        if line.height > NEIGHBOUR:
            axes.axhline(row, color="0.9", linewidth=1, zorder=0)
        for rank, ((start, end), alpha) in enumerate(zip(line.moments, line.alphas, strict=True)):
            bar = axes.barh(row, end - start, line.height, left=start, color=line.colour, alpha=alpha)
            bar.patches[0].set_zorder(2 - rank / 10)
        beside = axes.get_yaxis_transform()
        axes.text(1.01, row, line.note, transform=beside, va="center", fontsize=9, color=line.colour, parse_math=False)
    axes.set_yticks(range(len(lines)), [printable(line.name) for line in lines], fontsize=10)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set(xlim=(0, duration), ylim=(len(lines) - 0.5, -0.5), xlabel="seconds")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


class _Line(NamedTuple):
    """A row of the figure."""

    name: str
    moments: Sequence[Sequence[float | int]]
    alphas: Sequence[float]
    note: str
    colour: str
    height: float = 0.56


def _lines(one: Shown, colour: str) -> list[_Line]:
    """Return the row of an answer, and below it those of its neighbours."""
    times = [f"{start:.1f} to {end:.1f} s" for start, end in one.proposals]
    listed = ", ".join(times[: MOST_TIMES if one.truth else 1])
    if one.truth and len(times) > MOST_TIMES:
        listed += f", {len(times) - MOST_TIMES} more"
    alphas = [1.0 if rank == 0 or one.truth else 0.3 for rank in range(len(times))]
    note = "   ".join(text for text in (listed, one.note) if text)
    lines = [_Line(one.name, one.proposals, alphas, note, colour)]
    for neighbour in one.speakers:
        alpha = 0.25 + 0.6 * neighbour.weight
        lines.append(_Line("from", [neighbour.proposal], [alpha], "\n".join(describe(neighbour)), colour, NEIGHBOUR))
    return lines
