"""Rows of an ablation as points with their standard deviation."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from relgrounding.viz._figure import MODELS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ablation_figure(
    parts: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]], rows: Sequence[str], line: str = ""
) -> "Figure":
    """Draw one panel per experiment: a line per row of the ablation, a colour per metric, mean and standard deviation.

    Args:
        parts: (mean, deviation) by experiment, row and metric; those that are absent are not drawn.
        rows: their order, from the top.
        line: the row whose mean is drawn across the panel.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing to draw.
    """
    drawn = {name: part for name, part in parts.items() if any(row in part for row in rows)}
    if not drawn:
        raise ValueError("no run of the grid has results yet; there is nothing to draw")
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
        axis.set_title(name)
        axis.set_xlabel("percent")
        axis.grid(axis="y", linewidth=0.3)
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure
