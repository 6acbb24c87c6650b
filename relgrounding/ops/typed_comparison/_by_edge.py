"""The comparison from three products of a graph's edges with features: what `csr` and `dense` share.

With T_i = 1 + sum_j g_ij and G the incoming gradient, the gradient of a gate is

    type_bias[t] . G_i / (1 + n_i[t])^2  +  feat_j . G_i / T_i  -  sum_k g_ik feat_k . G_i / T_i^2

whose first and last terms are a table of nodes x types.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._segments import cell_sums, segment_sum
from relgrounding.ops.typed_comparison.naive import comparison_gates, type_cells, typed_comparison_naive


class Products(NamedTuple):
    """Products without a tensor of (edges x features).

    Args:
        sums: of a graph, features (N, D) and weights (E,): sum of ``weight feat[source]`` over the in-edges, (N, D).
        turned_sums: the same of ``weight feat[destination]`` over the out-edges.
        dots: of a graph and two tables (N, D): ``one[destination] . other[source]``, (E,).
    """

    sums: Callable[[GraphStructure, Tensor, Tensor], Tensor]
    turned_sums: Callable[[GraphStructure, Tensor, Tensor], Tensor]
    dots: Callable[[GraphStructure, Tensor, Tensor], Tensor]


def compare(products: Products, structure: GraphStructure, *inputs: Tensor | None) -> Tensor:
    """See `relgrounding.ops.typed_comparison`."""
    return _TypedComparison.apply(structure, *(x if x is None else x.contiguous() for x in inputs), products)


def _reference(structure: GraphStructure, *inputs: Any) -> Tensor:
    return typed_comparison_naive(structure, *inputs[:-1])


class _TypedComparison(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        structure: GraphStructure,
        feat_ND: Tensor,
        gate_N: Tensor,
        type_gate_NR: Tensor,
        type_bias_RD: Tensor,
        edge_bias_E: Tensor | None,
        products: Products,
    ) -> Tensor:
        gate_E = comparison_gates(structure, gate_N, type_gate_NR, edge_bias_E, naive=True)
        count_NR = cell_sums(gate_E, type_cells(structure), type_gate_NR.shape)
        arguments = structure, feat_ND, gate_N, type_gate_NR, type_bias_RD, edge_bias_E, products
        keep(ctx, arguments, gate_E, count_NR)
        out_ND = products.sums(structure, feat_ND, gate_E).div_(1 + count_NR.sum(1, keepdim=True))
        return out_ND.addmm_(count_NR / (1 + count_NR), type_bias_RD)

    @staticmethod
    @backward_pass(_reference)
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_ND, _, _, type_bias_RD, edge_bias_E, products), (gate_E, count_NR) = kept(ctx)
        total_N, opened_NR = 1 + count_NR.sum(1), 1 + count_NR
        own_ND = grad_ND / total_N[:, None]
        d_E = products.dots(structure, own_ND, feat_ND)
        table_NR = (grad_ND @ type_bias_RD.t()).div_(opened_NR.square())
        table_NR -= segment_sum(gate_E * d_E, structure.indptr).div_(total_N)[:, None]
        cell_E = type_cells(structure)
        d_E = torch.ops.aten.sigmoid_backward(d_E.add_(table_NR.view(-1).index_select(0, cell_E)), gate_E)
        d_feat = products.turned_sums(structure, own_ND, gate_E) if ctx.needs_input_grad[1] else None
        d_gate = segment_sum(d_E.index_select(0, structure.out_edges), structure.out_indptr)
        d_type_gate = cell_sums(d_E, cell_E, count_NR.shape)
        d_type_bias = (count_NR / opened_NR).t() @ grad_ND if ctx.needs_input_grad[4] else None
        return None, d_feat, d_gate, d_type_gate, d_type_bias, None if edge_bias_E is None else d_E, None
