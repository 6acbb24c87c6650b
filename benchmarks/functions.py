"""What the providers compute: the weights of each function, and a slow rendering in float64 to check against.

A provider is checked against the function that it names. Ours are the operators' own references, the backend `naive`.
"typed" and "typed_attention" are the peers': one matrix per relation and no gate. They cannot equal ours and are
therefore rendered here, without a line of the libraries that are checked.

A reference returns its outputs and its slack: for each element of the output, or for rows of it, the distance of what
it depends on from a bend of a ReLU, where the gradient jumps; None where nothing bends. Close to a bend rounding
decides which side a value falls on, for every provider.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.cases import Case
from relgrounding import ops
from relgrounding.graphs import GraphStructure

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Outputs = tuple[Tensor, ...]
# The linear maps of layers that have several.
MAPS = {
    "edge_gated": ("in_linear", "out_linear", "self_linear"),
    "comparison": ("linear", "self_linear", "hidden_linear"),
}
# Elements of one (edges x columns) tensor of the reference.
CHUNK = 8_000_000


class Function(NamedTuple):
    """A function of a graph, of features and of weights; the fan-in of a weight is its last dimension."""

    shapes: Callable[[Case], Shapes]
    reference: Callable[[GraphStructure, Case, Tensor, Weights], tuple[Outputs, Tensor | None]]


def draw_weights(function: Function, case: Case, dtype: torch.dtype, seed: int = 0) -> Weights:
    """Weights in float64 that `dtype` holds without rounding; scaled so that outputs are of order one."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape: tuple[int, ...]) -> Tensor:
        scale = 1 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.5
        return (torch.randn(shape, generator=generator) * scale).to(dtype).double()

    return {name: one(shape) for name, shape in function.shapes(case).items()}


def _attention_shapes(case: Case) -> Shapes:
    heads = (case.heads, case.dim)
    return {"linear": (case.out_dim, case.in_dim), "att_src": heads, "att_dst": heads, "bias": (case.out_dim,)}


def _attention(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> tuple[Outputs, Tensor]:
    feat = (x @ w["linear"].t()).unflatten(1, (case.heads, case.dim))
    score_src, score_dst = (feat * w["att_src"]).sum(2), (feat * w["att_dst"]).sum(2)

    def columns(part: Tensor) -> Tensor:
        return ops.graph_attention(structure, part, score_src, score_dst, backend="naive")

    step = max(1, CHUNK // max(1, structure.num_edges * case.heads))
    out = _by_columns(columns, feat, 2, step).flatten(1) + w["bias"]
    logit = score_src[structure.indices] + score_dst[structure.destinations]
    return (out,), _smallest(structure, logit.detach().abs().amin(1))


def _smallest(structure: GraphStructure, values: Tensor) -> Tensor:
    """(N, 1) of (E,): over the in-edges of each node."""
    start = values.new_full((structure.num_nodes,), torch.inf)
    return start.scatter_reduce(0, structure.destinations, values, "amin").unsqueeze(1)


def _gated_shapes(case: Case) -> Shapes:
    linear, types = (case.out_dim, case.in_dim), case.num_types
    return {"linear": linear, "gate": (1, case.in_dim), "gate_bias": (types,), "type_bias": (types, case.out_dim)}


def _gated(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> tuple[Outputs, None]:
    gate = x @ w["gate"][0]

    def columns(part: Tensor) -> Tensor:
        feat, type_bias = part.split([structure.num_nodes, structure.num_types])
        return ops.gated_sum(structure, feat, gate, w["gate_bias"], type_bias, backend="naive")

    step = max(1, CHUNK // max(1, structure.num_edges))
    return (_by_columns(columns, torch.cat([x @ w["linear"].t(), w["type_bias"]]), 1, step),), None


def _by_columns(function: Callable[[Tensor], Tensor], feat: Tensor, dim: int, step: int) -> Tensor:
    """A function of each column by itself, some at a time, recomputed for the backward: memory stays bounded."""
    if step >= feat.shape[dim]:
        return function(feat)
    parts = [checkpoint(function, part, use_reentrant=False) for part in feat.split(step, dim)]
    return torch.cat(parts, dim)


def _edge_gated_shapes(case: Case) -> Shapes:
    both = {f"{side}_{name}": shape for side in ("in", "out") for name, shape in _gated_shapes(case).items()}
    return both | {"self_linear": (case.out_dim, case.in_dim), "bias": (case.out_dim,)}


def _edge_gated(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> tuple[Outputs, Tensor]:
    total = x @ w["self_linear"].t() + w["bias"]
    for side, graph in (("in", structure), ("out", structure.reverse())):
        weights = {name: w[f"{side}_{name}"] for name in _gated_shapes(case)}
        total = total + _gated(graph, case, x, weights)[0][0]
    return (torch.relu(total),), total.detach().abs()


def _comparison_shapes(case: Case) -> Shapes:
    inner, outer, types = (case.out_dim, case.in_dim), (case.out_dim, case.out_dim), case.num_types
    maps = {"linear": inner, "self_linear": inner, "hidden_linear": outer}
    biases = {name.replace("linear", "bias"): (case.out_dim,) for name in maps}
    rest = {
        "gate": (1, case.in_dim),
        "type_bias": (types, case.out_dim),
        "score": (1, case.out_dim),
        "score_bias": (1,),
    }
    return maps | biases | rest | {"share": (case.out_dim + types,)}


def _comparison(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> tuple[Outputs, Tensor]:
    """One sentence for all nodes, as a share."""
    context, type_gate = w["share"].split([case.out_dim, case.num_types])
    gate, type_gate = x @ w["gate"][0], type_gate.expand(len(x), -1)

    def columns(part: Tensor) -> Tensor:
        feat, type_bias = part.split([structure.num_nodes, structure.num_types])
        return ops.typed_comparison(structure, feat, gate, type_gate, type_bias, backend="naive")

    both = torch.cat([x @ w["linear"].t() + w["bias"], w["type_bias"]])
    m = _by_columns(columns, both, 1, max(1, CHUNK // max(1, structure.num_edges)))
    hidden = (m + x @ w["self_linear"].t() + w["self_bias"]) @ w["hidden_linear"].t() + w["hidden_bias"]
    out = (torch.relu(hidden) * context) @ w["score"][0] + w["score_bias"]
    return (out,), hidden.detach().abs().amin(1)


def _typed_shapes(case: Case) -> Shapes:
    if case.layer == "edge_gated":
        # Reversed edges have relations of their own; the node itself has a matrix.
        shape = (2 * case.num_types, case.in_dim, case.out_dim)
        return {"weight": shape, "root": (case.in_dim, case.out_dim), "bias": (case.out_dim,)}
    return {"weight": (case.num_types, case.in_dim, case.out_dim)}


def _typed(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> tuple[Outputs, None]:
    """x_i' = sum over relations of (sum over their in-edges of x_j) W_r, and in both directions root and bias."""
    out = x @ w["root"] + w["bias"] if "root" in w else x.new_zeros(len(x), case.out_dim)
    graphs = (structure, structure.reverse()) if case.layer == "edge_gated" else (structure,)
    matrices = iter(w["weight"])
    for graph in graphs:
        for r in range(case.num_types):
            edges = graph.etype == r
            gathered = torch.zeros_like(x).index_add(0, graph.destinations[edges], x[graph.indices[edges]])
            out = out + gathered @ next(matrices)
    return (out,), None


def _typed_attention_shapes(case: Case) -> Shapes:
    weight, vector = (case.num_types, case.in_dim, case.out_dim), (case.out_dim, 1)
    return {"weight": weight, "q": vector, "k": vector, "bias": (case.out_dim,)}


def _typed_attention(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> tuple[Outputs, Tensor]:
    """Softmax over all in-edges of leaky_relu(q . W_r x_i + k . W_r x_j); the sum of alpha W_r x_j."""
    edges = (structure.etype, structure.destinations, structure.indices)
    feat = x @ w["weight"]
    logits = (feat @ w["q"]) + (feat @ w["k"]).transpose(1, 2)
    slack = _smallest(structure, logits.detach()[edges].abs())
    joined = torch.zeros_like(logits, dtype=torch.bool).index_put(edges, torch.tensor(True))
    logits = torch.nn.functional.leaky_relu(logits, 0.2).masked_fill(~joined, -torch.inf)
    # Nodes without in-edges have no softmax; they get the bias.
    alive = joined.any(2).any(0)
    rows = torch.softmax(logits[:, alive].transpose(0, 1).flatten(1), 1)
    shares = rows.unflatten(1, (case.num_types, len(x))).transpose(0, 1)
    alpha = torch.zeros_like(logits).index_copy(1, alive.nonzero()[:, 0], shares)
    return ((alpha @ feat).sum(0) + w["bias"],), slack


def _linear_shapes(case: Case) -> Shapes:
    return dict.fromkeys(MAPS.get(case.layer, ("linear",)), (case.out_dim, case.in_dim))


def _linear(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> tuple[Outputs, None]:
    return tuple(x @ matrix.t() for matrix in w.values()), None


FUNCTIONS = {
    "attention": Function(_attention_shapes, _attention),
    "gated": Function(_gated_shapes, _gated),
    "edge_gated": Function(_edge_gated_shapes, _edge_gated),
    "comparison": Function(_comparison_shapes, _comparison),
    "typed": Function(_typed_shapes, _typed),
    "typed_attention": Function(_typed_attention_shapes, _typed_attention),
    "linear": Function(_linear_shapes, _linear),
}
