"""Edge by edge: the reference of tests, in any float type."""

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import register_backend


@register_backend("edge_dot", "naive", per_edge=True)
def edge_dot_naive(structure: GraphStructure, keys_NK: Float[Tensor, "nodes dim"]) -> Float[Tensor, " edges"]:
    """See `relgrounding.ops.edge_dot`; makes two (edges, K) tensors."""
    ends = structure.destinations, structure.indices
    return torch.linalg.vecdot(*(keys_NK.index_select(0, end) for end in ends))
