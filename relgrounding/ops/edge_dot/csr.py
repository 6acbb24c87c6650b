"""Segment by segment of the sorted edges: time and memory grow with edges plus nodes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops._segments import edge_dots, weighted_rows
from relgrounding.ops.edge_dot.naive import edge_dot_naive

# Edges of the items that are worked on together: what is made of them in between then fits into the cache.
PIECE = 2**19


@register_backend(
    "edge_dot",
    "csr",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    auto={"cpu": 10, "cuda": 10},
    widen_half=True,
    opaque=True,
    per_edge=True,
)
def edge_dot_csr(structure: GraphStructure, keys_NK: Float[Tensor, "nodes dim"]) -> Float[Tensor, " edges"]:
    """See `relgrounding.ops.edge_dot`."""
    return _EdgeDot.apply(structure, keys_NK.contiguous())


class _EdgeDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, structure: GraphStructure, keys_NK: Tensor) -> Tensor:
        keep(ctx, (structure, keys_NK))
        out_E = keys_NK.new_empty(structure.num_edges)
        for nodes, edges, part in structure.pieces(PIECE):
            out_E[edges] = edge_dots(keys_NK[nodes], keys_NK[nodes], part.indices, part.indptr)
        return out_E

    @staticmethod
    @backward_pass(edge_dot_naive)
    def backward(ctx: Any, grad_E: Tensor) -> tuple[Tensor | None, ...]:
        (structure, keys_NK), _ = kept(ctx)
        d_keys = torch.empty_like(keys_NK)
        for nodes, edges, part in structure.pieces(PIECE):
            own_E, keys = grad_E[edges].contiguous(), keys_NK[nodes]
            d_keys[nodes] = weighted_rows(keys, part.indices, part.indptr, own_E)
            turned_E = own_E.index_select(0, part.out_edges)
            d_keys[nodes] += weighted_rows(keys, part.out_indices, part.out_indptr, turned_E)
        return None, d_keys
