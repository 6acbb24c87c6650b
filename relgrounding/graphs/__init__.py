"""Boxes and segments to proposal graphs: DGL heterographs, and their structure as tensors."""

from relgrounding.graphs._convert import from_dgl, from_pyg, to_networkx, to_pyg
from relgrounding.graphs._iou import box_iou, temporal_iou
from relgrounding.graphs._proposals import ending_windows, map_proposals, window_proposals
from relgrounding.graphs._spatial import SpatialRelation, spatial_graph, spatial_relations, spatial_structure
from relgrounding.graphs._structure import GraphStructure
from relgrounding.graphs._temporal import temporal_graph, temporal_structure

__all__ = [
    "GraphStructure",
    "SpatialRelation",
    "box_iou",
    "ending_windows",
    "from_dgl",
    "from_pyg",
    "map_proposals",
    "spatial_graph",
    "spatial_relations",
    "spatial_structure",
    "temporal_graph",
    "temporal_iou",
    "temporal_structure",
    "to_networkx",
    "to_pyg",
    "window_proposals",
]
