"""PyTorch Geometric's layers, as its documentation calls them."""

import importlib
import importlib.util
import types
import warnings
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.providers._dgl import both_ways
from benchmarks.providers._provider import Provider, by_edge
from relgrounding.graphs import GraphStructure


def unavailable() -> str | None:
    """Why it cannot be used; None where it can."""
    if importlib.util.find_spec("torch_geometric") is None:
        return 'torch_geometric is not installed: pip install -e ".[bench]"'
    return None


def pyg(module: str) -> types.ModuleType:
    """A module of PyTorch Geometric, which is imported on first use: it takes seconds and may not be installed."""
    with warnings.catch_warnings():
        # It scripts a class at import, which newer releases of PyTorch warn about.
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"torch_geometric.{module}")


def _edge_index(structure: GraphStructure) -> tuple[Tensor, Tensor]:
    return torch.stack([structure.indices, structure.destinations]), structure.etype


def _sorted_by_type(structure: GraphStructure) -> tuple[Tensor, Tensor]:
    order = structure.etype.argsort(stable=True)
    edge_index, etype = _edge_index(structure)
    return edge_index[:, order], etype[order]


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


def providers() -> Iterable[Provider]:
    """Its graph attention and its two relational layers."""
    peer = partial(Provider, reason=lambda device, dtype: unavailable())
    yield peer(
        "pyg.GATConv",
        "attention",
        "attention",
        _edge_index,
        _attention,
        {"conv.lin.weight": "linear", "conv.att_src": "att_src", "conv.att_dst": "att_dst", "conv.bias": "bias"},
        floats=by_edge,
    )
    relational = partial(
        peer,
        "pyg.RGCNConv",
        function="typed",
        layer_of=_relational,
        floats=lambda case, size: case.in_dim * (2 * size.edges + size.types * size.nodes),
        note="one matrix per relation, no gate",
    )
    weight = {"conv.weight": "weight"}
    yield relational(layer="gated", convert=_sorted_by_type, parameters=weight)
    yield relational(
        layer="edge_gated",
        convert=lambda structure: _sorted_by_type(both_ways(structure)),
        parameters=weight | {"conv.root": "root", "conv.bias": "bias"},
    )
    yield peer(
        "pyg.RGATConv",
        "gated",
        "typed_attention",
        _edge_index,
        _relational_attention,
        {f"conv.{name}": name for name in ("weight", "q", "k", "bias")},
        floats=lambda case, size: size.edges * (3 * case.in_dim * case.out_dim + 8 * case.out_dim),
        note="one matrix per relation, attention for a gate; copies the matrix to each edge",
    )
