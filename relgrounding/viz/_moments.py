"""Moments as bars on one time axis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from relgrounding._printing import printable
from relgrounding.viz._figure import Shown, colours, new_figure, set_query

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TIMES = 3


def moments_figure(query: str, duration: float | int, shown: Sequence[Shown]) -> "Figure":
    """Draw answers: one line each, moments as bars on the time axis of the video, the sentence above.

    Args:
        query: the sentence.
        duration: of the video, in seconds.
        shown: the answers, from top to bottom; the first moment of each counts, others are drawn paler. Of the ground
            truth, all moments are right.

    Returns:
        A figure for `save_figure`.

    Raises:
        ImportError: matplotlib is missing.
    """
    shown = list(shown)
    figure = new_figure(9.0, 1.3 + 0.42 * len(shown))
    axes = figure.add_subplot()
    set_query(figure, query, 90)
    for row, (one, colour) in enumerate(zip(shown, colours(shown), strict=True)):
        axes.axhline(row, color="0.9", linewidth=1, zorder=0)
        for rank, (start, end) in enumerate(one.proposals):
            alpha = 1 if rank == 0 or one.truth else 0.3
            axes.barh(row, end - start, left=start, height=0.56, color=colour, alpha=alpha, zorder=2 - rank / 10)
        listed = one.proposals[: MOST_TIMES if one.truth else 1]
        times = ", ".join(f"{start:.1f} to {end:.1f} s" for start, end in listed)
        if one.truth and len(one.proposals) > MOST_TIMES:
            times += f", {len(one.proposals) - MOST_TIMES} more"
        note = "   ".join(text for text in (times, one.note) if text)
        axes.text(1.01, row, note, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=colour)
    axes.set_yticks(range(len(shown)), [printable(one.name) for one in shown], fontsize=10)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set(xlim=(0, duration), ylim=(len(shown) - 0.5, -0.5), xlabel="seconds")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
