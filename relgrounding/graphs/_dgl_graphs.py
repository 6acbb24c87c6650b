"""From tensors to DGL graphs."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from relgrounding._dgl import dgl, dgl_cuda_reason
from relgrounding.graphs._ragged import offsets
from relgrounding.graphs._relations import NODE_TYPE

if TYPE_CHECKING:
    from relgrounding.graphs._structure import GraphStructure


def _graph_device(device: torch.device) -> torch.device:
    """The device itself where DGL can hold graphs there, otherwise the CPU."""
    if device.type == "cuda" and dgl_cuda_reason() is not None:
        return torch.device("cpu")
    return device


def assemble(
    number: Shaped[Tensor, " places"],
    first_number: int,
    sources: Int64[Tensor, " places"],
    destinations: Int64[Tensor, " places"],
    item_ends: Int64[Tensor, " items"],
    edge_types: tuple[str, ...],
    batch_num_nodes: Int64[Tensor, " items"],
) -> dgl.DGLGraph:
    """Batched heterograph of the edges at some places; edges of one type keep the order of the places.

    Args:
        number: (P,) type of the edge at each place plus `first_number`; below that there is no edge.
        first_number: number of the first type, 0 or 1.
        sources: (P,) node numbers.
        destinations: (P,) node numbers.
        item_ends: (B,) the place after the last one of each item; items stand one after another.
        edge_types: names of the types.
        batch_num_nodes: (B,) nodes of each item.
    """
    device = _graph_device(number.device)
    if len(edge_types) + first_number <= 256:
        # Bytes are sorted by counting.
        number = number.to(torch.uint8)
    counts = torch.bincount(number, minlength=len(edge_types) + first_number).tolist()[first_number:]
    order = number.argsort(stable=True)[len(number) - sum(counts) :]
    by_type = order.split(counts)
    edges_before = torch.stack([torch.searchsorted(places, item_ends) for places in by_type])
    item_counts = edges_before.diff(prepend=edges_before.new_zeros(len(by_type), 1)).to(device)
    names = [(NODE_TYPE, name, NODE_TYPE) for name in edge_types]
    ends = (values.index_select(0, order).to(device).split(counts) for values in (sources, destinations))
    edges = dict(zip(names, zip(*ends, strict=True), strict=True))
    batch_num_nodes = batch_num_nodes.to(device)
    graph = dgl.heterograph(edges, {NODE_TYPE: int(batch_num_nodes.sum())}, device=device)
    graph.set_batch_num_nodes({NODE_TYPE: batch_num_nodes})
    graph.set_batch_num_edges(dict(zip(names, item_counts, strict=True)))
    return graph


def heterograph(structure: "GraphStructure") -> dgl.DGLGraph:
    """Batched heterograph of one node type, see `GraphStructure.to_dgl`."""
    ends = structure.indptr[offsets(structure.batch_num_nodes)[1:]]
    columns = (structure.etype, 0, structure.indices, structure.destinations)
    return assemble(*columns, ends, structure.edge_types, structure.batch_num_nodes)


def homogeneous(structure: "GraphStructure") -> dgl.DGLGraph:
    """Batched graph of one edge type, see `GraphStructure.homogeneous`."""
    structure = structure.to(_graph_device(structure.device))
    # In this form message passing needs no conversion. The edge numbers are spelt out although they count up: without
    # them DGL 1.1.3 refuses float32 edge tensors ("Check notnull: edges").
    numbers = torch.arange(structure.num_edges, device=structure.device)
    data = ("csc", (structure.indptr, structure.indices, numbers))
    graph = dgl.graph(data, num_nodes=structure.num_nodes, device=structure.device)
    graph.set_batch_num_nodes(structure.batch_num_nodes)
    graph.set_batch_num_edges(structure.indptr[offsets(structure.batch_num_nodes)].diff())
    return graph
