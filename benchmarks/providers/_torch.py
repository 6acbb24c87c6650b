"""Plain PyTorch: edge by edge, and padded to dense matrices, without custom kernels or gradients."""

from collections.abc import Iterable
from dataclasses import dataclass
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
from relgrounding.graphs import GraphStructure

Ends = tuple[Tensor, Tensor, Tensor]


def _ends(structure: GraphStructure) -> Ends:
    return structure.indices, structure.destinations, structure.etype


class AttentionWeights(nn.Module):
    """The weights of the attention layer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.heads = (case.heads, case.dim)
        self.linear = nn.Linear(case.in_dim, case.out_dim, bias=False)
        self.att_src, self.att_dst = (nn.Parameter(torch.empty(self.heads)) for _ in range(2))
        self.bias = nn.Parameter(torch.empty(case.out_dim))

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, H, D) and both scores (N, H)."""
        feat = self.linear(x).unflatten(1, self.heads)
        return feat, (feat * self.att_src).sum(2), (feat * self.att_dst).sum(2)


def _attention_weights(module: AttentionWeights, of: Of) -> dict[str, Tensor]:
    weights = {"linear": of(module.linear.weight), "bias": of(module.bias)}
    return weights | {"att_src": of(module.att_src), "att_dst": of(module.att_dst)}


class EdgewiseAttention(AttentionWeights):
    """Features are gathered to the edges, weighted there and summed."""

    def forward(self, ends: Ends, x: Tensor) -> Tensor:
        src, dst, _ = ends
        feat, score_src, score_dst = self.projected(x)
        logit = torch.nn.functional.leaky_relu(score_src[src] + score_dst[dst], 0.2)
        place = dst[:, None].expand_as(logit)
        largest = logit.new_full(score_dst.shape, -torch.inf).scatter_reduce(0, place, logit.detach(), "amax")
        weight = (logit - largest[dst]).exp()
        alpha = weight / torch.zeros_like(score_dst).scatter_add(0, place, weight)[dst]
        message = alpha.unsqueeze(2) * feat[src]
        return torch.zeros_like(feat).index_add(0, dst, message).flatten(1) + self.bias


class EdgewiseGated(GatedWeights):
    """Features and biases are gathered to the edges, gated there and summed."""

    def forward(self, ends: Ends, x: Tensor) -> Tensor:
        src, dst, etype = ends
        feat = self.linear(x)
        gate = torch.sigmoid(self.gate(x)[src] + self.gate_bias[etype].unsqueeze(1))
        return torch.zeros_like(feat).index_add(0, dst, gate * (feat[src] + self.type_bias[etype]))


@dataclass(frozen=True)
class Padded:
    """Items side by side, filled up to the longest.

    Args:
        place: (N,) place of each node in (items x longest).
        items: B.
        longest: T.
        edge: (E,) place of each edge in (B, destination, source); parallel edges are not supported.
        edge_type: (E,) its type.
        apart: (B, 1, T, T) whether there is no edge.
        alive: (B, 1, T, 1) whether a node has an in-edge.
    """

    place: Tensor
    items: int
    longest: int
    edge: Tensor
    edge_type: Tensor
    apart: Tensor
    alive: Tensor

    def pad(self, values: Tensor) -> Tensor:
        """(N, ...) to (B, T, ...)."""
        wide = values.new_zeros(self.items * self.longest, *values.shape[1:]).index_copy(0, self.place, values)
        return wide.unflatten(0, (self.items, self.longest))

    def unpad(self, values: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...)."""
        return values.flatten(0, 1)[self.place]


def _padded(structure: GraphStructure) -> Padded:
    counts = structure.batch_num_nodes
    longest = int(counts.max())
    item = structure.node_item
    within = torch.arange(structure.num_nodes, device=structure.device) - (counts.cumsum(0) - counts)[item]
    dst, src = structure.destinations, structure.indices
    edge = (item[dst] * longest + within[dst]) * longest + within[src]
    joined = torch.zeros(len(counts), longest, longest, dtype=torch.bool, device=structure.device)
    joined.view(-1)[edge] = True
    masks = (~joined.unsqueeze(1), joined.any(2)[:, None, :, None])
    return Padded(item * longest + within, len(counts), longest, edge, structure.etype, *masks)


class PaddedAttention(AttentionWeights):
    """A masked softmax over all pairs of an item, then a matrix product."""

    def forward(self, graph: Padded, x: Tensor) -> Tensor:
        feat, score_src, score_dst = (graph.pad(t).transpose(1, 2) for t in map(_with_width, self.projected(x)))
        logit = torch.nn.functional.leaky_relu(score_dst + score_src.transpose(2, 3), 0.2)
        # With minus infinity rows without an edge would be NaN; they are cleared afterwards.
        alpha = torch.softmax(logit.masked_fill(graph.apart, torch.finfo(logit.dtype).min), 3)
        return graph.unpad((alpha @ feat * graph.alive).transpose(1, 2)).flatten(1) + self.bias


def _with_width(values: Tensor) -> Tensor:
    return values if values.ndim == 3 else values.unsqueeze(2)


class PaddedGated(GatedWeights):
    """Gates as a matrix an item, and its product with the features; a table of gate sums for the biases."""

    def forward(self, graph: Padded, x: Tensor) -> Tensor:
        types, (items, longest) = len(self.gate_bias), (graph.items, graph.longest)
        # (N, R): the gate depends on the source and the type only.
        opened = torch.sigmoid(self.gate(x) + self.gate_bias)
        source = torch.div(graph.edge, longest * longest, rounding_mode="floor") * longest + graph.edge % longest
        gate = graph.pad(opened).view(-1).gather(0, source * types + graph.edge_type)
        matrix = gate.new_zeros(items * longest * longest).index_copy(0, graph.edge, gate).view(items, longest, longest)
        cell = torch.div(graph.edge, longest, rounding_mode="floor") * types + graph.edge_type
        table = gate.new_zeros(items * longest * types).index_add(0, cell, gate).view(items, longest, types)
        return graph.unpad(matrix @ graph.pad(self.linear(x)) + table @ self.type_bias)


def _pair(structure: GraphStructure, convert) -> tuple:
    return convert(structure), convert(structure.reverse())


def _edge_floats(case: Case, size: Size) -> int:
    return node_floats(case, size) + 5 * size.edges * case.out_dim


def _pair_floats(case: Case, size: Size) -> int:
    return 2 * node_floats(case, size) + 6 * size.pairs * case.heads


def providers() -> Iterable[Provider]:
    """Both ways for each layer."""
    ways = (
        ("torch.edgewise", _ends, EdgewiseAttention, EdgewiseGated, _edge_floats),
        ("torch.padded", _padded, PaddedAttention, PaddedGated, _pair_floats),
    )
    for name, convert, attention, gated, floats in ways:
        yield Provider(name, "attention", "attention", convert, attention, _attention_weights, floats)
        yield Provider(name, "gated", "gated", convert, gated, gated_weights, floats)
        pair, both = partial(_pair, convert=convert), partial(BothDirections, one=gated)
        yield Provider(name, "edge_gated", "edge_gated", pair, both, edge_gated_weights, floats)
