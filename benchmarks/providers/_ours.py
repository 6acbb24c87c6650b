"""Each backend of the library, and its choice."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Size
from benchmarks.providers._provider import Of, Provider, node_floats
from relgrounding import ops
from relgrounding.graphs import GraphStructure
from relgrounding.nn import EdgeGatedGCN, GatedSum, GraphAttention


def _layer(case: Case, backend: str) -> nn.Module:
    if case.layer == "attention":
        return GraphAttention(case.in_dim, case.out_dim, case.heads, backend=backend)
    if case.layer == "gated":
        return GatedSum(case.in_dim, case.out_dim, case.num_types, backend=backend)
    return EdgeGatedGCN(case.in_dim, case.out_dim, case.num_types, backend=backend)


def _attention_weights(module: GraphAttention, of: Of) -> dict[str, Tensor]:
    attention = of(module.attention)
    weights = {"linear": of(module.linear.weight), "att_src": attention[0], "att_dst": attention[1]}
    return weights | {"bias": of(module.bias)}


def _gated_weights(module: GatedSum, of: Of) -> dict[str, Tensor]:
    linear, gate = of(module.weight).split([module.out_dim, 1])
    biases = {"gate_bias": of(module.gate_bias)[0], "type_bias": of(module.type_bias)[0]}
    return {"linear": linear, "gate": gate} | biases


def _edge_gated_weights(module: EdgeGatedGCN, of: Of) -> dict[str, Tensor]:
    w_in, w_out, w_self, gate_in, gate_out = of(module.weight).split([module.out_dim] * 3 + [1, 1])
    gate_bias, type_bias = of(module.gate_bias), of(module.type_bias)
    weights = {"self_linear": w_self, "bias": of(module.bias)}
    for k, (way, linear, gate) in enumerate((("in", w_in, gate_in), ("out", w_out, gate_out))):
        weights |= {f"{way}_linear": linear, f"{way}_gate": gate}
        weights |= {f"{way}_gate_bias": gate_bias[k], f"{way}_type_bias": type_bias[k]}
    return weights


WEIGHTS: dict[str, Callable] = {
    "attention": _attention_weights,
    "gated": _gated_weights,
    "edge_gated": _edge_gated_weights,
}


def _unchanged(structure: GraphStructure) -> GraphStructure:
    return structure


def _reason(device: torch.device, dtype: torch.dtype, backend: str) -> str | None:
    if backend == "triton" and device.type == "cpu":
        return "on the CPU it runs in Triton's interpreter, which is for tests"
    return ops.available_backends().get(backend)


def _floats(case: Case, size: Size, backend: str) -> int:
    by_edge = size.edges * case.heads * 6
    if backend == "naive":
        by_edge = size.edges * case.out_dim * 5
    elif backend == "dense":
        by_edge = max(by_edge, size.pairs * case.heads * 6)
    return node_floats(case, size) + by_edge


def providers() -> Iterable[Provider]:
    """One a layer and backend."""
    for backend in ("auto", *ops.available_backends()):
        for layer, weights in WEIGHTS.items():
            yield Provider(
                name=f"ours.{backend}",
                layer=layer,
                function=layer,
                convert=_unchanged,
                layer_of=partial(_layer, backend=backend),
                weights=weights,
                floats=partial(_floats, backend=backend),
                reason=partial(_reason, backend=backend),
            )
