"""DGL's sparse product with one weight per edge; the types' biases through a table of gate sums."""

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import recorded
from relgrounding.ops._dgl import dgl_reason
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.gated_sum.naive import gated_sum_naive


@register_backend(
    "gated_sum",
    "dgl",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    reason=dgl_reason,
)
@recorded(gated_sum_naive)
def gated_sum_dgl(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.gated_sum`; the largest tensors are (edges,) and (nodes, types).

    The gate does not depend on the destination, so the biases need no (edges, dim) tensor:

        sum_j g_ij type_bias[type_ij] = sum_r T_ir type_bias_r   with   T_ir = sum of g_ij over in-edges of type r
    """
    nodes, types = structure.num_nodes, structure.num_types
    if structure.num_edges == 0:  # DGL refuses empty tensors
        return gated_sum_naive(structure, feat_ND, gate_N, gate_bias_R, type_bias_RD)
    gate_E = torch.sigmoid(gate_N.index_select(0, structure.indices) + gate_bias_R.index_select(0, structure.etype))
    cell_E = structure.destinations * types + structure.etype
    table_NR = gate_E.new_zeros(nodes * types).index_add(0, cell_E, gate_E).view(nodes, types)
    gathered = dgl.ops.u_mul_e_sum(structure.homogeneous(), feat_ND, gate_E.unsqueeze(-1))
    return gathered + table_NR @ type_bias_RD
