"""Rows of an ablation as points: with their standard deviation, and as differences from their references."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from relgrounding.evaluation import Difference
from relgrounding.viz._figure import MODELS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ablation_figure(
    parts: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]], rows: Sequence[str], line: str = ""
) -> "Figure":
    """Draw one panel per experiment: a line per row of the ablation, a colour per metric, mean and standard deviation.

    Args:
        parts: (mean, deviation) by experiment, row and metric; those that are absent are not drawn.
        rows: their order, from the top; those without a value are not drawn.
        line: the row whose mean is drawn across the panel.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing to draw.
    """
    drawn = {name: part for name, part in parts.items() if any(row in part for row in rows)}
    if not drawn:
        raise ValueError("no run of the grid has results yet; there is nothing to draw")
    rows = [row for row in rows if any(part.get(row) for part in drawn.values())]
    figure = new_figure(2.2 + 3.4 * len(drawn), 1.6 + 0.34 * len(rows))
    axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axis, (name, part) in zip(axes, drawn.items(), strict=True):
        metrics = list(dict.fromkeys(metric for row in rows for metric in part.get(row, {})))
        for number, metric in enumerate(metrics):
            colour = MODELS[number % len(MODELS)]
            at = [k for k, row in enumerate(rows) if metric in part.get(row, {})]
            means, deviations = zip(*(part[rows[k]][metric] for k in at), strict=True)
            shift = 0.16 * (number - (len(metrics) - 1) / 2)
            style = {"fmt": "o", "markersize": 4, "capsize": 2, "color": colour, "label": metric}
            axis.errorbar(means, [k + shift for k in at], xerr=deviations, **style)
            if metric in part.get(line, {}):
                axis.axvline(part[line][metric][0], color=colour, linewidth=0.7, linestyle=":")
        axis.set_xlabel("percent")
        axis.grid(axis="y", linewidth=0.3)
        axis.legend(title=name, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def differences_figure(
    parts: Mapping[str, Mapping[str, Mapping[str, Difference]]], against: Mapping[str, str]
) -> "Figure":
    """Draw one panel per experiment, from top to bottom: a line per row, a colour per metric, each with its interval.

    A point is filled where the interval excludes 0.

    Args:
        parts: differences by experiment, metric and row; rows in their order from the top.
        against: the row that each is compared with.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing to draw.
    """
    drawn = {name: kept for name, part in parts.items() if (kept := {m: rows for m, rows in part.items() if rows})}
    if not drawn:
        raise ValueError("no row and its reference have results yet; there is nothing to draw")
    rows = {name: list(dict.fromkeys(row for found in part.values() for row in found)) for name, part in drawn.items()}
    heights = [len(rows[name]) * (0.3 + 0.08 * len(part)) + 0.2 * len(part) + 0.6 for name, part in drawn.items()]
    figure = new_figure(5.4, sum(heights))
    axes = figure.subplots(len(drawn), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, part) in zip(axes, drawn.items(), strict=True):
        for number, (metric, found) in enumerate(part.items()):
            shift = 0.6 * ((number + 0.5) / len(part) - 0.5)
            _draw_differences(axis, {rows[name].index(row) + shift: one for row, one in found.items()}, metric, number)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(rows[name])), [f"{row}\nagainst {against[row]}" for row in rows[name]], fontsize=7)
        axis.set_ylim(len(rows[name]) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(axis="x", linewidth=0.3)
        axis.set_xlabel("difference in points, 95 % interval", fontsize=8)
        axis.legend(title=name, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return figure


def _draw_differences(axis, found: Mapping[float, Difference], metric: str, number: int) -> None:
    """Draw the differences of a metric at their heights."""
    colour = MODELS[number % len(MODELS)]
    for height, one in found.items():
        sure = one.low > 0 or one.high < 0
        if not math.isnan(one.low):
            axis.plot([one.low, one.high], [height, height], color=colour, linewidth=1.2)
        axis.plot(one.mean, height, "o", markersize=4.5, color=colour, markerfacecolor=colour if sure else "white")
    axis.plot([], [], "o-", markersize=4.5, color=colour, label=metric)
