"""A batch of graphs as smaller batches, for work whose intermediate results should stay small."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relgrounding.graphs._structure import GraphStructure


def ranges(structure: "GraphStructure", edges: int) -> Iterator[tuple[slice, slice, slice]]:
    """Items, nodes and edges of each piece; see `GraphStructure.pieces`."""
    if structure.num_edges <= edges:
        yield slice(0, structure.batch_size), slice(0, structure.num_nodes), slice(0, structure.num_edges)
        return
    ends, sizes = structure.item_edges, structure.batch_num_nodes.tolist()
    first = node = 0
    while first < len(sizes):
        last = max(first + 1, bisect_right(ends, ends[first] + edges) - 1)
        nodes = slice(node, node + sum(sizes[first:last]))
        yield slice(first, last), nodes, slice(ends[first], ends[last])
        first, node = last, nodes.stop


def pieces(structure: "GraphStructure", edges: int) -> Iterator[tuple[slice, slice, "GraphStructure"]]:
    """See `GraphStructure.pieces`."""
    for items, nodes, own in ranges(structure, edges):
        whole = nodes == slice(0, structure.num_nodes)
        yield nodes, own, structure if whole else _piece(structure, items, nodes, own)


def _piece(structure: "GraphStructure", items: slice, nodes: slice, edges: slice) -> "GraphStructure":
    pointers = slice(nodes.start, nodes.stop + 1)
    # Edges stay inside their item: those of an item are one range, and the same range in both orders.
    return replace(
        structure,
        indptr=structure.indptr[pointers] - edges.start,
        indices=structure.indices[edges] - nodes.start,
        etype=structure.etype[edges],
        batch_num_nodes=structure.batch_num_nodes[items],
        out_indptr=structure.out_indptr[pointers] - edges.start,
        out_indices=structure.out_indices[edges] - nodes.start,
        out_edges=structure.out_edges[edges] - edges.start,
    )
