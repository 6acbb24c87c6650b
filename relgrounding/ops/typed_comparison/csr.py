"""Segment by segment of the sorted edges: time and memory grow with edges plus nodes."""

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops._segments import edge_dots, weighted_rows
from relgrounding.ops.typed_comparison._by_edge import Products, compare

# Edges of the items that are worked on together: the rows that they read then stay in the cache.
PIECE = 2**19


@register_backend(
    "typed_comparison",
    "csr",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    auto={"cpu": 10, "cuda": 10},
    widen_half=True,
    opaque=True,
)
def typed_comparison_csr(
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


def _sums(structure: GraphStructure, feat_ND: Tensor, weight_E: Tensor) -> Tensor:
    out_ND = torch.empty_like(feat_ND)
    for nodes, edges, part in structure.pieces(PIECE):
        out_ND[nodes] = weighted_rows(feat_ND[nodes], part.indices, part.indptr, weight_E[edges])
    return out_ND


def _turned_sums(structure: GraphStructure, feat_ND: Tensor, weight_E: Tensor) -> Tensor:
    out_ND = torch.empty_like(feat_ND)
    for nodes, edges, part in structure.pieces(PIECE):
        turned_E = weight_E[edges].index_select(0, part.out_edges)
        out_ND[nodes] = weighted_rows(feat_ND[nodes], part.out_indices, part.out_indptr, turned_E)
    return out_ND


def _dots(structure: GraphStructure, one_ND: Tensor, other_ND: Tensor) -> Tensor:
    out_E = one_ND.new_empty(structure.num_edges)
    for nodes, edges, part in structure.pieces(PIECE):
        out_E[edges] = edge_dots(one_ND[nodes], other_ND[nodes], part.indices, part.indptr)
    return out_E
