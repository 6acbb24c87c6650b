"""The attention weights of one head of a group of items, as a matrix: destinations x sources."""

from collections.abc import Sequence

import torch
from torch import Tensor

from relgrounding.graphs._items._padded import ItemGroup
from relgrounding.ops.graph_attention._shift import common_shift


def edge_counts(group: ItemGroup, rows: slice, num_types: int, out: Tensor) -> None:
    """Write the number of parallel edges between any two nodes."""
    first, *others = group.planes
    out.copy_(first[:, rows] != num_types)
    for plane in others:
        out += plane[:, rows] != num_types


class Weights:
    """What the weights of all nodes are computed from.

    With a shift c - the highest source score - that suits all nodes (see `common_shift`), no exponential per edge is
    needed: for u_i = b_i + c,

        exp(leaky_relu(a_j + b_i) - leaky_relu(u_i)) = max(p_i exp(a_j - c), q_i exp(slope (a_j - c)))
        p_i = exp((1 - slope) min(u_i, 0)),   q_i = exp(-(1 - slope) max(u_i, 0))

    and every factor lies between 0 and 1.

    Args:
        src_NH: scores a.
        dst_NH: scores b.
        slope: of the leaky ReLU.
        kept: what `kept` returned after the forward pass; empty before it.
    """

    def __init__(self, src_NH: Tensor, dst_NH: Tensor, slope: float, kept: Sequence[Tensor] = ()) -> None:
        self.slope = slope
        if kept:
            self.shift_NH, self.scale_NH = kept[:2]
            self.factors = kept[2:]
            return
        self.scale_NH = torch.zeros_like(dst_NH)
        shift_NH = common_shift(src_NH, dst_NH, slope)
        self.shift_NH = torch.zeros_like(dst_NH) if shift_NH is None else shift_NH
        if shift_NH is None:
            self.factors = (src_NH, dst_NH)
            return
        highest_H = src_NH.amax(0)
        below_NH, above_NH = src_NH - highest_H, dst_NH + highest_H
        self.factors = (
            below_NH.exp(),
            (below_NH * slope).exp_(),
            (above_NH.clamp_max(0) * (1 - slope)).exp_(),
            (above_NH.clamp_min(0) * (slope - 1)).exp_(),
        )

    def kept(self) -> tuple[Tensor, ...]:
        """All of it, for the backward pass: a few numbers per node and head."""
        return self.shift_NH, self.scale_NH, *self.factors

    def of(self, group: ItemGroup) -> "GroupWeights":
        """The weights of a group of items."""
        return GroupWeights(self, group)


class GroupWeights:
    """The weights of a group of items; see `Weights`."""

    def __init__(self, weights: Weights, group: ItemGroup) -> None:
        self.weights, self.group = weights, group
        self.shift, self.scale = (group.pad(x) for x in (weights.shift_NH, weights.scale_NH))
        self.factors = [group.pad(x) for x in weights.factors]

    def raw(self, head: int, rows: slice, count: Tensor, out: Tensor, other: Tensor) -> Tensor:
        """Write weights that are not normalised; return the factor of each row that normalises them.

        Args:
            head: index of the head.
            rows: destinations.
            count: (items, rows, longest) edges.
            out: (items, rows, longest) for the weights.
            other: the same, scratch.
        """
        if len(self.factors) == 4:
            self._multiply(head, rows, count, out, other)
        else:
            self._logits(head, rows, count, out)
            highest = out.amax(2)
            shift = highest.masked_fill_(highest == -torch.inf, 0)
            self.shift[:, rows, head] = shift
            out.sub_(shift.unsqueeze(2)).exp_().mul_(count)
        total = out.sum(2)
        scale = total.reciprocal().masked_fill_(total == 0, 0)
        self.scale[:, rows, head] = scale
        return scale.unsqueeze(2)

    def normalised(self, head: int, rows: slice, count: Tensor, out: Tensor, other: Tensor) -> None:
        """Write the weights again, from what `keep` stored; arguments as in `raw`."""
        scale = self.scale[:, rows, head, None]
        if len(self.factors) == 4:
            self._multiply(head, rows, count, out, other, scale)
        else:
            self._logits(head, rows, count, out)
            out.sub_(self.shift[:, rows, head, None]).exp_().mul_(count).mul_(scale)

    def keep(self) -> None:
        """Store the shifts and scales that `raw` computed with those of all nodes."""
        self.group.write(self.weights.scale_NH, self.scale)
        self.group.write(self.weights.shift_NH, self.shift)

    def _multiply(
        self, head: int, rows: slice, count: Tensor, out: Tensor, other: Tensor, scale: Tensor | float = 1.0
    ) -> None:
        high_src, low_src, high_dst, low_dst = (x[:, :, head] for x in self.factors)
        torch.mul(high_src[:, None], high_dst[:, rows, None] * scale, out=out)
        torch.mul(low_src[:, None], low_dst[:, rows, None] * scale, out=other)
        torch.maximum(out, other, out=out).mul_(count)

    def _logits(self, head: int, rows: slice, count: Tensor, out: Tensor) -> None:
        src, dst = (x[:, :, head] for x in self.factors)
        torch.add(src[:, None], dst[:, rows, None], out=out)
        torch.nn.functional.leaky_relu_(out, self.weights.slope).masked_fill_(count == 0, -torch.inf)
