"""What no layer can beat: its linear maps alone, and a copy of the bytes that must be read and written."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Size
from benchmarks.functions import FUNCTIONS
from benchmarks.providers._provider import Of, Provider, node_floats
from relgrounding.graphs import GraphStructure


def _nothing(structure: GraphStructure) -> None:
    return None


class Maps(nn.Module):
    """The layer's linear maps, one product each."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        names = FUNCTIONS["linear"].shapes(case)
        self.maps = nn.ModuleDict({name: nn.Linear(case.in_dim, case.out_dim, bias=False) for name in names})

    def forward(self, graph: None, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(linear(x) for linear in self.maps.values())


def _map_weights(module: Maps, of: Of) -> dict[str, Tensor]:
    return {name: of(linear.weight) for name, linear in module.maps.items()}


class OneProduct(nn.Module):
    """The same maps with their matrices on top of each other, one product for all."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.names = list(FUNCTIONS["linear"].shapes(case))
        self.linear = nn.Linear(case.in_dim, case.out_dim * len(self.names), bias=False)

    def forward(self, graph: None, x: Tensor) -> tuple[Tensor, ...]:
        return self.linear(x).chunk(len(self.names), dim=1)


def _product_weights(module: OneProduct, of: Of) -> dict[str, Tensor]:
    return dict(zip(module.names, of(module.linear.weight).chunk(len(module.names)), strict=True))


class _CopyBytes(torch.autograd.Function):
    """A copy of n numbers reads n and writes n, so the tensors that a layer must touch make half as many to copy."""

    @staticmethod
    def forward(ctx, x: Tensor, out_dim: int) -> Tensor:
        nodes, in_dim = x.shape
        ctx.save_for_backward(x)
        copied = x.flatten()[: nodes * (in_dim + out_dim) // 2].clone()
        return copied[: nodes * out_dim].view(nodes, out_dim)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        # Reads the input for the weight's gradient and writes the input's, then reads the output's gradient.
        result = x.clone()
        gradients[0].flatten()[: gradients[0].numel() // 2].clone()
        return result, None


class CopyBytes(nn.Module):
    """Reads the input and writes the output; backward the input, both gradients. Narrowing maps only."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.out_dim = case.out_dim

    def forward(self, graph: None, x: Tensor) -> Tensor:
        return _CopyBytes.apply(x, self.out_dim)


def _no_weights(module: CopyBytes, of: Of) -> dict[str, Tensor]:
    return {}


def _floats(case: Case, size: Size) -> int:
    return node_floats(case, size)


def providers() -> Iterable[Provider]:
    """The limits of each layer."""
    for layer in ("attention", "gated", "edge_gated"):
        yield Provider("limit.linear", layer, "linear", _nothing, Maps, _map_weights, _floats)
        if layer == "edge_gated":
            yield Provider("limit.linear at once", layer, "linear", _nothing, OneProduct, _product_weights, _floats)
        yield Provider("limit.copy", layer, "", _nothing, CopyBytes, _no_weights, _floats, note="computes nothing")
