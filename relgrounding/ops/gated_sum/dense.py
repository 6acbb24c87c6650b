"""Padded matrices of gates, a few items at a time: the sums are matrix products."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._dense import mostly_joined
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops._segments import add_rows_
from relgrounding.ops.gated_sum.naive import gated_sum_naive

# Of all ordered pairs of nodes: joined pairs from which `auto` takes this backend.
SHARE = 0.55


@register_backend(
    "gated_sum",
    "dense",
    devices=["cpu", "cuda"],
    dtypes=FLOAT,
    auto={"cpu": 20},
    suits=mostly_joined(SHARE),
    widen_half=True,
    opaque=True,
)
def gated_sum_dense(
    structure: GraphStructure,
    feat_ND: Float[Tensor, "nodes dim"],
    gate_N: Float[Tensor, " nodes"],
    gate_bias_R: Float[Tensor, " types"],
    type_bias_RD: Float[Tensor, "types dim"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.gated_sum`, and `gated_sum_csr` for the two tables of nodes x types.

    Where there is no edge, the type is an additional one whose gate is 0.
    """
    return _GatedSum.apply(structure, feat_ND, gate_N, gate_bias_R, type_bias_RD)


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, structure: GraphStructure, feat_ND: Tensor, gate_N: Tensor, gate_bias_R: Tensor, type_bias_RD: Tensor
    ) -> Tensor:
        shut = torch.nn.functional.pad(gate_bias_R, (0, 1), value=-torch.inf)
        gates_NR = torch.add(gate_N[:, None], shut).sigmoid_()
        no_bias = torch.nn.functional.pad(type_bias_RD, (0, 0, 0, 1))
        sums_NR, out_ND = torch.empty_like(gates_NR), torch.empty_like(feat_ND, memory_format=torch.contiguous_format)
        for group in structure.groups:
            gates = group.pad(gates_NR)
            total, target, parts = group.target(sums_NR).zero_(), group.target(out_ND), []
            for plane in group.planes:
                type_ = plane.int()
                parts.append(gates.view(-1).index_select(0, _cells(type_, gates.shape[2], axis=2)))
                add_rows_(total.view(-1), _cells(type_, gates.shape[2], axis=1), parts[-1])
            torch.bmm(_added(parts).view(plane.shape), group.pad(feat_ND), out=target)
            group.write(sums_NR, total)
            group.write(out_ND, target)
        keep(ctx, (structure, feat_ND, gate_N, gate_bias_R, type_bias_RD), gates_NR, sums_NR, no_bias)
        return out_ND.addmm_(sums_NR, no_bias)

    @staticmethod
    @backward_pass(gated_sum_naive)
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        (structure, feat_ND, *_), (gates_NR, sums_NR, no_bias) = kept(ctx)
        grad_ND = grad_ND.contiguous()
        d_feat, d_gates = torch.empty_like(grad_ND), torch.empty_like(gates_NR)
        of_types_NR = grad_ND @ no_bias.t()
        for group in structure.groups:
            gates, grad, of_types = (group.pad(x) for x in (gates_NR, grad_ND, of_types_NR))
            x = torch.bmm(grad, group.pad(feat_ND).mT).view(-1)
            d_own, target, parts = group.target(d_gates).zero_(), group.target(d_feat), []
            for plane in group.planes:
                type_ = plane.int()
                cell = _cells(type_, gates.shape[2], axis=1)
                d_part = of_types.view(-1).index_select(0, cell).add_(x)
                cell = _cells(type_, gates.shape[2], axis=2)
                add_rows_(d_own.view(-1), cell, d_part)
                parts.append(torch.index_select(gates.view(-1), 0, cell, out=d_part))
            torch.bmm(_added(parts).view(plane.shape).mT, grad, out=target)
            group.write(d_feat, target)
            group.write(d_gates, d_own)
        torch.ops.aten.sigmoid_backward.grad_input(d_gates, gates_NR, grad_input=d_gates)
        return None, d_feat, d_gates.sum(1), d_gates.sum(0)[:-1], (sums_NR.t() @ grad_ND)[:-1]


def _added(parts: list[Tensor]) -> Tensor:
    """Sum of the planes' matrices, of which there is nearly always one."""
    first, *others = parts
    for other in others:
        first += other
    return first


def _cells(type_: Tensor, columns: int, axis: int) -> Tensor:
    """Indices into the group's flat table of nodes x types: axis 1 gives the destinations, axis 2 the sources."""
    items, longest, _ = type_.shape
    first = torch.arange(0, items * longest * columns, columns, device=type_.device, dtype=type_.dtype)
    return (type_ + first.view((items, longest, 1) if axis == 1 else (items, 1, longest))).view(-1)
