"""Edge by edge: the reference of tests and benchmarks, in any float type; and the gates alone."""

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._edges import take_rows
from relgrounding.ops._registry import register_backend


def comparison_gates(
    structure: GraphStructure,
    gate_N: Float[Tensor, " nodes"],
    type_gate_NR: Float[Tensor, "nodes types"],
    edge_bias_E: Float[Tensor, " edges"] | None = None,
    naive: bool = False,
) -> Float[Tensor, " edges"]:
    """(E,) the gates of `relgrounding.ops.typed_comparison`, in the forward order of the edges; see `take_rows`."""
    logit_E = take_rows(gate_N, structure.indices, naive)
    logit_E = logit_E + take_rows(type_gate_NR.reshape(-1), type_cells(structure), naive)
    if edge_bias_E is not None:
        # The sum with a gate that overflowed would be NaN.
        logit_E = (logit_E + edge_bias_E).masked_fill(edge_bias_E == -torch.inf, -torch.inf)
    return torch.sigmoid(logit_E)


def type_cells(structure: GraphStructure) -> Tensor:
    """(E,) where the destination and the type of each edge are in a flat table of nodes x types."""
    return torch.add(structure.etype, structure.destinations, alpha=structure.num_types)


@register_backend("typed_comparison", "naive")
def typed_comparison_naive(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    type_gate_NR: Float[Tensor, "nodes types"],
    type_bias_RD: Float[Tensor, "types dim"],
    edge_bias_E: Float[Tensor, " edges"] | None = None,
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.typed_comparison`; makes (edges, dim) tensors."""
    src, dst, etype, cell_E = structure.indices, structure.destinations, structure.etype, type_cells(structure)
    gate_E = comparison_gates(structure, gate_N, type_gate_NR, edge_bias_E, naive=True)
    count_E = torch.zeros_like(type_gate_NR).flatten().index_add(0, cell_E, gate_E).index_select(0, cell_E)
    total_E = torch.zeros_like(gate_N).index_add(0, dst, gate_E).index_select(0, dst)
    of_type_ED = (gate_E / (1 + count_E))[:, None] * type_bias_RD.index_select(0, etype)
    through_ED = (gate_E / (1 + total_E))[:, None] * feat_ND.index_select(0, src)
    return torch.zeros_like(feat_ND).index_add(0, dst, of_type_ED + through_ED)
