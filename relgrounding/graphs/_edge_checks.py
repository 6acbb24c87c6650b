"""Whether columns of edges make a batch of graphs."""

import torch
from torch import Tensor


def check_edges(
    sources: Tensor, destinations: Tensor, etype: Tensor, edge_types: tuple[str, ...], batch_num_nodes: Tensor
) -> None:
    """Raise the ValueError of `GraphStructure.from_edges` that names what is wrong."""
    if len(set(edge_types)) != len(edge_types):
        raise ValueError(f"edge_types: {edge_types} holds a name twice; give each type its own name")
    if (batch_num_nodes < 0).any():
        raise ValueError(f"batch_num_nodes: {batch_num_nodes.tolist()} holds a negative number of nodes")
    if not len(sources) == len(destinations) == len(etype):
        raise ValueError(
            f"edges: {len(sources)} sources, {len(destinations)} destinations, {len(etype)} types; give one an edge"
        )
    node_item = torch.repeat_interleave(batch_num_nodes)
    ranges = (("source", sources, len(node_item)), ("destination", destinations, len(node_item)))
    for name, values, limit in (*ranges, ("type", etype, len(edge_types))):
        wrong = ((values < 0) | (values >= limit)).nonzero()
        if len(wrong):
            edge = int(wrong[0])
            raise ValueError(
                f"edge {edge}: {name} {int(values[edge])} does not exist; there are {limit}, counted from 0"
            )
    crossing = (node_item[sources] != node_item[destinations]).nonzero()
    if len(crossing):
        edge = int(crossing[0])
        source, destination = int(sources[edge]), int(destinations[edge])
        raise ValueError(
            f"edge {edge}: {source} -> {destination} joins item {int(node_item[source])} to item "
            f"{int(node_item[destination])}; an edge stays inside its item: check batch_num_nodes and the node numbers"
        )
