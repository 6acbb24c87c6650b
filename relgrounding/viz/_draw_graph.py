"""Proposal graphs: a spatial one over its boxes, a temporal one as arcs beside its moments."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import networkx
import numpy as np
import torch

from relgrounding.graphs import SpatialRelation, to_networkx
from relgrounding.viz._figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Directions go around the colour circle as the angles do; the three relations of touching boxes are dark.
_DIRECTIONS = ("#e6194b", "#f58231", "#d4ac00", "#7cb518", "#00a878", "#0096c7", "#4361ee", "#b5179e")
EDGE_COLOURS = {"inside": "#000000", "cover": "#8d6e63", "overlap": "#757575"} | {
    f"angle_{k}": colour for k, colour in enumerate(_DIRECTIONS, start=1)
}
OTHER = "#333333"
ARROW: dict[str, Any] = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.2", "shrinkA": 8, "shrinkB": 8}
MANY_EDGES = 60
NEAREST = 3


def draw_graph(
    graph: Any,
    *,
    boxes: Any = None,
    segments: Any = None,
    image_size: Sequence[float | int] | None = None,
    nearest: int | None = None,
) -> "Figure":
    """Draw the graph of one image over its boxes, or the graph of one video as arcs beside its moments.

    Spatial: an arrow per edge, a colour per edge type, with a legend. Temporal: a line per moment, an arc per pair.

    Args:
        graph: a `DGLGraph` or `GraphStructure` of one item.
        boxes: (T, 4) x1, y1, x2, y2 in pixels, of a spatial graph.
        segments: (T, 2) start, end, of a temporal graph.
        image_size: (width, height) in pixels; None: as large as the boxes reach.
        nearest: draw only the edges from each box to this many nearest ones, and say so above; None: all of up to 60
            edges, else 3 per box. Arcs are always all drawn.

    Returns:
        A figure for `save_figure`.

    Raises:
        ValueError: neither or both of boxes and segments, or not one per node.
        ImportError: matplotlib is missing.
    """
    if (boxes is None) == (segments is None):
        raise ValueError("give either boxes=, of a spatial graph, or segments=, of a temporal one")
    name, width = ("boxes", 4) if segments is None else ("segments", 2)
    given = boxes if segments is None else segments
    proposals = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given, dtype=float)
    network = to_networkx(graph)
    if proposals.shape != (len(network), width):
        raise ValueError(
            f"{name} have shape {proposals.shape}; the graph's {len(network)} nodes need ({len(network)}, {width})"
        )
    if segments is not None:
        return _temporal(network, proposals)
    size = image_size if image_size is not None else proposals[:, 2:].max(0)
    return _spatial(network, proposals, size, nearest)


def _spatial(
    network: networkx.MultiDiGraph, boxes: np.ndarray, size: Sequence[float | int], nearest: int | None
) -> "Figure":
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch, Rectangle

    width, height = size
    figure = new_figure(9.0, 1 + 7.2 * min(max(height / width, 0.4), 1.4))
    axes = figure.add_subplot()
    few = len(boxes) <= 10
    sizes: dict[str, Any] = {"mutation_scale": 14, "linewidth": 1.8} if few else {"mutation_scale": 8, "linewidth": 1.0}
    thin = 1.8 if few else 0.8
    for x1, y1, x2, y2 in boxes:
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=thin, edgecolor="0.55"))
    middle = _spread((boxes[:, :2] + boxes[:, 2:]) / 2, least=max(width, height) / 34)
    edges = list(network.edges(data="type"))
    limit = nearest if nearest is not None else (NEAREST if len(edges) > MANY_EDGES else len(boxes))
    drawn = _nearest_edges(edges, middle, limit)
    for source, destination, kind in drawn:
        colour = EDGE_COLOURS.get(kind, OTHER)
        axes.add_patch(FancyArrowPatch(middle[source], middle[destination], color=colour, zorder=3, **ARROW, **sizes))
    _numbers(axes, middle)
    order = [kind for kind in SpatialRelation.__members__ if any(kind.lower() == k for _, _, k in edges)]
    names = [kind.lower() for kind in order] or sorted({k for _, _, k in edges})
    handles = [Line2D([], [], color=EDGE_COLOURS.get(kind, OTHER), linewidth=2.4, label=kind) for kind in names]
    if handles:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), title="edge type", frameon=False)
    axes.set(xlim=(0, width), ylim=(height, 0), xlabel="x in pixels", ylabel="y in pixels", aspect="equal")
    if len(drawn) < len(edges):
        text = f"{len(drawn)} of {len(edges)} edges: from each box to its {limit} nearest neighbours"
        axes.set_title(text, fontsize=10)
    return figure


def _nearest_edges(edges: list, middle: np.ndarray, limit: int) -> list:
    kept = []
    for node in range(len(middle)):
        own = [edge for edge in edges if edge[0] == node]
        own.sort(key=lambda edge: float(np.linalg.norm(middle[edge[1]] - middle[edge[0]])))
        kept += own[:limit]
    return kept


def _spread(points: np.ndarray, least: float) -> np.ndarray:
    """Push points apart that are closer than `least`, so that their numbers can be read."""
    points = points.copy()
    upper = np.triu(np.ones((len(points), len(points)), dtype=bool), 1)
    for _ in range(100):
        apart = points[:, None] - points[None]
        distance = np.linalg.norm(apart, axis=-1)
        close = np.argwhere(upper & (distance < 0.99 * least))
        if len(close) == 0:
            break
        for one, other in close:
            away = apart[one, other] / distance[one, other] if distance[one, other] > 0 else np.array([1.0, 0.0])
            step = away * (least - distance[one, other]) / 2
            points[one] += step
            points[other] -= step
    return points


def _numbers(axes: Any, points: np.ndarray) -> None:
    for number, (x, y) in enumerate(points):
        circle = {"boxstyle": "circle,pad=0.18", "facecolor": "white", "edgecolor": "0.3", "linewidth": 0.8}
        axes.text(x, y, str(number), ha="center", va="center", fontsize=8, color="0.1", bbox=circle, zorder=4)


def _temporal(network: networkx.MultiDiGraph, segments: np.ndarray) -> "Figure":
    from matplotlib.patches import Arc

    count = len(segments)
    order = np.lexsort((segments[:, 1], segments[:, 0]))
    row = np.empty(count, dtype=int)
    row[order] = np.arange(count)
    figure = new_figure(9.0, 1.2 + 0.24 * max(count, 6))
    bars, arcs = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for node, (start, end) in enumerate(segments):
        bars.barh(row[node], end - start, left=start, height=0.62, color="#0060a8")
    bars.set_yticks(range(count), [str(node) for node in order], fontsize=8)
    bars.set(xlabel="time", ylabel="moment", ylim=(count - 0.4, -0.6), xlim=(min(0, segments[:, 0].min()), None))
    pairs = {tuple(sorted((int(row[s]), int(row[d])))) for s, d in network.edges() if s != d}
    furthest = max((b - a for a, b in pairs), default=1)
    for upper, lower in pairs:
        reach = (lower - upper) / furthest
        arc = Arc((0, (upper + lower) / 2), 2 * reach, lower - upper, theta1=-90, theta2=90, linewidth=0.9, alpha=0.75)
        arc.set_edgecolor("#c24a00")
        arcs.add_patch(arc)
    arcs.plot([0] * count, range(count), "o", color="0.2", markersize=3)
    arcs.set(xlim=(-0.03, 1.06), xticks=[])
    arcs.tick_params(axis="y", length=0, labelleft=False)
    arcs.set_xlabel(f"{len(pairs)} overlapping pairs")
    for axes in (bars, arcs):
        axes.spines[["top", "right"]].set_visible(False)
    arcs.spines[["left", "bottom"]].set_visible(False)
    return figure
