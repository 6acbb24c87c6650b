"""What DGL offers for these layers: its modules, and its message passing as a user of DGL would write it."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Size
from benchmarks.providers._provider import (
    BothDirections,
    GatedWeights,
    Of,
    Provider,
    edge_gated_weights,
    gated_weights,
    node_floats,
)
from relgrounding._dgl import dgl, dgl_cuda_reason
from relgrounding.graphs import GraphStructure


def _reason(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype not in (torch.float32, torch.float64):
        return f"its kernels take float32 and float64, not {str(dtype).removeprefix('torch.')}"
    return dgl_cuda_reason() if device.type == "cuda" else None


def one_type(structure: GraphStructure) -> dgl.DGLGraph:
    """The graph with one edge type, made from the two ends of its edges as DGL's documentation does."""
    return dgl.graph((structure.indices, structure.destinations), num_nodes=structure.num_nodes)


def _typed(structure: GraphStructure) -> tuple[dgl.DGLGraph, Tensor]:
    return one_type(structure), structure.etype


def _typed_sorted(structure: GraphStructure) -> tuple[dgl.DGLGraph, Tensor]:
    order = structure.etype.argsort(stable=True)
    ends = (structure.indices[order], structure.destinations[order])
    return dgl.graph(ends, num_nodes=structure.num_nodes), structure.etype[order]


def both_ways(structure: GraphStructure) -> GraphStructure:
    """The edges and, with types of their own, the reversed edges."""
    names = [*structure.edge_types, *(f"{name}_reversed" for name in structure.edge_types)]
    sources = torch.cat([structure.indices, structure.destinations])
    destinations = torch.cat([structure.destinations, structure.indices])
    etype = torch.cat([structure.etype, structure.etype + structure.num_types])
    return GraphStructure.from_edges(sources, destinations, etype, names, structure.batch_num_nodes)


class Attention(nn.Module):
    """`dgl.nn.GATConv` with the heads side by side."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        # The check for nodes without in-edges is left out: it would be counted against DGL.
        self.conv = dgl.nn.GATConv(case.in_dim, case.dim, case.heads, allow_zero_in_degree=True)

    def forward(self, graph: dgl.DGLGraph, x: Tensor) -> Tensor:
        return self.conv(graph, x).flatten(1)


def _attention_weights(module: Attention, of: Of) -> dict[str, Tensor]:
    conv = module.conv
    weights = {"linear": of(conv.fc.weight), "att_src": of(conv.attn_l)[0], "att_dst": of(conv.attn_r)[0]}
    return weights | {"bias": of(conv.bias)}


class Hetero(GatedWeights):
    """`multi_update_all`: the messages of each type are tensors of the nodes, as a gate depends on no destination."""

    def forward(self, graph: dgl.DGLGraph, x: Tensor) -> Tensor:
        feat, gate, result = self.linear(x), self.gate(x), "sum"
        functions, copy, add = {}, dgl.function.copy_u, dgl.function.sum
        with graph.local_scope():
            for r, name in enumerate(graph.relation_order):
                if graph.num_edges(name):
                    graph.nodes["proposal"].data[name] = torch.sigmoid(gate + self.gate_bias[r]) * (
                        feat + self.type_bias[r]
                    )
                    functions[name] = (copy(name, "message"), add("message", result))
            if not functions:
                return torch.zeros_like(feat)
            graph.multi_update_all(functions, "sum")
            return graph.nodes["proposal"].data[result]


def _hetero(structure: GraphStructure) -> dgl.DGLGraph:
    ends = {}
    for r, name in enumerate(structure.edge_types):
        edges = structure.etype == r
        ends["proposal", name, "proposal"] = (structure.indices[edges], structure.destinations[edges])
    graph = dgl.heterograph(ends, {"proposal": structure.num_nodes})
    graph.relation_order = structure.edge_types
    return graph


class Gspmm(GatedWeights):
    """Sparse products with one weight an edge; the biases of the types through a sum of gates a type."""

    def forward(self, typed: tuple[dgl.DGLGraph, Tensor], x: Tensor) -> Tensor:
        graph, etype = typed
        gate = torch.sigmoid(dgl.ops.copy_u(graph, self.gate(x)) + self.gate_bias[etype, None])
        of_type = torch.nn.functional.one_hot(etype, len(self.gate_bias)).to(gate.dtype)
        table = dgl.ops.gspmm(graph, "copy_rhs", "sum", None, gate * of_type)
        return dgl.ops.gspmm(graph, "mul", "sum", self.linear(x), gate) + table @ self.type_bias


class Relational(nn.Module):
    """`dgl.nn.RelGraphConv`: one matrix a relation, no gate."""

    def __init__(self, case: Case, presorted: bool) -> None:
        super().__init__()
        both = case.layer == "edge_gated"
        types = case.num_types * (2 if both else 1)
        self.conv = dgl.nn.RelGraphConv(case.in_dim, case.out_dim, types, bias=both, self_loop=both)
        self.presorted = presorted

    def forward(self, typed: tuple[dgl.DGLGraph, Tensor], x: Tensor) -> Tensor:
        return self.conv(typed[0], x, typed[1], presorted=self.presorted)


def _relational_weights(module: Relational, of: Of) -> dict[str, Tensor]:
    weights = {"weight": of(module.conv.linear_r.W)}
    if module.conv.self_loop:
        weights |= {"root": of(module.conv.loop_weight), "bias": of(module.conv.h_bias)}
    return weights


def _edge_floats(case: Case, size: Size) -> int:
    return node_floats(case, size) + 6 * size.edges * case.heads


def _one_hot_floats(case: Case, size: Size) -> int:
    return node_floats(case, size) + 6 * size.edges * size.types


def _hetero_floats(case: Case, size: Size) -> int:
    return node_floats(case, size) + 4 * size.types * size.nodes * case.out_dim


def _relational_floats(case: Case, size: Size) -> int:
    ways = 2 if case.layer == "edge_gated" else 1
    return node_floats(case, size) + ways * size.edges * 3 * (case.in_dim + case.out_dim)


def providers() -> Iterable[Provider]:
    """Modules and message passing."""
    yield Provider(
        "dgl.GATConv", "attention", "attention", one_type, Attention, _attention_weights, _edge_floats, _reason
    )
    ways = (("multi_update_all", _hetero, Hetero, _hetero_floats), ("gspmm", _typed, Gspmm, _one_hot_floats))
    for name, convert, layer, floats in ways:
        yield Provider(f"dgl.{name}", "gated", "gated", convert, layer, gated_weights, floats, _reason)
        pair = partial(_pair, convert=convert)
        both = partial(BothDirections, one=layer)
        yield Provider(f"dgl.{name}", "edge_gated", "edge_gated", pair, both, edge_gated_weights, floats, _reason)
    for name, presorted in (("RelGraphConv", False), ("RelGraphConv presorted", True)):
        convert = _typed_sorted if presorted else _typed
        for layer_name in ("gated", "edge_gated"):
            yield Provider(
                name=f"dgl.{name}",
                layer=layer_name,
                function="typed",
                convert=partial(_doubled, convert=convert) if layer_name == "edge_gated" else convert,
                layer_of=partial(Relational, presorted=presorted),
                weights=_relational_weights,
                floats=_relational_floats,
                reason=_reason,
                note="one matrix a relation, no gate",
            )


def _pair(structure: GraphStructure, convert) -> tuple:
    return convert(structure), convert(structure.reverse())


def _doubled(structure: GraphStructure, convert):
    return convert(both_ways(structure))
