"""The product of the two ends of each edge."""

from jaxtyping import Float
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure
from relgrounding.ops._dispatch import as_structure, launch
from relgrounding.ops._registry import load_backends

load_backends(__name__, __path__)


def edge_dot(
    graph: "dgl.DGLGraph | GraphStructure", keys: Float[Tensor, "nodes dim"], backend: str = "auto"
) -> Float[Tensor, " edges"]:
    """For each edge j -> i the product ``keys_i . keys_j``: how similar its ends are.

    Second derivatives (`create_graph=True`) are those of "naive", in its time and memory.

    Args:
        graph: of N nodes and E edges.
        keys: (N, K).
        backend: "auto", "naive" (edge by edge, any float type) or "csr" (no (edges x K) tensor for the whole graph).

    Returns:
        (E,), in the forward order of the edges: that of `GraphStructure.edge_index`, and for a DGLGraph that of
        `graphs.from_dgl(graph).edge_index`.

    Raises:
        ValueError: an unknown backend, one that cannot run on these tensors, or keys that do not fit the graph.

    >>> from relgrounding.graphs import temporal_structure
    >>> moments = temporal_structure([[0, 4], [2, 6]], iou_threshold=0.1, self_loops=False)
    >>> edge_dot(moments, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([11., 11.])
    """
    structure = as_structure(graph)
    if keys.dim() != 2 or len(keys) != structure.num_nodes or not keys.is_floating_point():
        raise ValueError(
            f"the graph has {structure.num_nodes} nodes; keys have the shape {tuple(keys.shape)} and the type "
            f"{keys.dtype}, they must be (nodes, dim) floats"
        )
    return launch("edge_dot", (keys,), backend, graph=structure)


__all__ = ["edge_dot"]
