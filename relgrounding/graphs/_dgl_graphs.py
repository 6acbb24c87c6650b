"""From tensors to DGL graphs."""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from relgrounding._dgl import dgl, dgl_cuda_reason
from relgrounding.graphs._items._flat import offsets

NODE_TYPE = "proposal"


def _graph_device(device: torch.device) -> torch.device:
    """The device itself where DGL can hold graphs there, otherwise the CPU."""
    if device.type == "cuda" and dgl_cuda_reason() is not None:
        return torch.device("cpu")
    return device


def heterograph(
    number: Shaped[Tensor, " rows"],
    sources: Int64[Tensor, " rows"],
    destinations: Int64[Tensor, " rows"],
    item_ends: Int64[Tensor, " items"],
    edge_types: tuple[str, ...],
    batch_num_nodes: Int64[Tensor, " items"],
) -> dgl.DGLGraph:
    """Batched heterograph of one node type, see `GraphStructure.to_dgl`; edges of one type keep the order of the rows.

    Args:
        number: (R,) 0 for a row without an edge, otherwise its type + 1; items stand one after another.
        sources: (R,) node numbers through the batch.
        destinations: (R,) the same.
        item_ends: (B,) the end of each item's rows.
        edge_types: names of the types.
        batch_num_nodes: (B,) nodes of each item.
    """
    device = _graph_device(number.device)
    none, *counts = torch.bincount(number, minlength=len(edge_types) + 1).tolist()
    order = number.argsort(stable=True)[none:]
    edges_before = torch.stack([torch.searchsorted(rows, item_ends) for rows in order.split(counts)])
    item_counts = edges_before.diff(prepend=edges_before.new_zeros(len(counts), 1)).to(device)
    names = [(NODE_TYPE, name, NODE_TYPE) for name in edge_types]
    ends = (values.index_select(0, order).to(device).split(counts) for values in (sources, destinations))
    edges = dict(zip(names, zip(*ends, strict=True), strict=True))
    batch_num_nodes = batch_num_nodes.to(device)
    graph = dgl.heterograph(edges, {NODE_TYPE: int(batch_num_nodes.sum())}, device=device)
    graph.set_batch_num_nodes({NODE_TYPE: batch_num_nodes})
    graph.set_batch_num_edges(dict(zip(names, item_counts, strict=True)))
    return graph


def of_one_type(
    indptr: Int64[Tensor, " nodes_plus_one"],
    indices: Int64[Tensor, " edges"],
    batch_num_nodes: Int64[Tensor, " items"],
    edge_type: str | None = None,
) -> dgl.DGLGraph:
    """Batched graph of one edge type, with edges in the forward order; the columns are those of a structure.

    Args:
        indptr: see `GraphStructure`.
        indices: likewise.
        batch_num_nodes: likewise.
        edge_type: between nodes of type ``proposal``; None: DGL's own names.
    """
    name = ("_N", "_E", "_N") if edge_type is None else (NODE_TYPE, edge_type, NODE_TYPE)
    device = _graph_device(indptr.device)
    indptr, indices, batch_num_nodes = (values.to(device) for values in (indptr, indices, batch_num_nodes))
    # In this form message passing needs no conversion. The edge numbers are given although they count up: without
    # them DGL 1.1.3 refuses float32 edge tensors ("Check notnull: edges").
    numbers = torch.arange(len(indices), device=device)
    graph = dgl.heterograph({name: ("csc", (indptr, indices, numbers))}, {name[0]: len(indptr) - 1}, device=device)
    graph.set_batch_num_nodes(batch_num_nodes)
    graph.set_batch_num_edges(indptr[offsets(batch_num_nodes)].diff())
    return graph
