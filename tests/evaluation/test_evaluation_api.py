import doctest
import importlib
import pkgutil

import pytest

from relgrounding import evaluation

MODULES = [f"relgrounding.evaluation.{module.name}" for module in pkgutil.iter_modules(evaluation.__path__)]


def test_public_names() -> None:
    assert sorted(evaluation.__all__) == [
        "ConstantSegments",
        "Difference",
        "ImageEvaluator",
        "Miss",
        "QUERY_KINDS",
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
    assert all(hasattr(evaluation, name) for name in evaluation.__all__)


@pytest.mark.parametrize("module", [*MODULES, "relgrounding.datasets.demo"])
def test_examples_in_docstrings(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
