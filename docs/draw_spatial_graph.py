"""Draw the picture of the README: python docs/draw_spatial_graph.py (extra `plot`)."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, Rectangle

from relgrounding import graphs

BOXES = [[10, 20, 90, 130], [120, 55, 180, 95], [15, 30, 45, 50]]
SIZE = (200, 150)


def main() -> None:
    """Draw boxes and edges."""
    graph = graphs.to_networkx(graphs.spatial_graph(BOXES, image_size=SIZE))
    types = sorted({data["type"] for _, _, data in graph.edges(data=True)})
    colours = dict(zip(types, plt.get_cmap("tab10").colors, strict=False))
    figure, axes = plt.subplots(figsize=(7, 4.2))
    centres = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in BOXES]
    for number, (x1, y1, x2, y2) in enumerate(BOXES):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=2, edgecolor="0.3"))
        axes.text(x2 - 8, y2 - 4, str(number), fontsize=12, color="0.2")
    for source, destination, data in graph.edges(data=True):
        arrow = FancyArrowPatch(
            centres[source],
            centres[destination],
            connectionstyle="arc3,rad=0.25",
            arrowstyle="-|>",
            mutation_scale=14,
            shrinkA=3,
            shrinkB=3,
            linewidth=1.8,
            color=colours[data["type"]],
        )
        axes.add_patch(arrow)
    for name, colour in colours.items():
        axes.plot([], [], color=colour, label=name, linewidth=2)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), title="edge type")
    axes.set(xlim=(0, SIZE[0]), ylim=(SIZE[1], 0), xlabel="x in pixels", ylabel="y in pixels", aspect="equal")
    figure.savefig(Path(__file__).with_name("spatial_graph.png"), dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
