"""Padded matrices of gates, a few items at a time: the products are matrix products.

`auto` leaves it alone: on a CPU `csr` is faster even where all pairs of nodes are joined, since the gate of each edge
has to be written into its cell first.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.graphs._items._padded import ItemGroup
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops._segments import cell_sums
from relgrounding.ops.typed_comparison._by_edge import Products, compare


@register_backend(
    "typed_comparison",
    "dense",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    widen_half=True,
    opaque=True,
)
def typed_comparison_dense(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    type_gate_NR: Float[Tensor, "nodes types"],
    type_bias_RD: Float[Tensor, "types dim"],
    edge_bias_E: Float[Tensor, " edges"] | None = None,
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.typed_comparison`."""
    products = Products(_sums, _turned_sums, _dots)
    return compare(products, structure, feat_ND, gate_N, type_gate_NR, type_bias_RD, edge_bias_E)


def _sums(structure: GraphStructure, feat_ND: Tensor, weight_E: Tensor, turned: bool = False) -> Tensor:
    out_ND = torch.empty_like(feat_ND)
    for group, edges, cell in _groups(structure):
        items, longest = group.size
        # Parallel edges share a cell, and their weights are added up there.
        weights = cell_sums(weight_E[edges], cell, torch.Size((items, longest, longest)))
        target = group.target(out_ND)
        torch.bmm(weights.mT if turned else weights, group.pad(feat_ND), out=target)
        group.write(out_ND, target)
    return out_ND


def _turned_sums(structure: GraphStructure, feat_ND: Tensor, weight_E: Tensor) -> Tensor:
    return _sums(structure, feat_ND, weight_E, turned=True)


def _dots(structure: GraphStructure, one_ND: Tensor, other_ND: Tensor) -> Tensor:
    out_E = one_ND.new_empty(structure.num_edges)
    for group, edges, cell in _groups(structure):
        pairs = torch.bmm(group.pad(one_ND), group.pad(other_ND).mT)
        torch.index_select(pairs.view(-1), 0, cell, out=out_E[edges])
    return out_E


def _groups(structure: GraphStructure) -> Iterator[tuple[ItemGroup, slice, Tensor]]:
    """Each group, its edges, and their cells in its flat (items, longest, longest): destination, then source."""
    ends, item = structure.item_edges, 0
    sizes = structure.batch_num_nodes.tolist()
    for group in structure.groups:
        first, nodes = item, 0
        while nodes < group.nodes.stop - group.nodes.start:
            nodes += sizes[item]
            item += 1
        edges, longest = slice(ends[first], ends[item]), group.size[1]
        target, source = (x[edges] - group.nodes.start for x in (structure.destinations, structure.indices))
        if group.row_of_node is not None:
            target, source = group.row_of_node[target], group.row_of_node[source]
        yield group, edges, target * longest + source % longest
