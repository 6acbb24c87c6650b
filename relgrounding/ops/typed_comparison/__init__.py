"""Gates per edge that open edge types: saturated counts of the types, and the mean of what came through."""

from jaxtyping import Float
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops._dispatch import as_structure, launch
from relgrounding.ops._registry import load_backends
from relgrounding.ops.typed_comparison.naive import comparison_gates

load_backends(__name__, __path__)


def typed_comparison(
    graph: "dgl.DGLGraph | GraphStructure",
    feat: Float[Tensor, "nodes dim"],
    gate: Float[Tensor, " nodes"],
    type_gate: Float[Tensor, "nodes types"],
    type_bias: Float[Tensor, "types dim"],
    edge_bias: Float[Tensor, " edges"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "nodes dim"]:
    """Compare each node with its in-neighbours: which types of edges are there, and what lies at their other end.

        g_ij   = sigmoid(gate_j + type_gate_i[type_ij] + edge_bias_ij)
        n_i[t] = sum over the in-edges j -> i of type t of  g_ij
        out_i  = sum_t n_i[t] / (1 + n_i[t]) type_bias[t]  +  sum_j g_ij feat_j / (1 + sum_j g_ij)

    Unlike in `gated_sum` the destination has a say in which types count, for example by its own sentence, and no sum
    grows with the number of neighbours: a count in [0, 1) says whether there is one. A node without in-edges gets
    zeros.

    Second derivatives (`create_graph=True`) are those of "naive", in its time and memory; "triton" refuses them.

    Args:
        graph: of N nodes, E edges and R edge types; type_ij is an index into `GraphStructure.edge_types`.
        feat: (N, D).
        gate: (N,), the share of the edge's source in the logit.
        type_gate: (N, R), the share of the edge's destination, for each type.
        type_bias: (R, D).
        edge_bias: (E,), the share of the edge itself, in the forward order: that of `GraphStructure.edge_index`, and
            for a DGLGraph that of `graphs.from_dgl(graph).edge_index`. Minus infinity takes an edge out. None: zeros.
        backend: as in `gated_sum`.

    Returns:
        (N, D).

    Raises:
        ValueError: an unknown backend, one that cannot run on these tensors, or shapes that do not fit the graph.
    """
    structure = as_structure(graph)
    nodes, types, dim = structure.num_nodes, structure.num_types, feat.shape[-1] if feat.dim() else 0
    inputs, expected = (feat, gate, type_gate, type_bias), ((nodes, dim), (nodes,), (nodes, types), (types, dim))
    found = tuple(tuple(t.shape) for t in inputs)
    if found != expected:
        raise ValueError(
            f"the graph has {nodes} nodes and {types} edge types; feat, gate, type_gate, type_bias have the shapes "
            f"{found}, they must be (nodes, dim), (nodes,), (nodes, types), (types, dim) = {expected}"
        )
    if edge_bias is None:
        return launch("typed_comparison", inputs, backend, graph=structure)
    if edge_bias.shape != (structure.num_edges,):
        raise ValueError(
            f"edge_bias has the shape {tuple(edge_bias.shape)}, the graph has {structure.num_edges} edges; give "
            f"({structure.num_edges},)"
        )
    return launch("typed_comparison", (*inputs, edge_bias), backend, graph=structure)


__all__ = ["comparison_gates", "typed_comparison"]
