"""Draw the picture of the README: python docs/draw_spatial_graph.py (extra `plot`)."""

from pathlib import Path

from relgrounding import graphs, viz

BOXES = [[10, 20, 90, 130], [120, 55, 180, 95], [15, 30, 45, 50]]
SIZE = (200, 150)


def main() -> None:
    """Draw boxes and edges."""
    graph = graphs.spatial_graph(BOXES, image_size=SIZE)
    figure = viz.draw_graph(graph, boxes=BOXES, image_size=SIZE)
    viz.save_figure(figure, Path(__file__).with_name("spatial_graph.png"), dpi=80)


if __name__ == "__main__":
    main()
