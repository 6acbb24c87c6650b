"""Sum over in-neighbours with a gate per edge and a bias per edge type."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops._dispatch import as_structure, launch, whole_layer
from relgrounding.ops._edges import edge_inputs, per_edge
from relgrounding.ops._registry import load_backends
from relgrounding.ops.gated_sum.naive import gated_by_edge, gated_layer_by

load_backends(__name__, __path__)


def gated_sum(
    graph: "dgl.DGLGraph | GraphStructure",
    feat: Float[Tensor, "nodes dim"],
    gate: Float[Tensor, " nodes"],
    gate_bias: Float[Tensor, " types"],
    type_bias: Float[Tensor, "types dim"],
    backend: str = "auto",
) -> Float[Tensor, "nodes dim"]:
    """Sum of the in-neighbours' features and of a bias per edge type, each edge through its own gate.

        g_ij  = sigmoid(gate_j + gate_bias[type_ij])
        out_i = sum over the in-edges j -> i of  g_ij (feat_j + type_bias[type_ij])

    A node without in-edges gets zeros.

    Second derivatives (`create_graph=True`) are those of "naive", in its time and memory; the two Triton backends
    refuse them.

    Args:
        graph: of N nodes and R edge types; type_ij is an index into `GraphStructure.edge_types`.
        feat: (N, D).
        gate: (N,), the share of the edge's source in the logit.
        gate_bias: (R,), the share of the edge's type.
        type_bias: (R, D).
        backend: "auto", "naive" (edge by edge, any float type), "dgl" (DGL's kernels), "cpp" (compiled loops, on the
            CPU), "dense" (padded matrices), "csr" (sums over the sorted edges), "triton" (fused, on a
            GPU) or "triton_dense" (the same on tensor cores, for items of up to 256 nodes).

    Returns:
        (N, D).

    Raises:
        ValueError: an unknown backend, one that cannot run on these tensors, or shapes that do not fit the graph.

    Source: the edge gates of Marcheggiani and Titov, Encoding Sentences with Graph Convolutional Networks for Semantic
    Role Labeling, EMNLP 2017, equations 5 and 6.
    """
    structure = as_structure(graph)
    nodes, types = structure.num_nodes, structure.num_types
    expected = ((nodes, feat.shape[1]), (nodes,), (types,), (types, feat.shape[1]))
    found = tuple(tuple(t.shape) for t in (feat, gate, gate_bias, type_bias))
    if found != expected:
        raise ValueError(
            f"the graph has {nodes} nodes and {types} edge types; feat, gate, gate_bias, type_bias have the shapes "
            f"{found}, they must be (nodes, dim), (nodes,), (types,), (types, dim) = {expected}"
        )
    return launch("gated_sum", (feat, gate, gate_bias, type_bias), backend, graph=structure)


def gated_layer(
    graph: "dgl.DGLGraph | GraphStructure",
    x: Float[Tensor, "nodes in_dim"],
    weight: Float[Tensor, "maps_and_gates in_dim"],
    bias: Float[Tensor, " out_dim"] | None,
    gate_bias: Float[Tensor, "ways types"],
    type_bias: Float[Tensor, "ways types out_dim"],
    backend: str,
) -> Float[Tensor, "nodes out_dim"]:
    """Gated sums with their linear maps: `nn.EdgeGatedGCN`, or `nn.GatedSum` for one direction and no bias.

    Fused where the backend can, in a fraction of the memory. The result has the type of x.

    Args:
        graph: of N nodes and R edge types.
        x: (N, in_dim).
        weight: one below the other, the maps of the in-edges and, with two directions, of the out-edges, then that of
            the node itself where there is a bias, then a row of gate weights per direction.
        bias: added with the map of the node itself, before a ReLU; None: none of the three.
        gate_bias: (ways, R).
        type_bias: (ways, R, out_dim).
        backend: see `gated_sum`.

    Raises:
        ValueError: as `gated_sum`.
    """
    structure = _typed_structure(graph, gate_bias.shape[1])
    weights = [w for w in (weight, bias, gate_bias, type_bias) if w is not None]
    if layer := whole_layer("gated_layer", "gated_sum", backend, structure, x, *weights):
        return layer(structure, x, weight, bias, gate_bias, type_bias)
    summed = functools.partial(gated_sum, backend=backend)
    return gated_layer_by(summed, structure, x, weight, bias, gate_bias, type_bias)


def gated_layer_by_edge(
    graph: "dgl.DGLGraph | GraphStructure",
    x: Float[Tensor, "nodes in_dim"],
    weight: Float[Tensor, "maps_and_gates in_dim"],
    bias: Float[Tensor, " out_dim"] | None,
    gate_bias: Float[Tensor, "ways types"],
    type_bias: Float[Tensor, "ways types out_dim"],
    backend: str,
    edge_bias: Tensor | None,
    dropout: float,
) -> tuple[Float[Tensor, "nodes out_dim"], Float[Tensor, "edges ways"]]:
    """`gated_layer` with a bias per logit and dropout of the gates, and the gates before it; see `ops._edges`.

    Args:
        graph: of E edges.
        x: see `gated_layer`, as the next four.
        weight: maps and gate weights.
        bias: of the result.
        gate_bias: per direction and type.
        type_bias: per direction and type.
        backend: "naive", or any other one: they all compute the same way.
        edge_bias: (E,) or (E, ways), in the forward order of the edges.
        dropout: share of the gates set to zero.
    """
    structure = _typed_structure(graph, gate_bias.shape[1])
    bias_EK = per_edge("edge_bias", edge_bias, structure, len(gate_bias))
    gates: list[Tensor] = []

    def summed(graph: GraphStructure, *inputs: Tensor) -> Tensor:
        # The second graph is the reversed one, whose edges come by source.
        way, bias_E = len(gates), None
        if bias_EK is not None:
            bias_E = bias_EK[structure.out_edges, 1] if way else bias_EK[:, 0]
        naive, cast, bias_E = edge_inputs("gated_sum", graph, inputs, bias_E, backend)
        with torch.autocast(x.device.type, enabled=False):
            out, gate_E = gated_by_edge(graph, *cast, edge_bias_E=bias_E, dropout=dropout, naive=naive)
        gates.append(gate_E[graph.out_edges] if way else gate_E)
        return out

    out = gated_layer_by(summed, structure, x, weight, bias, gate_bias, type_bias)
    return out, torch.stack(gates, 1).to(x.dtype)


def _typed_structure(graph: "dgl.DGLGraph | GraphStructure", types: int) -> GraphStructure:
    structure = as_structure(graph)
    if types != structure.num_types:
        raise ValueError(
            f"the graph has {structure.num_types} edge types, the layer was made for {types}; make it with "
            f"num_types={structure.num_types}"
        )
    return structure


__all__ = ["gated_layer", "gated_layer_by_edge", "gated_sum"]
