"""Figures of answers and of graphs, and the report page of runs; figures need the extra `plot`."""

from relgrounding.viz._ablation import ablation_figure, differences_figure
from relgrounding.viz._draw_graph import draw_graph
from relgrounding.viz._figure import Shown, save_figure
from relgrounding.viz._items import Items, picture_ids, read_picture
from relgrounding.viz._moments import moments_figure
from relgrounding.viz._predictions import Prediction, Run, choose_examples, match_runs, read_run
from relgrounding.viz._regions import regions_figure
from relgrounding.viz._report import report_page

__all__ = [
    "Items",
    "Prediction",
    "Run",
    "Shown",
    "ablation_figure",
    "choose_examples",
    "differences_figure",
    "draw_graph",
    "match_runs",
    "moments_figure",
    "picture_ids",
    "read_picture",
    "read_run",
    "regions_figure",
    "report_page",
    "save_figure",
]
