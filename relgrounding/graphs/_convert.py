"""Structures from DGL graphs, and networkx graphs for drawing and checking."""

import networkx
import torch
from jaxtyping import Int
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs._relations import SPATIAL_EDGE_TYPES
from relgrounding.graphs._structure import GraphStructure

# Attribute of a DGL graph that holds its structure, and what the structure was computed from.
_KEPT = "_relgrounding_structure"


def from_dgl(graph: dgl.DGLGraph) -> GraphStructure:
    """Structure of a DGL graph with one node type; features are left behind.

    It is kept with the graph, so that a second call costs nothing, and computed anew after the graph's edges, nodes or
    batch have changed.

    Args:
        graph: any edge types, batched or not. Parallel edges are kept.

    Returns:
        Structure with as many items as the graph's batch. `edge_types` are the graph's ``etypes`` in DGL's order, which
        is alphabetical; the eleven spatial ones come in the order of `SpatialRelation`.

    Raises:
        ValueError: several node types.

    >>> from_dgl(dgl.graph(([1, 2], [0, 0]))).indptr.tolist()
    [0, 2, 2, 2]
    """
    if len(graph.ntypes) != 1:
        raise ValueError(
            f"from_dgl: the graph has the node types {graph.ntypes}; a structure has one: take dgl.node_type_subgraph"
        )
    # DGL replaces the index of a graph when edges or nodes are added or removed.
    index, counts = graph._graph, _item_sizes(graph)
    version = None if counts is None else counts._version
    kept = vars(graph).get(_KEPT)
    if kept is not None and kept[0] is index and kept[1] is counts and kept[2] == version:
        return kept[3]
    structure = _structure(graph, graph.num_nodes() if counts is None else counts)
    setattr(graph, _KEPT, (index, counts, version, structure))
    return structure


def _item_sizes(graph: dgl.DGLGraph) -> Int[Tensor, " items"] | None:
    """Nodes of each item; None for one item, as `batch_num_nodes()` would make of it a batch without edge counts."""
    return None if graph._batch_num_nodes is None else graph.batch_num_nodes()


def _structure(graph: dgl.DGLGraph, counts: Int[Tensor, " items"] | int) -> GraphStructure:
    names = tuple(graph.etypes)
    if set(names) == set(SPATIAL_EDGE_TYPES):
        names = SPATIAL_EDGE_TYPES
    ends = [graph.edges(etype=name) for name in names]
    edge_counts = torch.tensor([len(sources) for sources, _ in ends], device=graph.device)
    return GraphStructure.from_edges(
        sources=torch.cat([sources for sources, _ in ends]).long(),
        destinations=torch.cat([destinations for _, destinations in ends]).long(),
        etype=torch.repeat_interleave(edge_counts),
        edge_types=names,
        batch_num_nodes=torch.atleast_1d(torch.as_tensor(counts, device=graph.device)).long(),
    )


def to_networkx(graph: dgl.DGLGraph | GraphStructure) -> networkx.MultiDiGraph:
    """The graph as a networkx one: nodes 0 to N - 1 with attribute ``item``, edges with attribute ``type``, the name.

    >>> list(to_networkx(from_dgl(dgl.graph(([1, 2], [0, 0])))).edges(data="type"))
    [(1, 0, '_E'), (2, 0, '_E')]
    """
    structure = graph if isinstance(graph, GraphStructure) else from_dgl(graph)
    result = networkx.MultiDiGraph()
    result.add_nodes_from((node, {"item": item}) for node, item in enumerate(structure.node_item.tolist()))
    columns = (structure.indices.tolist(), structure.destinations.tolist(), structure.etype.tolist())
    result.add_edges_from((s, d, {"type": structure.edge_types[t]}) for s, d, t in zip(*columns, strict=True))
    return result
