"""Where the padded matrices of the `dense` backends are faster than sums over the edges."""

from collections.abc import Callable

from relgrounding.graphs import GraphStructure

# Where the two cross in float32, forward and backward, on items of 10 to 400 nodes: sums cost per edge, matrices per
# pair of nodes, and more in small items and small batches (the density runs of `benchmarks/results`).
EDGES = 8000
NODES = 24


def mostly_joined(share: float) -> Callable[[GraphStructure], bool]:
    """Whether a graph is large, has large items, and joins at least a share of all ordered pairs of their nodes."""

    def suits(graph: GraphStructure) -> bool:
        pairs, edges = graph.num_pairs, graph.num_edges
        return edges >= EDGES and pairs >= NODES * graph.num_nodes and edges >= share * pairs

    return suits
