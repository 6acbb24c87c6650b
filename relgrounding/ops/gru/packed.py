"""Both directions of all sequences step together, on the CPU, and the backward is written out.

Letters: N real steps of all sequences, H units, I input width; a leading 2 is forward and backward direction.

Steps are packed time by time, the longest sequences first, so that those still running are the first rows of each time.
The backward direction reads each sequence from its own end, and is then a recurrence like the forward one. With
r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z), n = tanh(x_n + r h_n), h' = n + z (h - n), the gradient of a step is the
gradient of h' times factors that do not depend on it; all are ready before the backward pass begins.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import on_host
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.gru.naive import gru_naive


class Packing(NamedTuple):
    """Where the steps are."""

    source_N: Tensor
    """Row of each packed step in the padded batch (items * length)."""
    mirrored_N: Tensor
    """Packed step that stands as far from the end of its sequence as this one from the start; its own inverse."""
    before_N: Tensor
    """The step before, of all but the first time."""
    sizes: list[int]
    """Sequences that have a step at each time."""


def pack(lengths: Tensor, padded_length: int) -> Packing:
    """Return how sequences of these lengths, on the CPU and each at least 1, are packed."""
    lengths, order = lengths.sort(descending=True, stable=True)
    runs = torch.arange(int(lengths[0])).unsqueeze(1) < lengths
    time, row = runs.nonzero().unbind(1)
    sizes = runs.sum(1)
    starts = sizes.cumsum(0) - sizes
    mirrored = starts[lengths[row] - 1 - time] + row
    later = time > 0
    before = starts[time[later] - 1] + row[later]
    return Packing(order[row] * padded_length + time, mirrored, before, sizes.tolist())


@register_backend("gru", "packed", devices=["cpu"], dtypes=FLOAT, auto={"cpu": 20})
def gru_packed(
    x: Float[Tensor, "items length input_dim"], *weights: Tensor, lengths: Int[Tensor, " items"]
) -> Float[Tensor, "items length output_dim"]:
    """See `relgrounding.ops.gru`."""
    return _BidirectionalGRU.apply(x, *weights, lengths)


class _BidirectionalGRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BLI: Tensor, *weights_and_lengths: Any) -> Tensor:
        *weights, lengths = weights_and_lengths
        ctx.packing = packing = pack(on_host(lengths), x_BLI.shape[1])
        w_ih, w_hh, b_ih, b_hh = (torch.stack(pair) for pair in zip(weights[:4], weights[4:], strict=True))
        rows_NI = x_BLI.flatten(0, 1).index_select(0, packing.source_N)
        # The inputs' part of the gates, which r, z and n then replace.
        rzn = torch.baddbmm(b_ih.unsqueeze(1), rows_NI.expand(2, -1, -1), w_ih.mT)
        rzn[1] = rzn[1].index_select(0, packing.mirrored_N)
        units = w_hh.shape[2]
        h_n, states = rzn.new_empty(2, len(rows_NI), units), rzn.new_empty(2, len(rows_NI), units)
        state, start = rzn.new_zeros(2, packing.sizes[0], units), 0
        for size in packing.sizes:
            now, state = slice(start, start + size), state[:, :size]
            recurrent, gates = torch.baddbmm(b_hh.unsqueeze(1), state, w_hh.mT), rzn[:, now]
            h_n[:, now] = recurrent[..., 2 * units :]
            rz = gates[..., : 2 * units].add_(recurrent[..., : 2 * units]).sigmoid_()
            n = gates[..., 2 * units :].addcmul_(rz[..., :units], recurrent[..., 2 * units :]).tanh_()
            state = torch.lerp(n, state, rz[..., units:], out=states[:, now])
            start += size
        keep(ctx, (x_BLI, *weights, lengths), w_ih, w_hh, rzn, h_n, states)
        out = rzn.new_zeros(x_BLI.shape[0] * x_BLI.shape[1], 2 * units)
        both = torch.cat([states[0], states[1].index_select(0, packing.mirrored_N)], -1)
        return out.index_copy_(0, packing.source_N, both).view(*x_BLI.shape[:2], -1)

    @staticmethod
    @backward_pass(gru_naive)
    def backward(ctx: Any, above_BL: Tensor) -> tuple[Tensor | None, ...]:
        (x_BLI, *_), (w_ih, w_hh, rzn, h_n, states) = kept(ctx)
        packing = ctx.packing
        units = w_hh.shape[2]
        rows = above_BL.flatten(0, 1).index_select(0, packing.source_N)
        above = torch.stack([rows[:, :units], rows[:, units:].index_select(0, packing.mirrored_N)])
        first = rzn.new_zeros(2, packing.sizes[0], units)
        before = torch.cat([first, states.index_select(1, packing.before_N)], 1)
        r, z, n = rzn.split(units, -1)
        factors = _factors(r, z, n, h_n, before)
        # Written over the factors: gradients of r, z, h_n and n before their activations.
        down, start = torch.zeros_like(first[:, : packing.sizes[-1]]), len(rows)
        for size in reversed(packing.sizes):
            start -= size
            now = slice(start, start + size)
            from_above = above[:, now]
            from_above[:, : down.shape[1]] += down
            step = factors[:, now].mul_(from_above.unsqueeze(2)).flatten(2)
            down = torch.baddbmm(from_above * z[:, now], step[..., : 3 * units], w_hh)
        flat = factors.flatten(2)
        recurrent, (dr_dz, dn) = flat[..., : 3 * units], (flat[..., : 2 * units], flat[..., 3 * units :])
        dw_hh, db_hh = recurrent.mT @ before, recurrent.sum(1)
        inputs = torch.cat([dr_dz, dn], -1)
        db_ih = inputs.sum(1)
        inputs[1] = inputs[1].index_select(0, packing.mirrored_N)
        rows_NI = x_BLI.flatten(0, 1).index_select(0, packing.source_N)
        dw_ih = inputs.mT @ rows_NI
        dx = None
        if ctx.needs_input_grad[0]:
            dx_NI = torch.addmm(inputs[0] @ w_ih[0], inputs[1], w_ih[1])
            dx = torch.zeros_like(x_BLI).flatten(0, 1).index_copy_(0, packing.source_N, dx_NI).view_as(x_BLI)
        return dx, *(d[k] for k in (0, 1) for d in (dw_ih, dw_hh, db_ih, db_hh)), None


def _factors(r: Tensor, z: Tensor, n: Tensor, h_n: Tensor, before: Tensor) -> Tensor:
    """(2, N, 4, H): what the gradient of a state is times, to be that of r, z, h_n and n before their activations."""
    to_n = (1 - z) * (1 - n * n)
    to_z = (before - n) * z * (1 - z)
    return torch.stack([to_n * h_n * r * (1 - r), to_z, to_n * r, to_n], 2)
