"""What no layer can beat: its linear maps alone, and a copy of the bytes that must be read and written."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import LAYERS, Case
from benchmarks.functions import FUNCTIONS, MAPS
from benchmarks.providers._provider import Provider


class Maps(nn.Module):
    """The layer's linear maps: one product each, or `at_once`, with their matrices stacked."""

    def __init__(self, case: Case, at_once: bool) -> None:
        super().__init__()
        maps = len(FUNCTIONS["linear"].shapes(case))
        widths = [case.out_dim * maps] if at_once else [case.out_dim] * maps
        self.maps = nn.ModuleList(nn.Linear(case.in_dim, width, bias=False) for width in widths)
        self.chunks = maps if at_once else 1

    def forward(self, graph: None, x: Tensor) -> tuple[Tensor, ...]:
        products = tuple(linear(x) for linear in self.maps)
        return products[0].chunk(self.chunks, dim=1) if self.chunks > 1 else products


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


def providers() -> Iterable[Provider]:
    """The limits of each layer."""
    for layer in LAYERS:
        limit = partial(Provider, layer=layer, convert=lambda structure: None)
        names = MAPS.get(layer, ("linear",))
        each = {f"maps.{k}.weight": name for k, name in enumerate(names)}
        maps = partial(limit, function="linear")
        yield maps("limit.linear", layer_of=partial(Maps, at_once=False), parameters=each)
        if layer == "edge_gated":
            stacked = {"maps.0.weight": " ".join(names)}
            yield maps("limit.linear at once", layer_of=partial(Maps, at_once=True), parameters=stacked)
        yield limit("limit.copy", function="", layer_of=CopyBytes, parameters={}, note="computes nothing")
