"""Plain PyTorch, padded to dense matrices, without custom kernels or gradients; edge by edge it is `ours.naive`."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.providers._provider import GatedWeights, Provider, gated_pair
from relgrounding.graphs import GraphStructure


@dataclass(frozen=True)
class Padded:
    """Items side by side, filled up to the longest.

    Args:
        node: (N,) index of each node in (items x longest).
        items: B.
        longest: T.
        edge: (E,) index of each edge in (B, destination, source); parallel edges are not supported.
        edge_type: (E,) its type.
        apart: (B, 1, T, T) whether there is no edge.
        alive: (B, 1, T, 1) whether a node has an in-edge.
    """

    node: Tensor
    items: int
    longest: int
    edge: Tensor
    edge_type: Tensor
    apart: Tensor
    alive: Tensor

    def pad(self, values: Tensor) -> Tensor:
        """(N, ...) to (B, T, ...)."""
        wide = values.new_zeros(self.items * self.longest, *values.shape[1:]).index_copy(0, self.node, values)
        return wide.unflatten(0, (self.items, self.longest))

    def unpad(self, values: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...)."""
        return values.flatten(0, 1)[self.node]


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


class PaddedAttention(nn.Module):
    """A masked softmax over all pairs of an item, then a matrix product."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.heads = (case.heads, case.dim)
        self.linear = nn.Linear(case.in_dim, case.out_dim, bias=False)
        self.att_src, self.att_dst = (nn.Parameter(torch.empty(self.heads)) for _ in range(2))
        self.bias = nn.Parameter(torch.empty(case.out_dim))

    def forward(self, graph: Padded, x: Tensor) -> Tensor:
        feat = self.linear(x).unflatten(1, self.heads)
        score_src, score_dst = ((feat * vector).sum(2, keepdim=True) for vector in (self.att_src, self.att_dst))
        feat, score_src, score_dst = (graph.pad(t).transpose(1, 2) for t in (feat, score_src, score_dst))
        logit = torch.nn.functional.leaky_relu(score_dst + score_src.transpose(2, 3), 0.2)
        # With minus infinity rows without an edge would be NaN; they are cleared afterwards.
        alpha = torch.softmax(logit.masked_fill(graph.apart, torch.finfo(logit.dtype).min), 3)
        return graph.unpad((alpha @ feat * graph.alive).transpose(1, 2)).flatten(1) + self.bias


class PaddedGated(GatedWeights):
    """Gates as a matrix per item, and its product with the features; a table of gate sums for the biases."""

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


def _floats(case: Case, graph: GraphStructure) -> int:
    return graph.num_nodes * 4 * (case.in_dim + case.out_dim) + 6 * graph.num_pairs * case.heads


def providers() -> Iterable[Provider]:
    """Each layer."""
    weights = {"linear.weight": "linear", "att_src": "att_src", "att_dst": "att_dst", "bias": "bias"}
    yield Provider("torch.padded", "attention", "attention", _padded, PaddedAttention, weights, _floats)
    yield from gated_pair("torch.padded", _padded, PaddedGated, floats=_floats)
