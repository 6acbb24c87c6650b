"""What DGL offers for these layers: its modules, and its message passing as a user of DGL would write it."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.providers._provider import GatedWeights, Provider, edges_of, gated_pair, relational_pair
from relgrounding._dgl import dgl, dgl_cuda_reason
from relgrounding.graphs import GraphStructure


def _reason(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype not in (torch.float32, torch.float64):
        return f"its kernels take float32 and float64, not {str(dtype).removeprefix('torch.')}"
    return dgl_cuda_reason() if device.type == "cuda" else None


def _graph(structure: GraphStructure, by_type: bool = False) -> tuple[dgl.DGLGraph, Tensor]:
    """The graph with one edge type, made from the two ends of its edges as DGL's documentation does, and the types."""
    source, destination, etype = edges_of(structure, by_type)
    return dgl.graph((source, destination), num_nodes=structure.num_nodes), etype


class Attention(nn.Module):
    """`dgl.nn.GATConv` with the heads side by side."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        # The check for nodes without in-edges is left out: it would be counted against DGL.
        self.conv = dgl.nn.GATConv(case.in_dim, case.dim, case.heads, allow_zero_in_degree=True)

    def forward(self, typed: tuple[dgl.DGLGraph, Tensor], x: Tensor) -> Tensor:
        return self.conv(typed[0], x).flatten(1)


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


def providers() -> Iterable[Provider]:
    """Modules and message passing."""
    yield Provider(
        "dgl.GATConv",
        "attention",
        "attention",
        _graph,
        Attention,
        {"conv.fc.weight": "linear", "conv.attn_l": "att_src", "conv.attn_r": "att_dst", "conv.bias": "bias"},
        floats=lambda case, graph: 6 * graph.num_edges * case.heads,
        reason=_reason,
    )
    yield from gated_pair("dgl.multi_update_all", _hetero, Hetero, floats=_by_type, reason=_reason)
    yield from gated_pair("dgl.gspmm", _graph, Gspmm, floats=_one_hot, reason=_reason)
    for name, presorted in (("RelGraphConv", False), ("RelGraphConv presorted", True)):
        yield from relational_pair(
            partial(_graph, by_type=presorted),
            ("conv.linear_r.W", "conv.loop_weight", "conv.h_bias"),
            name=f"dgl.{name}",
            layer_of=partial(Relational, presorted=presorted),
            floats=_relational_floats,
            reason=_reason,
        )


def _by_type(case: Case, graph: GraphStructure) -> int:
    return 4 * graph.num_types * graph.num_nodes * case.out_dim


def _one_hot(case: Case, graph: GraphStructure) -> int:
    return 6 * graph.num_edges * graph.num_types


def _relational_floats(case: Case, graph: GraphStructure) -> int:
    ways = 2 if case.layer == "edge_gated" else 1
    return ways * graph.num_edges * 3 * (case.in_dim + case.out_dim)
