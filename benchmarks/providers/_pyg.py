"""PyTorch Geometric's layers, as its documentation calls them."""

import importlib
import importlib.util
import types
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.providers._provider import Provider, by_edge, edges_of, relational_pair
from relgrounding.graphs import GraphStructure

COMPILED = ("pyg.GATConv", "pyg.RGCNConv")


def unavailable() -> str | None:
    """Why it cannot be used; None where it can."""
    if importlib.util.find_spec("torch_geometric") is None:
        return 'torch_geometric is not installed: pip install -e ".[bench]"'
    return None


def _reason(device: torch.device, dtype: torch.dtype) -> str | None:
    return unavailable()


def pyg(module: str) -> types.ModuleType:
    """A module of PyTorch Geometric, which is imported on first use: it takes seconds and may not be installed."""
    with warnings.catch_warnings():
        # It scripts a class at import, which newer releases of PyTorch warn about.
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"torch_geometric.{module}")


def _edge_index(structure: GraphStructure, by_type: bool = False) -> tuple[Tensor, Tensor]:
    source, destination, etype = edges_of(structure, by_type)
    return torch.stack([source, destination]), etype


class Conv(nn.Module):
    """A layer of the library; without `typed`, one that knows no edge types."""

    def __init__(self, conv: nn.Module, typed: bool = True) -> None:
        super().__init__()
        self.conv, self.inputs = conv, 2 if typed else 1

    def forward(self, graph: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        return self.conv(x, *graph[: self.inputs])


def _attention(case: Case) -> Conv:
    # The graph has its self-loops already.
    return Conv(pyg("nn").GATConv(case.in_dim, case.dim, case.heads, add_self_loops=False), typed=False)


def _relational(case: Case) -> Conv:
    """Sums instead of its means, as in the other layers; edges come sorted by type."""
    both = case.layer == "edge_gated"
    options = {"aggr": "add", "root_weight": both, "bias": both, "is_sorted": True}
    return Conv(pyg("nn").RGCNConv(case.in_dim, case.out_dim, case.num_types * (1 + both), **options))


def _relational_attention(case: Case) -> Conv:
    return Conv(pyg("nn").RGATConv(case.in_dim, case.out_dim, case.num_types))


def _compiled(layer_of: Callable[[Case], nn.Module], case: Case) -> nn.Module:
    """Compile the layer for the sizes that it meets."""
    layer = layer_of(case)
    layer.get_submodule("conv").compile(dynamic=False)
    return layer


def providers() -> Iterable[Provider]:
    """Its graph attention and its two relational layers, and those that are fastest once more under torch.compile."""
    for provider in _plain():
        yield provider
        if provider.name in COMPILED:
            compiled = partial(_compiled, provider.layer_of)
            yield replace(provider, name=f"{provider.name} compiled", layer_of=compiled)


def _plain() -> Iterable[Provider]:
    yield Provider(
        "pyg.GATConv",
        "attention",
        "attention",
        _edge_index,
        _attention,
        {"conv.lin.weight": "linear", "conv.att_src": "att_src", "conv.att_dst": "att_dst", "conv.bias": "bias"},
        floats=by_edge,
        reason=_reason,
    )
    yield from relational_pair(
        partial(_edge_index, by_type=True),
        ("conv.weight", "conv.root", "conv.bias"),
        name="pyg.RGCNConv",
        layer_of=_relational,
        floats=lambda case, graph: case.in_dim * (2 * graph.num_edges + graph.num_types * graph.num_nodes),
        reason=_reason,
    )
    yield Provider(
        "pyg.RGATConv",
        "gated",
        "typed_attention",
        _edge_index,
        _relational_attention,
        {f"conv.{name}": name for name in ("weight", "q", "k", "bias")},
        floats=lambda case, graph: graph.num_edges * (3 * case.in_dim * case.out_dim + 8 * case.out_dim),
        reason=_reason,
        note="one matrix per relation, attention for a gate; copies the matrix to each edge",
    )
