"""Structures from and to the graphs of other libraries: DGL, PyTorch Geometric, networkx."""

from collections.abc import Sequence
from typing import Any

import networkx
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs._inputs import ArrayLike, read_integers
from relgrounding.graphs._spatial import SPATIAL_EDGE_TYPES
from relgrounding.graphs._structure import GraphStructure
from relgrounding.graphs._temporal import TEMPORAL_EDGE_TYPES

MOST_TYPES = 65_536
"""Types of edges that `from_pyg` names by number."""

# Attribute of a DGL graph that holds its structure, and what the structure was computed from.
_KEPT = "_relgrounding_structure"


def from_dgl(graph: dgl.DGLGraph) -> GraphStructure:
    """Structure of a DGL graph with one node type; features are left behind.

    It is kept with the graph, so a second call costs nothing, and computed anew once the graph's edges, nodes or batch
    have changed.

    Args:
        graph: any edge types, batched or not. Parallel edges are kept.

    Returns:
        Structure with as many items as the graph's batch. `edge_types` are the graph's ``etypes`` in DGL's order, which
        is alphabetical; spatial and temporal relations come in the order of `SpatialRelation` and `TemporalRelation`.

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
    version = None if counts is None or counts.is_inference() else counts._version
    kept = vars(graph).get(_KEPT)
    if kept is not None and kept[0] is index and kept[1] is counts and kept[2] == version:
        return kept[3]
    structure = _structure(graph, graph.num_nodes() if counts is None else counts)
    setattr(graph, _KEPT, (index, counts, version, structure))
    return structure


def _item_sizes(graph: dgl.DGLGraph) -> Int[Tensor, " items"] | None:
    """Nodes of each item; None for one item: `batch_num_nodes()` would turn it into a batch without edge counts."""
    return None if graph._batch_num_nodes is None else graph.batch_num_nodes()


def _structure(graph: dgl.DGLGraph, counts: Int[Tensor, " items"] | int) -> GraphStructure:
    names = tuple(graph.etypes)
    for numbered in (SPATIAL_EDGE_TYPES, TEMPORAL_EDGE_TYPES):
        names = numbered if set(names) == set(numbered) else names
    ends = [graph.edges(etype=name) for name in names]
    edge_counts = torch.tensor([len(sources) for sources, _ in ends], device=graph.device)
    return GraphStructure.from_edges(
        sources=torch.cat([sources for sources, _ in ends]).long(),
        destinations=torch.cat([destinations for _, destinations in ends]).long(),
        etype=torch.repeat_interleave(edge_counts),
        edge_types=names,
        batch_num_nodes=torch.atleast_1d(torch.as_tensor(counts, device=graph.device)).long(),
    )


def from_pyg(
    data: Any,
    num_nodes: int | ArrayLike | None = None,
    edge_type: ArrayLike | None = None,
    edge_types: Sequence[str] | None = None,
) -> GraphStructure:
    """Structure of a PyTorch Geometric graph or of a plain `edge_index`; features are left behind.

    An edge of a structure passes messages from its source, row 0, to its destination, row 1: PyG's
    ``flow="source_to_target"``.

    Args:
        data: a `Data` or a `Batch` of them; or (2, E) an `edge_index`: a tensor, array or list, row 0 the sources, row
            1 the destinations. Its nodes count through the whole batch.
        num_nodes: nodes of the graph, or (B,) nodes of each item; by default those of `data`, by its ``ptr``, its
            ``batch`` or its ``num_nodes``. An `edge_index` does not say how many there are, so it must be given.
        edge_type: (E,) type of each edge; by default that of `data`. Without one, all edges are of one type.
        edge_types: names of the types; by default ``"0"``, ``"1"``, ... up to the highest in `edge_type`.

    Returns:
        Structure whose edges are in the forward order, which may differ from the order of `data`.

    Raises:
        ValueError: another shape, no number of nodes, nodes that are not sorted by item; or as in
            `GraphStructure.from_edges`.

    >>> structure = from_pyg(torch.tensor([[1, 2], [0, 0]]), num_nodes=3)
    >>> structure.indptr.tolist(), structure.edge_types
    ([0, 2, 2, 2], ('0',))
    """
    edge_index = data
    if not isinstance(data, (Tensor, np.ndarray, list, tuple)):
        edge_index = getattr(data, "edge_index", None)
        if edge_index is None:
            raise ValueError(
                f"from_pyg: the {type(data).__name__} has no edge_index; give a Data, a Batch or an edge_index "
                "(of a HeteroData, take to_homogeneous())"
            )
        num_nodes = _pyg_nodes(data) if num_nodes is None else num_nodes
        edge_type = getattr(data, "edge_type", None) if edge_type is None else edge_type
    if num_nodes is None:
        raise ValueError("from_pyg: an edge_index does not say how many nodes there are; give num_nodes")
    sources, destinations = _edge_rows(edge_index)
    etype = read_integers(np.zeros(len(sources), int) if edge_type is None else edge_type, "edge_type")
    if edge_types is None:
        highest = int(etype.max()) if len(etype) else 0
        if highest >= MOST_TYPES:
            raise ValueError(
                f"from_pyg: edge_type holds {highest}; give numbers from 0 to {MOST_TYPES - 1}, or names of types"
            )
        edge_types = [str(number) for number in range(highest + 1)]
    counts = read_integers([num_nodes] if isinstance(num_nodes, int) else num_nodes, "num_nodes")
    device = sources.device if isinstance(sources, Tensor) else "cpu"
    return GraphStructure.from_edges(sources, destinations, etype.to(device), edge_types, counts.to(device))


def _edge_rows(edge_index: Any) -> tuple[Any, Any]:
    """Sources and destinations of an `edge_index`."""
    listed = isinstance(edge_index, (list, tuple))
    rows = list(edge_index) if listed or edge_index.ndim else []
    if len(rows) != 2 or any(np.ndim(row) != 1 for row in rows):
        shape = f"{len(rows)} rows" if listed else f"shape {tuple(edge_index.shape)}"
        raise ValueError(f"from_pyg: edge_index has {shape}; give (2, E), sources and destinations")
    return rows[0], rows[1]


def _pyg_nodes(data: Any) -> Tensor | int | None:
    if getattr(data, "ptr", None) is not None:
        return data.ptr.diff()
    if getattr(data, "batch", None) is None:
        return data.num_nodes
    items = data.batch.long()  # differences of unsigned numbers are never negative
    if (items.diff() < 0).any():
        raise ValueError("from_pyg: batch is not ascending; sort the nodes by item")
    return torch.bincount(items)


def to_pyg(structure: GraphStructure) -> Any:
    """The items as a PyTorch Geometric `Batch`, also where there is only one; ``to_data_list()`` gives them back.

    Its edges are in the forward order: column e of ``edge_index`` and entry e of ``edge_type`` are edge e of the
    structure. The names of the types are not kept: ``from_pyg(batch, edge_types=structure.edge_types)`` is the
    structure.

    Raises:
        ImportError: PyTorch Geometric is not installed.
        ValueError: a structure without items, which PyTorch Geometric has no form for.
    """
    try:
        from torch_geometric.data import Batch, Data
    except ImportError as error:
        message = (
            'to_pyg needs PyTorch Geometric, which is not installed: run python -m pip install "torch-geometric>=2.4"'
        )
        raise ImportError(message) from error
    if not structure.batch_size:
        raise ValueError("to_pyg: the structure has no items; PyTorch Geometric has no batch without items")
    edge_index, bounds, items = structure.edge_index, structure.item_edges, []
    for number, nodes in enumerate(structure.batch_num_nodes.tolist()):
        edges = slice(bounds[number], bounds[number + 1])
        own = edge_index[:, edges] - structure.item_indptr[number]
        items.append(Data(edge_index=own, edge_type=structure.etype[edges], num_nodes=nodes))
    return Batch.from_data_list(items)


def to_networkx(graph: dgl.DGLGraph | GraphStructure) -> networkx.MultiDiGraph:
    """The graph in networkx: nodes 0 to N - 1 with attribute ``item``, edges with attribute ``type``, the name.

    >>> list(to_networkx(from_dgl(dgl.graph(([1, 2], [0, 0])))).edges(data="type"))
    [(1, 0, '_E'), (2, 0, '_E')]
    """
    structure = graph if isinstance(graph, GraphStructure) else from_dgl(graph)
    result = networkx.MultiDiGraph()
    result.add_nodes_from((node, {"item": item}) for node, item in enumerate(structure.node_item.tolist()))
    columns = (structure.indices.tolist(), structure.destinations.tolist(), structure.etype.tolist())
    result.add_edges_from((s, d, {"type": structure.edge_types[t]}) for s, d, t in zip(*columns, strict=True))
    return result
