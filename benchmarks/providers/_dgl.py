"""What DGL offers for these layers: its modules, and its message passing as a user of DGL would write it."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.providers._provider import GatedWeights, Provider, gated_pair
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


class Hetero(GatedWeights):
    """`multi_update_all`: the messages of each type are tensors of the nodes, as a gate depends on no destination."""

    def forward(self, graph: dgl.DGLGraph, x: Tensor) -> Tensor:
        feat, gate, result = self.linear(x), self.gate(x), "sum"
        functions, copy, add = {}, dgl.function.copy_u, dgl.function.sum
        with graph.local_scope():
            nodes = graph.nodes["proposal"].data
            for r, name in enumerate(graph.relation_order):
                if graph.num_edges(name):
                    nodes[name] = torch.sigmoid(gate + self.gate_bias[r]) * (feat + self.type_bias[r])
                    functions[name] = (copy(name, "message"), add("message", result))
            if not functions:
                return torch.zeros_like(feat)
            graph.multi_update_all(functions, "sum")
            return nodes[result]


def _hetero(structure: GraphStructure) -> dgl.DGLGraph:
    ends = {}
    for r, name in enumerate(structure.edge_types):
        edges = structure.etype == r
        ends["proposal", name, "proposal"] = (structure.indices[edges], structure.destinations[edges])
    graph = dgl.heterograph(ends, {"proposal": structure.num_nodes})
    graph.relation_order = structure.edge_types
    return graph


class Gspmm(GatedWeights):
    """Sparse products with one weight per edge; the biases of the types through a sum of gates per type."""

    def forward(self, typed: tuple[dgl.DGLGraph, Tensor], x: Tensor) -> Tensor:
        graph, etype = typed
        gate = torch.sigmoid(dgl.ops.copy_u(graph, self.gate(x)) + self.gate_bias[etype, None])
        of_type = torch.nn.functional.one_hot(etype, len(self.gate_bias)).to(gate.dtype)
        table = dgl.ops.gspmm(graph, "copy_rhs", "sum", None, gate * of_type)
        return dgl.ops.gspmm(graph, "mul", "sum", self.linear(x), gate) + table @ self.type_bias


class Relational(nn.Module):
    """`dgl.nn.RelGraphConv`: one matrix per relation, no gate."""

    def __init__(self, case: Case, presorted: bool) -> None:
        super().__init__()
        both = case.layer == "edge_gated"
        types = case.num_types * (1 + both)
        self.conv = dgl.nn.RelGraphConv(case.in_dim, case.out_dim, types, bias=both, self_loop=both)
        self.presorted = presorted

    def forward(self, typed: tuple[dgl.DGLGraph, Tensor], x: Tensor) -> Tensor:
        return self.conv(typed[0], x, typed[1], presorted=self.presorted)


def _doubled(structure: GraphStructure, convert: Callable) -> tuple[dgl.DGLGraph, Tensor]:
    return convert(both_ways(structure))


def providers() -> Iterable[Provider]:
    """Modules and message passing."""
    yield Provider(
        "dgl.GATConv",
        "attention",
        "attention",
        one_type,
        Attention,
        {"conv.fc.weight": "linear", "conv.attn_l": "att_src", "conv.attn_r": "att_dst", "conv.bias": "bias"},
        floats=lambda case, size: 6 * size.edges * case.heads,
        reason=_reason,
    )
    yield from gated_pair(
        "dgl.multi_update_all",
        _hetero,
        Hetero,
        floats=lambda case, size: 4 * size.types * size.nodes * case.out_dim,
        reason=_reason,
    )
    yield from gated_pair(
        "dgl.gspmm", _typed, Gspmm, floats=lambda case, size: 6 * size.edges * size.types, reason=_reason
    )
    for name, convert in (("RelGraphConv", _typed), ("RelGraphConv presorted", _typed_sorted)):
        relational = partial(
            Provider,
            f"dgl.{name}",
            function="typed",
            layer_of=partial(Relational, presorted=convert is _typed_sorted),
            floats=lambda case, size: (
                (6 if case.layer == "edge_gated" else 3) * size.edges * (case.in_dim + case.out_dim)
            ),
            reason=_reason,
            note="one matrix per relation, no gate",
        )
        weight = {"conv.linear_r.W": "weight"}
        yield relational(layer="gated", convert=convert, parameters=weight)
        yield relational(
            layer="edge_gated",
            convert=partial(_doubled, convert=convert),
            parameters=weight | {"conv.loop_weight": "root", "conv.h_bias": "bias"},
        )
