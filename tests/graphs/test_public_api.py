import doctest
import importlib
import pkgutil

import pytest

from relgrounding import graphs

MODULES = [module.name for module in pkgutil.iter_modules(graphs.__path__)]


def test_public_names():
    assert graphs.__all__ == [
        "GraphStructure",
        "SpatialRelation",
        "TemporalRelation",
        "box_iou",
        "ending_windows",
        "from_dgl",
        "from_pyg",
        "map_proposals",
        "nearest_graph",
        "nearest_structure",
        "spatial_graph",
        "spatial_relations",
        "spatial_structure",
        "temporal_graph",
        "temporal_iou",
        "temporal_relation_graph",
        "temporal_relation_structure",
        "temporal_relations",
        "temporal_structure",
        "to_networkx",
        "to_pyg",
        "window_proposals",
    ]
    assert all(hasattr(graphs, name) for name in graphs.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"relgrounding.graphs.{name}"))
    assert result.failed == 0
