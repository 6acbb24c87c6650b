"""What a provider is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.functions import FUNCTIONS, MAPS, Weights
from relgrounding.graphs import GraphStructure


@dataclass(frozen=True)
class Provider:
    """A layer of some library, with the weights that its function names.

    Args:
        name: ``library.what``.
        layer: layer of the cases that it takes part in.
        function: what it computes, a key of `FUNCTIONS`; empty: nothing to check.
        convert: from the structure to what the library calls a graph.
        layer_of: the module of a case, called as ``module(graph, x)``.
        parameters: for each parameter of the module the weights that it holds, one after another.
        floats: numbers alive at the peak beyond those of the nodes, a rough bound: whether to start at all.
        reason: why it cannot run on a device and type; None where it can.
        note: for the table.
    """

    name: str
    layer: str
    function: str
    convert: Callable[[GraphStructure], Any]
    layer_of: Callable[[Case], nn.Module]
    parameters: Mapping[str, str]
    floats: Callable[[Case, GraphStructure], int] = lambda case, graph: 0
    reason: Callable[[torch.device, torch.dtype], str | None] = lambda device, dtype: None
    note: str = ""

    @property
    def same_function(self) -> bool:
        """Whether it computes what ours does."""
        return self.function == self.layer

    def bytes(self, case: Case, graph: GraphStructure, dtype: torch.dtype) -> int:
        """Memory at the peak: input, output, maps, the gradients of all, and `floats`."""
        maps = len(MAPS.get(case.layer, ("linear",)))
        nodes = graph.num_nodes * (2 * case.in_dim + (3 + maps) * case.out_dim)
        return (nodes + self.floats(case, graph)) * dtype.itemsize

    def build(self, case: Case, weights: Weights, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The module with these weights, all of which it must take."""
        module = self.layer_of(case)
        taken = sorted(name for names in self.parameters.values() for name in names.split())
        if taken != sorted(weights):
            raise ValueError(f"{self.name} takes the weights {taken}, its function {sorted(weights)}")
        for path, names in self.parameters.items():
            parameter = module.get_parameter(path)
            values = torch.cat([weights[name].flatten() for name in names.split()])
            parameter.data.copy_(values.view_as(parameter))
        return module.to(device, dtype)

    def gradients(self, module: nn.Module, case: Case, found: Mapping[nn.Parameter, Tensor]) -> Weights:
        """The gradients of the function's weights from those of the parameters."""
        shapes, named = FUNCTIONS[self.function].shapes(case), {}
        for path, names in self.parameters.items():
            rest = found[module.get_parameter(path)].flatten()
            for name in names.split():
                count = torch.Size(shapes[name]).numel()
                named[name], rest = rest[:count].view(shapes[name]), rest[count:]
        return named


GATED = {"linear.weight": "linear", "gate.weight": "gate", "gate_bias": "gate_bias", "type_bias": "type_bias"}
EDGE_GATED = {f"{side}_edges.{path}": f"{side}_{name}" for side in ("in", "out") for path, name in GATED.items()} | {
    "self_loop.weight": "self_linear",
    "self_loop.bias": "bias",
}


class GatedWeights(nn.Module):
    """The weights of one direction, for the providers that are not a layer of a library."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.linear = nn.Linear(case.in_dim, case.out_dim, bias=False)
        self.gate = nn.Linear(case.in_dim, 1, bias=False)
        self.gate_bias = nn.Parameter(torch.empty(case.num_types))
        self.type_bias = nn.Parameter(torch.empty(case.num_types, case.out_dim))


class BothDirections(nn.Module):
    """ReLU of the sums over in-edges and out-edges and of the node itself, from a module for one direction."""

    def __init__(self, case: Case, one: Callable[[Case], nn.Module]) -> None:
        super().__init__()
        self.in_edges, self.out_edges = one(case), one(case)
        self.self_loop = nn.Linear(case.in_dim, case.out_dim)

    def forward(self, graphs: tuple[Any, Any], x: Tensor) -> Tensor:
        """Return (N, out_dim); `graphs` holds the graph and its reverse."""
        forward, backward = graphs
        return torch.relu(self.in_edges(forward, x) + self.out_edges(backward, x) + self.self_loop(x))


def gated_pair(
    name: str, convert: Callable[[GraphStructure], Any], one: Callable[[Case], nn.Module], **options: Any
) -> list[Provider]:
    """The gated and the edge-gated layer from a module for one direction with the weights of `GatedWeights`."""
    return [
        Provider(name, "gated", "gated", convert, one, GATED, **options),
        Provider(
            name,
            "edge_gated",
            "edge_gated",
            lambda structure: (convert(structure), convert(structure.reverse())),
            partial(BothDirections, one=one),
            EDGE_GATED,
            **options,
        ),
    ]


def edges_of(structure: GraphStructure, by_type: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Source, destination and type of each edge, sorted by type where asked."""
    columns = (structure.indices, structure.destinations, structure.etype)
    if not by_type:
        return columns
    order = structure.etype.argsort(stable=True)
    source, destination, etype = (column[order] for column in columns)
    return source, destination, etype


def both_ways(structure: GraphStructure) -> GraphStructure:
    """The edges and, with types of their own, the reversed edges."""
    names = [*structure.edge_types, *(f"{name}_reversed" for name in structure.edge_types)]
    source, destination, etype = edges_of(structure)
    ends = torch.cat([source, destination]), torch.cat([destination, source])
    etype = torch.cat([etype, etype + structure.num_types])
    return GraphStructure.from_edges(*ends, etype, names, structure.batch_num_nodes)


def relational_pair(
    convert: Callable[[GraphStructure], Any], parameters: Sequence[str], **options: Any
) -> Iterable[Provider]:
    """The peers' layer with one matrix per relation, in one direction and in both.

    Args:
        convert: as of `Provider`.
        parameters: names of the matrices, and of root and bias, which are for both directions.
        options: everything else.
    """
    relational = partial(Provider, function="typed", note="one matrix per relation, no gate", **options)
    weight, root, bias = parameters
    yield relational(layer="gated", convert=convert, parameters={weight: "weight"})
    yield relational(
        layer="edge_gated",
        convert=lambda structure: convert(both_ways(structure)),
        parameters={weight: "weight", root: "root", bias: "bias"},
    )


def by_edge(case: Case, graph: GraphStructure) -> int:
    """Floats of layers that gather features to the edges."""
    return 5 * graph.num_edges * case.out_dim
