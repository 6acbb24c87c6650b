"""Random batches of graphs with the awkward ones in."""

import torch
from hypothesis import strategies as st

from relgrounding.graphs import GraphStructure

FIELDS = ("indptr", "indices", "etype", "batch_num_nodes", "out_indptr", "out_indices", "out_edges")
TYPES = ("a", "b", "c")


@st.composite
def multigraphs(draw) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Edges (source, destination, type) in any order and node counts; isolated nodes and empty items included."""
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    edges, first = [], 0
    for count in counts:
        if count:
            node = st.integers(first, first + count - 1)
            edges += draw(st.lists(st.tuples(node, node, st.integers(0, 2)), max_size=8))
        first += count
    return draw(st.permutations(edges)), counts


def build(drawn) -> GraphStructure:
    edges, counts = drawn
    columns = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).unbind(1)
    return GraphStructure.from_edges(*columns, TYPES, torch.tensor(counts))


def assert_equal(a: GraphStructure, b: GraphStructure) -> None:
    assert a.edge_types == b.edge_types
    for name in FIELDS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def in_edges(structure) -> list[tuple[int, int, int]]:
    triples = []
    for node in range(structure.num_nodes):
        for edge in range(int(structure.indptr[node]), int(structure.indptr[node + 1])):
            triples.append((int(structure.indices[edge]), node, int(structure.etype[edge])))
    return triples
