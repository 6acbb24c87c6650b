"""What a provider is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Size
from benchmarks.functions import FUNCTIONS, Weights
from relgrounding.graphs import GraphStructure

# Any: what modules hold is typed as tensors or modules.
Of = Callable[[Any], Tensor]


def always(device: torch.device, dtype: torch.dtype) -> str | None:
    """A provider without conditions."""
    return None


@dataclass(frozen=True)
class Provider:
    """A layer of some library, with the weights that its function names.

    Args:
        name: ``library.what``.
        layer: layer of the cases that it takes part in.
        function: what it computes, a key of `FUNCTIONS`; empty: nothing to check.
        convert: from the structure to what the library calls a graph.
        layer_of: the module of a case, called as ``module(graph, x)``.
        weights: each weight of the function as a view of ``of(parameter)``: with the parameters' values it serves to
            load weights, with their gradients to read those.
        floats: numbers alive at the peak, a rough bound: whether to start at all.
        reason: why it cannot run on a device and type; None where it can.
        note: for the table.
    """

    name: str
    layer: str
    function: str
    convert: Callable[[GraphStructure], Any]
    layer_of: Callable[[Case], nn.Module]
    weights: Callable[[Any, Of], Weights]
    floats: Callable[[Case, Size], int]
    reason: Callable[[torch.device, torch.dtype], str | None] = always
    note: str = ""

    @property
    def same_function(self) -> bool:
        """Whether it computes what ours does."""
        return self.function == self.layer

    def build(self, case: Case, weights: Weights, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The module with these weights.

        Raises:
            ValueError: weights that the module does not take.
        """
        module = self.layer_of(case)
        with torch.no_grad():
            views = self.weights(module, lambda parameter: parameter)
            if views.keys() != weights.keys():
                raise ValueError(f"{self.name} takes the weights {sorted(views)}, its function {sorted(weights)}")
            for name, view in views.items():
                view.copy_(weights[name])
        return module.to(device, dtype)

    def gradients(self, module: nn.Module, found: dict[nn.Parameter, Tensor]) -> Weights:
        """The gradients of the function's weights from those of the parameters."""
        return self.weights(module, lambda parameter: found[parameter])

    def weight_shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """Shape of each weight."""
        return FUNCTIONS[self.function].shapes(case) if self.function else {}


def node_floats(case: Case, size: Size) -> int:
    """Input, output, maps, and the gradients of all."""
    maps = 3 if case.layer == "edge_gated" else 1
    return size.nodes * (2 * case.in_dim + (3 + maps) * case.out_dim)


class GatedWeights(nn.Module):
    """The weights of one direction, for the providers that are no layer of a library."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.linear = nn.Linear(case.in_dim, case.out_dim, bias=False)
        self.gate = nn.Linear(case.in_dim, 1, bias=False)
        self.gate_bias = nn.Parameter(torch.empty(case.num_types))
        self.type_bias = nn.Parameter(torch.empty(case.num_types, case.out_dim))


def gated_weights(module: Any, of: Of) -> Weights:
    """The weights of anything that has the attributes of `GatedWeights`."""
    return {
        "linear": of(module.linear.weight),
        "gate": of(module.gate.weight),
        "gate_bias": of(module.gate_bias),
        "type_bias": of(module.type_bias),
    }


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


def edge_gated_weights(module: Any, of: Of) -> Weights:
    """The weights of anything that has the attributes of `BothDirections`."""
    ways = (("in", module.in_edges), ("out", module.out_edges))
    named = {f"{way}_{name}": value for way, part in ways for name, value in gated_weights(part, of).items()}
    return named | {"self_linear": of(module.self_loop.weight), "bias": of(module.self_loop.bias)}
