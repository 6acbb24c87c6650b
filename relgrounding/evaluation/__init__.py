"""Metrics, selection of segments, query-agnostic floors, oracles, tables that show them next to every result, and
comparison of systems query by query.
"""

from relgrounding.evaluation._comparison import Difference, compare_runs, paired_bootstrap
from relgrounding.evaluation._image import ImageEvaluator, image_floors, image_oracle
from relgrounding.evaluation._kinds import QUERY_KINDS, query_kind
from relgrounding.evaluation._misses import Miss, name_misses
from relgrounding.evaluation._nms import temporal_nms
from relgrounding.evaluation._results import above_oracle, format_table, make_entry, read_results, write_results
from relgrounding.evaluation._selection import select_by_score, select_by_vote, votes
from relgrounding.evaluation._video import VideoEvaluator, video_oracle
from relgrounding.evaluation._video_floors import ConstantSegments, fit_constant_segments, video_floors

__all__ = [
    "QUERY_KINDS",
    "ConstantSegments",
    "Difference",
    "ImageEvaluator",
    "Miss",
    "VideoEvaluator",
    "above_oracle",
    "compare_runs",
    "fit_constant_segments",
    "format_table",
    "image_floors",
    "image_oracle",
    "make_entry",
    "name_misses",
    "paired_bootstrap",
    "query_kind",
    "read_results",
    "select_by_score",
    "select_by_vote",
    "temporal_nms",
    "video_floors",
    "video_oracle",
    "votes",
    "write_results",
]
