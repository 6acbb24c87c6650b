"""Edge by edge: the reference of tests and benchmarks, in any float type; and the layer made of any operator."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._edges import take_rows, weighted_sum
from relgrounding.ops._registry import register_backend


@register_backend("gated_sum", "naive")
def gated_sum_naive(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.gated_sum`; makes (edges, dim) tensors."""
    return gated_by_edge(structure, feat_ND, gate_N, gate_bias_R, type_bias_RD)[0]


def gated_by_edge(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
    *,
    edge_bias_E: Float[Tensor, " edges"] | None = None,
    dropout: float = 0.0,
    naive: bool = True,
) -> tuple[Float[Tensor, "nodes dim"], Float[Tensor, " edges"]]:
    """`gated_sum` and its gates, with a bias per logit and dropout of the gates; see `ops._edges`."""
    src, dst, etype = structure.indices, structure.destinations, structure.etype
    logit_E = take_rows(gate_N, src, naive) + take_rows(gate_bias_R, etype, naive)
    gate_E = torch.sigmoid(logit_E if edge_bias_E is None else logit_E + edge_bias_E)
    kept_E = torch.nn.functional.dropout(gate_E, dropout) if dropout else gate_E
    if naive:
        message_ED = kept_E[:, None] * (feat_ND.index_select(0, src) + type_bias_RD.index_select(0, etype))
        return torch.zeros_like(feat_ND).index_add(0, dst, message_ED), gate_E
    # The sums of the type biases: a table of gate sums per node and type, times the biases.
    cell_E, shape = dst * structure.num_types + etype, (structure.num_nodes, structure.num_types)
    table_NR = kept_E.new_zeros(shape[0] * shape[1]).index_put((cell_E,), kept_E, accumulate=True).view(shape)
    return weighted_sum(structure, feat_ND[:, None], kept_E[:, None], naive)[:, 0] + table_NR @ type_bias_RD, gate_E


@register_backend("gated_layer", "naive")
def gated_layer_naive(
    structure: GraphStructure,
    x: Float[Tensor, "nodes in_dim"],
    weight: Float[Tensor, "maps_and_gates in_dim"],
    bias: Float[Tensor, " out_dim"] | None,
    gate_bias: Float[Tensor, "ways types"],
    type_bias: Float[Tensor, "ways types out_dim"],
) -> Float[Tensor, "nodes out_dim"]:
    """See `relgrounding.ops.gated_sum.gated_layer`."""
    return gated_layer_by(gated_sum_naive, structure, x, weight, bias, gate_bias, type_bias)


def spare_rows(maps: int, device: torch.device) -> int:
    """How many rows to add to a weight, so that on a GPU each row of the product starts at a multiple of 16 numbers.

    Where it does not, kernels read rows in pieces of 4 bytes instead of 16.
    """
    return -maps % 16 if device.type == "cuda" else 0


def gated_layer_by(
    gated_sum: Callable[..., Tensor],
    structure: GraphStructure,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate_bias: Tensor,
    type_bias: Tensor,
) -> Tensor:
    """The layer step by step, with this `gated_sum`."""
    ways, dim = len(gate_bias), type_bias.shape[2]
    maps = ways + (bias is not None)
    weight = torch.nn.functional.pad(weight, (0, 0, 0, spare_rows(len(weight), x.device)))
    products = torch.nn.functional.linear(x, weight).split([dim] * maps + [ways, len(weight) - maps * dim - ways], 1)
    mapped, gates = products[:maps], products[maps]
    graphs = (structure, structure.reverse()) if ways == 2 else (structure,)
    sums = [gated_sum(graphs[k], mapped[k], gates[:, k], gate_bias[k], type_bias[k]) for k in range(ways)]
    total = sums[0] if ways == 1 else sums[0].add_(sums[1])
    # In place: the gradients need only the last result.
    return (total if bias is None else total.add_(mapped[ways]).add_(bias).relu_()).to(x.dtype)
