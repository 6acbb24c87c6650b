"""The figures: speed against density, against size and against batch, and memory."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from benchmarks.cases import HEADLINE
from benchmarks.criteria import memory_limit
from benchmarks.measure import Row

matplotlib.use("Agg")
# One colour per library, and per layer of ours that is compared with another; the line style tells members apart.
COLOURS = {
    "ours": "#0072b2",
    "dgl": "#d55e00",
    "pyg": "#009e73",
    "torch": "#cc79a7",
    "limit": "#555555",
    "EdgeGatedGCN": "#56b4e9",
}
STYLES = ("-", "--", ":", "-.", (0, (1, 3)), (0, (5, 1, 1, 1)))
Lines = dict[str, list[tuple[float, float]]]


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the figures for which there are at least two points per line; returns their paths."""
    measured = [row for row in rows if row.ok and row.both]
    drawn = [
        _against(measured, "density", "density", lambda row: 100 * row.density, "edges per pair, %", folder),
        _against(measured, "scaling", "size", lambda row: row.nodes, "nodes in the batch", folder),
        _against(measured, "batch", "batch", lambda row: row.nodes, "nodes in the batch", folder),
        _memory([row for row in measured if row.peak is not None], folder),
    ]
    return [path for path in drawn if path is not None]


def _against(
    rows: list[Row], series: str, name: str, x_of: Callable[[Row], float], label: str, folder: Path
) -> Path | None:
    # Cases of one kind of graph make a panel; those of the other series are one kind per layer.
    panels: dict[str, Lines] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        times = row.sizes or row.both
        if row.series == series and times:
            panel = row.case.rpartition("/")[0] if series == "batch" else row.layer
            panels[panel][row.provider].append((x_of(row), 1e6 * times.p50 / max(row.edges, 1)))
    drawn = sorted(panel for panel, lines in panels.items() if any(len(points) > 1 for points in lines.values()))
    if not drawn:
        return None
    columns = min(3, len(drawn))
    count = -(-len(drawn) // columns)
    figure, axes = pyplot.subplots(count, columns, figsize=(6.8 * columns, 4.2 * count), squeeze=False)
    for axis, panel in zip(axes.flat, drawn, strict=False):
        for provider, points in panels[panel].items():
            colour, style = _look(provider, list(panels[panel]))
            x, y = zip(*sorted(points), strict=True)
            axis.plot(x, y, linestyle=style, color=colour, label=provider, marker=".", linewidth=1.3)
        axis.set(xscale="log", yscale="log", title=panel, xlabel=label)
        axis.set_ylabel("nanoseconds per edge, forward + backward")
        axis.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.01, 1))  # beside the lines, not on them
        axis.grid(True, which="major", linewidth=0.3)
    for axis in list(axes.flat)[len(drawn) :]:
        axis.set_visible(False)
    return _save(figure, folder / f"speed_against_{name}.png")


def _look(provider: str, everyone: list[str]) -> tuple[str, object]:
    library = provider.split(".")[0]
    family = [name for name in everyone if name.split(".")[0] == library]
    return COLOURS[library], STYLES[family.index(provider) % len(STYLES)]


def _memory(rows: list[Row], folder: Path) -> Path | None:
    cases = [case for case in HEADLINE.values() if any(row.case == case for row in rows)]
    if not cases:
        return None
    figure, axes = pyplot.subplots(1, len(cases), figsize=(5.5 * len(cases), 4.2), squeeze=False)
    for axis, case in zip(axes.flat, cases, strict=True):
        of_case = sorted((row for row in rows if row.case == case), key=lambda row: row.peak or 0, reverse=True)
        colours = [COLOURS[row.provider.split(".")[0]] for row in of_case]
        axis.barh([row.provider for row in of_case], [(row.peak or 0) / 1e6 for row in of_case], color=colours)
        # A peer of another function has other weights, and their gradients are part of the limit.
        ours = next((row for row in of_case if row.same_function), of_case[0])
        axis.axvline(memory_limit(ours) / 1e6, color="black", linewidth=0.8, linestyle="--", label="limit")
        axis.set(xscale="log", title=case, xlabel="peak extra memory, MB, forward + backward")
        axis.legend(fontsize=7)
    return _save(figure, folder / "memory.png")


def _save(figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path
