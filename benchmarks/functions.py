"""What the providers compute: the weights of each function, and a slow rendering in float64 to check against.

A provider is checked against the function that it names. Two of them, "typed" and "typed_attention", are the peers'
own: one matrix a relation and no gate. They cannot equal ours and are therefore rendered here, with dense matrices and
without a line of the libraries that are checked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.cases import Case
from relgrounding import ops
from relgrounding.graphs import GraphStructure

Weights = dict[str, Tensor]
Outputs = tuple[Tensor, ...]
# Elements of one (edges x columns) tensor of the reference.
CHUNK = 8_000_000


@dataclass(frozen=True)
class Function:
    """A function of a graph, of features and of weights.

    Args:
        shapes: the shape of each weight in a case; the fan-in is the last dimension.
        reference: its value in float64, one or more outputs.
        slack: for each element of the output, or for rows of it, how far what it depends on stays from a place where
            the gradient jumps; None where there is no such place. Rounding decides the side there, for everybody.
    """

    shapes: Callable[[Case], dict[str, tuple[int, ...]]]
    reference: Callable[[GraphStructure, Case, Tensor, Weights], Outputs]
    slack: Callable[[GraphStructure, Case, Tensor, Weights], Tensor] | None = None


def draw_weights(function: Function, case: Case, dtype: torch.dtype, seed: int = 0) -> Weights:
    """Weights in float64 that `dtype` holds without rounding; scaled so that outputs are of order one."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape: tuple[int, ...]) -> Tensor:
        scale = 1 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.5
        return (torch.randn(shape, generator=generator) * scale).to(dtype).double()

    return {name: one(shape) for name, shape in function.shapes(case).items()}


def _attention_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    heads = (case.heads, case.dim)
    return {"linear": (case.out_dim, case.in_dim), "att_src": heads, "att_dst": heads, "bias": (case.out_dim,)}


def _attention(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Outputs:
    feat = (x @ w["linear"].t()).unflatten(1, (case.heads, case.dim))
    scores = (feat * w["att_src"]).sum(2), (feat * w["att_dst"]).sum(2)

    def columns(part: Tensor) -> Tensor:
        return ops.graph_attention(structure, part, *scores, backend="naive")

    step = max(1, CHUNK // max(1, structure.num_edges * case.heads))
    return (_by_columns(columns, feat, 2, step).flatten(1) + w["bias"],)


def _attention_slack(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Tensor:
    """(N, 1): the smallest logit of the node's in-edges, in size; the leaky ReLU bends at 0."""
    feat = (x @ w["linear"].t()).unflatten(1, (case.heads, case.dim))
    score_src, score_dst = (feat * w["att_src"]).sum(2), (feat * w["att_dst"]).sum(2)
    return _smallest(structure, (score_src[structure.indices] + score_dst[structure.destinations]).abs().amin(1))


def _smallest(structure: GraphStructure, values: Tensor) -> Tensor:
    """(N, 1) of (E,): over the in-edges of each node."""
    start = values.new_full((structure.num_nodes,), torch.inf)
    return start.scatter_reduce(0, structure.destinations, values, "amin").unsqueeze(1)


def _gated_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    linear, types = (case.out_dim, case.in_dim), case.num_types
    return {"linear": linear, "gate": (1, case.in_dim), "gate_bias": (types,), "type_bias": (types, case.out_dim)}


def _gated(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Outputs:
    gate = x @ w["gate"][0]

    def columns(part: Tensor) -> Tensor:
        feat, type_bias = part.split([structure.num_nodes, structure.num_types])
        return ops.gated_sum(structure, feat, gate, w["gate_bias"], type_bias, backend="naive")

    step = max(1, CHUNK // max(1, structure.num_edges))
    return (_by_columns(columns, torch.cat([x @ w["linear"].t(), w["type_bias"]]), 1, step),)


def _edge_gated_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    directions = {f"{way}_{name}": shape for way in ("in", "out") for name, shape in _gated_shapes(case).items()}
    return directions | {"self_linear": (case.out_dim, case.in_dim), "bias": (case.out_dim,)}


def direction(weights: Weights, way: str) -> Weights:
    """The weights of one direction of the edge-gated layer, named as in the gated one."""
    return {name.removeprefix(f"{way}_"): value for name, value in weights.items() if name.startswith(f"{way}_")}


def _edge_gated(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Outputs:
    return (torch.relu(_before_relu(structure, case, x, w)),)


def _before_relu(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Tensor:
    (into,) = _gated(structure, case, x, direction(w, "in"))
    (out_of,) = _gated(structure.reverse(), case, x, direction(w, "out"))
    return into + out_of + x @ w["self_linear"].t() + w["bias"]


def _edge_gated_slack(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Tensor:
    return _before_relu(structure, case, x, w).abs()


def _by_columns(function: Callable[[Tensor], Tensor], feat: Tensor, dim: int, step: int) -> Tensor:
    """A function of each column by itself, some at a time, recomputed for the backward: memory stays bounded."""
    if step >= feat.shape[dim]:
        return function(feat)
    parts = [checkpoint(function, part, use_reentrant=False) for part in feat.split(step, dim)]
    return torch.cat(parts, dim)


def _typed_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    if case.layer == "edge_gated":
        # Reversed edges have relations of their own; the node itself has a matrix.
        shape = (2 * case.num_types, case.in_dim, case.out_dim)
        return {"weight": shape, "root": (case.in_dim, case.out_dim), "bias": (case.out_dim,)}
    return {"weight": (case.num_types, case.in_dim, case.out_dim)}


def _typed(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Outputs:
    """x_i' = sum over relations of (sum over their in-edges of x_j) W_r, and in both directions root and bias."""
    out = x.new_zeros(len(x), case.out_dim)
    for way, graph in enumerate(_ways(structure, case)):
        for r in range(case.num_types):
            edges = graph.etype == r
            gathered = torch.zeros_like(x).index_add(0, graph.destinations[edges], x[graph.indices[edges]])
            out = out + gathered @ w["weight"][way * case.num_types + r]
    if "root" in w:
        out = out + x @ w["root"] + w["bias"]
    return (out,)


def _typed_attention_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    weight, vector = (case.num_types, case.in_dim, case.out_dim), (case.out_dim, 1)
    return {"weight": weight, "q": vector, "k": vector, "bias": (case.out_dim,)}


def _typed_attention(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Outputs:
    """Softmax over all in-edges of leaky_relu(q . W_r x_i + k . W_r x_j); the sum of alpha W_r x_j."""
    nodes, places = len(x), (structure.etype, structure.destinations, structure.indices)
    joined = torch.zeros(case.num_types, nodes, nodes, dtype=torch.bool).index_put(places, torch.tensor(True))
    feat = x @ w["weight"]
    logits = (feat @ w["q"]) + (feat @ w["k"]).transpose(1, 2)
    logits = torch.nn.functional.leaky_relu(logits, 0.2).masked_fill(~joined, -torch.inf)
    # Nodes without in-edges have no softmax; they get the bias.
    alive = joined.any(2).any(0)
    rows = torch.softmax(logits[:, alive].transpose(0, 1).flatten(1), 1)
    shares = rows.unflatten(1, (case.num_types, nodes)).transpose(0, 1)
    alpha = torch.zeros_like(logits).index_copy(1, alive.nonzero()[:, 0], shares)
    return ((alpha @ feat).sum(0) + w["bias"],)


def _typed_attention_slack(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Tensor:
    feat = x @ w["weight"]
    query, key = (feat @ w["q"])[..., 0], (feat @ w["k"])[..., 0]
    logit = query[structure.etype, structure.destinations] + key[structure.etype, structure.indices]
    return _smallest(structure, logit.abs())


def _ways(structure: GraphStructure, case: Case) -> tuple[GraphStructure, ...]:
    return (structure, structure.reverse()) if case.layer == "edge_gated" else (structure,)


def _linear_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    linear = (case.out_dim, case.in_dim)
    if case.layer == "edge_gated":
        return {"in_linear": linear, "out_linear": linear, "self_linear": linear}
    return {"linear": linear}


def _linear(structure: GraphStructure, case: Case, x: Tensor, w: Weights) -> Outputs:
    return tuple(x @ matrix.t() for matrix in w.values())


FUNCTIONS = {
    "attention": Function(_attention_shapes, _attention, _attention_slack),
    "gated": Function(_gated_shapes, _gated),
    "edge_gated": Function(_edge_gated_shapes, _edge_gated, _edge_gated_slack),
    "typed": Function(_typed_shapes, _typed),
    "typed_attention": Function(_typed_attention_shapes, _typed_attention, _typed_attention_slack),
    "linear": Function(_linear_shapes, _linear),
}
