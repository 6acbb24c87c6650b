"""Edge by edge: the reference of tests and benchmarks, in any float type."""

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure


def gated_sum_naive(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.gated_sum`; makes (edges, dim) tensors."""
    src, dst, etype = structure.indices, structure.destinations, structure.etype
    gate_E = torch.sigmoid(gate_N[src] + gate_bias_R[etype])
    message_ED = gate_E[:, None] * (feat_ND[src] + type_bias_RD[etype])
    return torch.zeros_like(feat_ND).index_add(0, dst, message_ED)
