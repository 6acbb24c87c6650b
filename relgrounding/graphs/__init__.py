"""Boxes and segments to proposal graphs: DGL heterographs, and their structure as tensors."""

from relgrounding.graphs._convert import from_dgl, from_pyg, to_networkx, to_pyg
from relgrounding.graphs._iou import box_iou, temporal_iou
from relgrounding.graphs._nearest import nearest_graph, nearest_structure
from relgrounding.graphs._proposals import ending_windows, map_proposals, window_proposals
from relgrounding.graphs._spatial import SpatialRelation, spatial_graph, spatial_relations, spatial_structure
from relgrounding.graphs._structure import GraphStructure
from relgrounding.graphs._temporal import (
    TemporalRelation,
    temporal_graph,
    temporal_relation_graph,
    temporal_relation_structure,
    temporal_relations,
    temporal_structure,
)

__all__ = [
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
