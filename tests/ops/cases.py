"""Problems for every operator: shapes of the inputs, a call, and the formula as a loop that shares nothing with naive.

A problem is made of a ragged batch: nodes of a graph, proposals of sentences, windows of videos or steps of sequences.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from relgrounding import ops
from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import find_backend

TYPES = ("a", "b", "c")
CUDA = torch.cuda.is_available()
TRITON = ("triton", "triton_dense")
GRAPH_OPERATORS = ("graph_attention", "gated_sum", "typed_comparison")
OPERATORS = (*GRAPH_OPERATORS, "edge_dot", "additive_attention", "window_max", "gru")
# Half types: the inputs are rounded before, so that only the result's own rounding differs.
TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def structure_of(counts, edges, types=3):
    columns = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).unbind(1)
    names = [f"type_{r}" for r in range(types)]
    return GraphStructure.from_edges(*(c.contiguous() for c in columns), names, torch.tensor(counts))


def random_edges(counts, density, seed=0, copies=1):
    """Edges inside the items; with several copies they lie parallel, of the same and of other types."""
    generator, edges, first = torch.Generator().manual_seed(seed), [], 0
    for count in counts:
        joined = torch.rand(copies, count, count, generator=generator) < density
        edges.append(joined.nonzero()[:, 1:] + first)
        first += count
    ends = torch.cat(edges)
    return torch.cat([ends, torch.randint(0, len(TYPES), (len(ends), 1), generator=generator)], 1).tolist()


def random_structure(counts, density, seed=0, copies=1):
    return structure_of(counts, random_edges(counts, density, seed, copies))


@st.composite
def edge_lists(draw, max_items=3, max_nodes=5, types=3):
    """Nodes of each item and (source, destination, type) triples in any order, parallel ones and loops included."""
    counts = draw(st.lists(st.integers(0, max_nodes), min_size=1, max_size=max_items))
    edges, first = [], 0
    for count in counts:
        if count:
            node = st.integers(first, first + count - 1)
            edges += draw(st.lists(st.tuples(node, node, st.integers(0, types - 1)), max_size=12))
        first += count
    return counts, draw(st.permutations(edges))


def draw_inputs(seed, shapes, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in inputs]


def as_list(results):
    return [results] if isinstance(results, torch.Tensor) else list(results)


def attention_oracle(edges, feat, score_src, score_dst, negative_slope=0.2):
    rows = []
    for i in range(len(feat)):
        sources = [s for s, d, _ in edges if d == i]
        logits = [score_src[j] + score_dst[i] for j in sources]
        logits = [torch.where(x > 0, x, negative_slope * x) for x in logits]
        largest = torch.stack(logits).detach().amax(0) if logits else None
        weights = [torch.exp(x - largest) for x in logits]
        row = sum((w.unsqueeze(1) * feat[j] for w, j in zip(weights, sources, strict=True)), 0 * feat[i].detach())
        rows.append(row / sum(weights).unsqueeze(1) if weights else row)
    return torch.stack(rows) if rows else torch.zeros_like(feat)


def gated_oracle(edges, feat, gate, gate_bias, type_bias):
    rows = [torch.zeros_like(row) for row in feat]
    for j, i, r in edges:
        rows[i] = rows[i] + torch.sigmoid(gate[j] + gate_bias[r]) * (feat[j] + type_bias[r])
    return torch.stack(rows) if rows else torch.zeros_like(feat)


def comparison_oracle(edges, feat, gate, type_gate, type_bias, edge_bias=None):
    opened = {}
    # The forward order, in which the biases come: by destination, then source, then type.
    for e, (j, i, r) in enumerate(sorted(edges, key=lambda edge: (edge[1], edge[0], edge[2]))):
        logit = gate[j] + type_gate[i, r]
        opened.setdefault(i, []).append((j, r, torch.sigmoid(logit if edge_bias is None else logit + edge_bias[e])))
    rows = [torch.zeros_like(row) for row in feat]
    for i, gates in opened.items():
        for t in {r for _, r, _ in gates}:
            count = sum(g for _, r, g in gates if r == t)
            rows[i] = rows[i] + count / (1 + count) * type_bias[t]
        rows[i] = rows[i] + sum(g * feat[j] for j, _, g in gates) / (1 + sum(g for *_, g in gates))
    return torch.stack(rows) if rows else torch.zeros_like(feat)


def dot_oracle(edges, keys):
    ends = sorted((i, j) for j, i, _ in edges)
    return torch.stack([keys[i] @ keys[j] for i, j in ends]) if ends else keys.new_zeros(0)


def additive_oracle(lengths, item, proposals, words, weight, values):
    contexts, gammas = [], []
    for t, i in enumerate(item):
        logits = [weight @ torch.tanh(proposals[t] + words[i, n]) for n in range(lengths[i])]
        largest = max(x.detach() for x in logits)
        parts = [torch.exp(x - largest) for x in logits]
        gamma = [x / sum(parts) for x in parts] + [words.new_zeros(())] * (words.shape[1] - lengths[i])
        contexts.append(sum(g * v for g, v in zip(gamma, values[i], strict=True)))
        gammas.append(torch.stack(gamma))
    if not item:
        return values.new_zeros(0, values.shape[2]), values.new_zeros(0, values.shape[1])
    return torch.stack(contexts), torch.stack(gammas)


def window_oracle(spans, item, clips):
    rows = [clips[i, s:e].max(0).values for i, (s, e) in zip(item, spans, strict=True)]
    return torch.stack(rows) if rows else clips.new_zeros(0, clips.shape[2])


def gru_oracle(lengths, x, *weights):
    rows = []
    for sequence, length in zip(x, lengths, strict=True):
        directions = []
        for backward, (w, u, b, c) in enumerate((weights[:4], weights[4:])):
            state, states = x.new_zeros(u.shape[1]), []
            for step in sequence[:length].flip(0) if backward else sequence[:length]:
                (x_r, x_z, x_n), (h_r, h_z, h_n) = (w @ step + b).chunk(3), (u @ state + c).chunk(3)
                update = torch.sigmoid(x_z + h_z)
                state = (1 - update) * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n) + update * state
                states.append(state)
            directions.append(torch.stack(states[::-1] if backward else states))
        rows.append(torch.nn.functional.pad(torch.cat(directions, 1), (0, 0, 0, x.shape[1] - length)))
    return torch.stack(rows)


@dataclass(frozen=True)
class Problem:
    shapes: list[tuple[int, ...]]
    call: Callable[..., Any]
    """Takes a function that moves what is not an input, the inputs and the backend."""
    oracle: Callable[..., Any]
    structure: GraphStructure | None = None

    def run(self, backend="auto"):
        """The operator on the inputs, which come from the CPU as the results go there, as a list."""
        device = "cuda" if CUDA and backend in TRITON else "cpu"

        def on_device(*inputs):
            results = self.call(lambda x: x.to(device), [x.to(device) for x in inputs], backend)
            return [x.cpu() for x in as_list(results)]

        return on_device


def graph_problem(operator, counts, edges, heads=1, dim=3, types=3):
    structure, nodes = structure_of(counts, edges, types), sum(counts)
    function = getattr(ops, operator)
    shapes, oracle = {
        "graph_attention": ([(nodes, heads, dim), (nodes, heads), (nodes, heads)], attention_oracle),
        "gated_sum": ([(nodes, dim), (nodes,), (types,), (types, dim)], gated_oracle),
        "typed_comparison": (
            [(nodes, dim), (nodes,), (nodes, types), (types, dim), (len(edges),)],
            comparison_oracle,
        ),
        "edge_dot": ([(nodes, dim)], dot_oracle),
    }[operator]
    return Problem(
        shapes,
        lambda move, inputs, backend: function(move(structure), *inputs, backend=backend),
        lambda *inputs, **options: oracle(edges, *inputs, **options),
        structure,
    )


def problem(operator, counts, density=0.5, copies=1, heads=1, dim=3, seed=0):
    """A random problem of an operator with so many nodes, proposals, windows or steps in each item."""
    if operator in (*GRAPH_OPERATORS, "edge_dot"):
        return graph_problem(operator, counts, random_edges(counts, density, seed, copies), heads, dim)
    draw = torch.Generator().manual_seed(seed)
    item = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    length = max(counts) + 1
    if operator == "additive_attention":
        lengths = torch.randint(1, 6, (len(counts),), generator=draw)
        sizes = len(counts), int(lengths.max()) + 1
        return Problem(
            [(len(item), dim), (*sizes, dim), (dim,), (*sizes, heads)],
            lambda move, inputs, backend: ops.additive_attention(*inputs, move(lengths), move(item), backend=backend),
            lambda *inputs: additive_oracle(lengths.tolist(), item.tolist(), *inputs),
        )
    if operator == "window_max":
        ends = torch.rand(len(item), 2, generator=draw).mul(length).long().sort(1).values + torch.tensor([0, 1])
        return Problem(
            [(len(counts), length, dim)],
            lambda move, inputs, backend: ops.window_max(*inputs, move(ends), move(item), backend=backend),
            lambda clips: window_oracle(ends.tolist(), item.tolist(), clips),
        )
    lengths, gates = torch.tensor(counts).clamp_min(1), 3 * dim
    one = [(gates, heads), (gates, dim), (gates,), (gates,)]
    return Problem(
        [(len(counts), length, heads), *one, *one],
        lambda move, inputs, backend: ops.gru(inputs[0], move(lengths), inputs[1:], backend=backend),
        lambda *inputs: gru_oracle(lengths.tolist(), *inputs),
    )


def why_not(operator, backend, dtype=None):
    """Why a backend cannot run in these tests, where Triton's needs no GPU."""
    device = "cuda" if CUDA and backend in TRITON else "cpu"
    return find_backend(operator, backend).why_not(torch.device(device), dtype or torch.float64)


def values_and_gradients(function, inputs, weight_seed=7):
    """Results, and the gradients of a weighted sum of them."""
    results = as_list(function(*inputs))
    generator = torch.Generator().manual_seed(weight_seed)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in results]
    loss = sum((x * w).sum() for x, w in zip(results, weights, strict=True))
    if not loss.requires_grad:  # a loop over no edge makes constants
        return [*results, *(torch.zeros_like(x) for x in inputs)]
    gradients = torch.autograd.grad(loss, inputs, materialize_grads=True)
    return [*(x.detach() for x in results), *gradients]


def penalised(function, inputs, wanted, linear):
    """Gradients of a value and of the penalty on its gradients, for an incoming gradient without and with its own."""
    value = sum(x.sum() if linear else x.square().sum() for x in as_list(function(*inputs)))
    gradients = torch.autograd.grad(value, wanted, create_graph=True, materialize_grads=True)
    loss = value + 10 * sum(g.pow(2).sum() for g in gradients)
    return [loss.detach(), *torch.autograd.grad(loss, wanted, materialize_grads=True)]
