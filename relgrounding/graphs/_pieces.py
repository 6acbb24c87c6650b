"""A batch of graphs as smaller batches, for work whose intermediate results should stay small."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relgrounding.graphs._structure import GraphStructure


def pieces(structure: "GraphStructure", edges: int) -> Iterator[tuple[slice, slice, "GraphStructure"]]:
    """See `GraphStructure.pieces`."""
    if structure.num_edges <= edges:
        yield slice(0, structure.num_nodes), slice(0, structure.num_edges), structure
        return
    ends, sizes = structure.item_edges, structure.batch_num_nodes.tolist()
    first = node = 0
    while first < len(sizes):
        last = max(first + 1, bisect_right(ends, ends[first] + edges) - 1)
        nodes = slice(node, node + sum(sizes[first:last]))
        own = slice(ends[first], ends[last])
        yield nodes, own, _piece(structure, slice(first, last), nodes, own)
        first, node = last, nodes.stop


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
