"""DGL's sparse product with one weight per edge; the types' biases through a table of gate sums."""

from jaxtyping import Float
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import recorded
from relgrounding.ops._dgl import dgl_reason
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.typed_comparison.naive import comparison_gates, type_cells, typed_comparison_naive


@register_backend(
    "typed_comparison",
    "dgl",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    reason=dgl_reason,
)
@recorded(typed_comparison_naive)
def typed_comparison_dgl(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    type_gate_NR: Float[Tensor, "nodes types"],
    type_bias_RD: Float[Tensor, "types dim"],
    edge_bias_E: Float[Tensor, " edges"] | None = None,
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.typed_comparison`; the largest tensors are (edges,) and (nodes, types)."""
    inputs = gate_N, type_gate_NR, edge_bias_E
    if structure.num_edges == 0:  # DGL refuses empty tensors
        return typed_comparison_naive(structure, feat_ND, gate_N, type_gate_NR, type_bias_RD, edge_bias_E)
    gate_E = comparison_gates(structure, *inputs, naive=True)
    count_NR = type_gate_NR.new_zeros(type_gate_NR.numel()).index_add(0, type_cells(structure), gate_E)
    count_NR = count_NR.view(type_gate_NR.shape)
    sum_ND = dgl.ops.u_mul_e_sum(structure.homogeneous(), feat_ND, gate_E.unsqueeze(-1))
    return (count_NR / (1 + count_NR)) @ type_bias_RD + sum_ND / (1 + count_NR.sum(1, keepdim=True))
