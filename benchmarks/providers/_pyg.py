"""PyTorch Geometric's layers, as its documentation calls them."""

import importlib
import importlib.util
import types
import warnings
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Size
from benchmarks.providers._dgl import both_ways
from benchmarks.providers._provider import Of, Provider, node_floats
from relgrounding.graphs import GraphStructure


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


def _edge_index(structure: GraphStructure) -> tuple[Tensor, Tensor]:
    return torch.stack([structure.indices, structure.destinations]), structure.etype


def _sorted_by_type(structure: GraphStructure) -> tuple[Tensor, Tensor]:
    order = structure.etype.argsort(stable=True)
    return torch.stack([structure.indices, structure.destinations])[:, order], structure.etype[order]


def _both_sorted(structure: GraphStructure) -> tuple[Tensor, Tensor]:
    return _sorted_by_type(both_ways(structure))


class Attention(nn.Module):
    """`GATConv`; the graph has its self-loops already."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.conv = pyg("nn").GATConv(case.in_dim, case.dim, case.heads, add_self_loops=False)

    def forward(self, typed: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        return self.conv(x, typed[0])


def _attention_weights(module: Attention, of: Of) -> dict[str, Tensor]:
    conv = module.conv
    weights = {"linear": of(conv.lin.weight), "att_src": of(conv.att_src)[0], "att_dst": of(conv.att_dst)[0]}
    return weights | {"bias": of(conv.bias)}


class Relational(nn.Module):
    """`RGCNConv` with sums instead of its means, as in the other layers; edges come sorted by type."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        both = case.layer == "edge_gated"
        types = case.num_types * (2 if both else 1)
        sizes = (case.in_dim, case.out_dim, types)
        self.conv = pyg("nn").RGCNConv(*sizes, aggr="add", root_weight=both, bias=both, is_sorted=True)

    def forward(self, typed: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        return self.conv(x, *typed)


def _relational_weights(module: Relational, of: Of) -> dict[str, Tensor]:
    weights = {"weight": of(module.conv.weight)}
    if module.conv.root is not None:
        weights |= {"root": of(module.conv.root), "bias": of(module.conv.bias)}
    return weights


class RelationalAttention(nn.Module):
    """`RGATConv`, one head: attention across relations, one matrix a relation."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.conv = pyg("nn").RGATConv(case.in_dim, case.out_dim, case.num_types)

    def forward(self, typed: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        return self.conv(x, *typed)


def _relational_attention_weights(module: RelationalAttention, of: Of) -> dict[str, Tensor]:
    return {name: of(getattr(module.conv, name)) for name in ("weight", "q", "k", "bias")}


def _edge_floats(case: Case, size: Size) -> int:
    return node_floats(case, size) + 5 * size.edges * case.out_dim


def _relational_floats(case: Case, size: Size) -> int:
    return node_floats(case, size) + 2 * size.edges * case.in_dim + size.types * size.nodes * case.in_dim


def _matrix_an_edge(case: Case, size: Size) -> int:
    return node_floats(case, size) + size.edges * (3 * case.in_dim * case.out_dim + 8 * case.out_dim)


def providers() -> Iterable[Provider]:
    """Its graph attention and its two relational layers."""
    yield Provider(
        "pyg.GATConv", "attention", "attention", _edge_index, Attention, _attention_weights, _edge_floats, _reason
    )
    relational = partial(
        Provider,
        "pyg.RGCNConv",
        function="typed",
        layer_of=Relational,
        weights=_relational_weights,
        floats=_relational_floats,
        reason=_reason,
        note="one matrix a relation, no gate",
    )
    yield relational(layer="gated", convert=_sorted_by_type)
    yield relational(layer="edge_gated", convert=_both_sorted)
    yield Provider(
        name="pyg.RGATConv",
        layer="gated",
        function="typed_attention",
        convert=_edge_index,
        layer_of=RelationalAttention,
        weights=_relational_attention_weights,
        floats=_matrix_an_edge,
        reason=_reason,
        note="one matrix a relation, attention for a gate; copies the matrix to each edge",
    )
