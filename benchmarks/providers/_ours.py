"""Each backend of the library, and its choice."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.providers._provider import Provider, by_edge
from relgrounding import ops
from relgrounding.graphs import GraphStructure
from relgrounding.nn import EdgeGatedGCN, GatedSum, GraphAttention, RelationalComparison
from relgrounding.ops._registry import find_backend

PARAMETERS = {
    "attention": {"linear.weight": "linear", "attention": "att_src att_dst", "bias": "bias"},
    "gated": {"weight": "linear gate", "gate_bias": "gate_bias", "type_bias": "type_bias"},
    "edge_gated": {
        "weight": "in_linear out_linear self_linear in_gate out_gate",
        "bias": "bias",
        "gate_bias": "in_gate_bias out_gate_bias",
        "type_bias": "in_type_bias out_type_bias",
    },
    "comparison": {
        "share": "share",
        "layer.message.weight": "linear",
        "layer.message.bias": "bias",
        "layer.gate.weight": "gate",
        "layer.itself.weight": "self_linear",
        "layer.itself.bias": "self_bias",
        "layer.type_bias": "type_bias",
        "layer.hidden.weight": "hidden_linear",
        "layer.hidden.bias": "hidden_bias",
        "layer.score.weight": "score",
        "layer.score.bias": "score_bias",
    },
}
OPERATORS = {
    "attention": "graph_attention",
    "gated": "gated_sum",
    "edge_gated": "gated_sum",
    "comparison": "typed_comparison",
}


class Comparison(nn.Module):
    """`RelationalComparison` with one sentence for all nodes, whose own maps are not part of the layer."""

    def __init__(self, case: Case, backend: str) -> None:
        super().__init__()
        self.layer = RelationalComparison(case.in_dim, 1, 1, case.num_types, case.out_dim, backend)
        del self.layer.context, self.layer.type_gate
        self.share = nn.Parameter(torch.empty(case.out_dim + case.num_types))

    def forward(self, graph: GraphStructure, x: Tensor) -> Tensor:
        """Return (N,)."""
        return self.layer(graph, x, self.share.expand(len(x), -1))


def _layer(case: Case, backend: str) -> nn.Module:
    if case.layer == "attention":
        return GraphAttention(case.in_dim, case.out_dim, case.heads, backend=backend)
    if case.layer == "comparison":
        return Comparison(case, backend)
    layer = GatedSum if case.layer == "gated" else EdgeGatedGCN
    return layer(case.in_dim, case.out_dim, case.num_types, backend=backend)


def _reason(device: torch.device, dtype: torch.dtype, layer: str, backend: str) -> str | None:
    if backend.startswith("triton") and device.type == "cpu":
        return "on the CPU it runs in Triton's interpreter, which is for tests"
    return None if backend == "auto" else find_backend(OPERATORS[layer], backend).why_not(device, dtype)


def _floats(case: Case, graph: GraphStructure, backend: str) -> int:
    if backend == "naive":
        return by_edge(case, graph)
    return 6 * case.heads * (max(graph.num_edges, graph.num_pairs) if backend == "dense" else graph.num_edges)


def providers() -> Iterable[Provider]:
    """One per layer and backend; the naive one is also what a careful user of PyTorch would write."""
    names = {f"ours.{backend}": backend for backend in ("auto", *ops.available_backends())}
    for name, backend in (names | {"torch.edgewise": "naive"}).items():
        for layer, parameters in PARAMETERS.items():
            yield Provider(
                name=name,
                layer=layer,
                function=layer,
                convert=lambda structure: structure,
                layer_of=partial(_layer, backend=backend),
                parameters=parameters,
                floats=partial(_floats, backend=backend),
                reason=partial(_reason, layer=layer, backend=backend),
            )
    yield Provider(
        name="EdgeGatedGCN",
        layer="comparison",
        function="edge_gated",
        convert=lambda structure: structure,
        layer_of=lambda case: EdgeGatedGCN(case.in_dim, case.out_dim, case.num_types),
        parameters=PARAMETERS["edge_gated"],
        note="the layer that it is measured by",
    )
