"""A compiled recurrence, each sequence from its own ends; PyTorch multiplies all steps with the weights at once."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import on_host
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._cpp import call, cpp_reason
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.gru.naive import gru_naive


@register_backend("gru", "cpp", devices=["cpu"], dtypes=FLOAT, reason=cpp_reason, auto={"cpu": 30})
def gru_cpp(
    x: Float[Tensor, "items length input_dim"], *weights: Tensor, lengths: Int[Tensor, " items"]
) -> Float[Tensor, "items length output_dim"]:
    """See `relgrounding.ops.gru`."""
    return _BidirectionalGRU.apply(x, *weights, lengths)


class _BidirectionalGRU(torch.autograd.Function):
    """N: real steps of all sequences, sequence by sequence; H units; a leading 2 is forward and backward direction."""

    @staticmethod
    def forward(ctx: Any, x_BLI: Tensor, *weights_and_lengths: Any) -> Tensor:
        *weights, lengths = weights_and_lengths
        w_ih, w_hh, b_ih, b_hh = zip(weights[:4], weights[4:], strict=True)
        lengths_B = on_host(lengths).long()
        starts = torch.cat([lengths_B.new_zeros(1), lengths_B.cumsum(0)])
        source_N = (torch.arange(x_BLI.shape[1]) < lengths_B.unsqueeze(1)).flatten().nonzero().squeeze(1)
        rows_NI = x_BLI.flatten(0, 1).index_select(0, source_N)
        # The inputs' part of the gates, which r, z and n then replace.
        rzn = [torch.addmm(b, rows_NI, w.t()) for b, w in zip(b_ih, w_ih, strict=True)]
        units = w_hh[0].shape[1]
        h_n, out = rows_NI.new_empty(2, len(rows_NI), units), rows_NI.new_empty(*x_BLI.shape[:2], 2 * units)
        recurrent = [x.contiguous() for x in (*w_hh, *b_hh)]
        call("gru_forward", *x_BLI.shape[:2], units, starts, *rzn, *h_n, *recurrent, out)
        keep(ctx, (x_BLI, *weights, lengths), starts, source_N, rows_NI, *rzn, h_n, out)
        return out

    @staticmethod
    @backward_pass(gru_naive)
    def backward(ctx: Any, above_BL: Tensor) -> tuple[Tensor | None, ...]:
        (x_BLI, *weights, _), (starts, source_N, rows_NI, *rzn, h_n, out) = kept(ctx)
        w_ih, w_hh = weights[::4], weights[1::4]
        units, count = w_hh[0].shape[1], len(rows_NI)
        recurrent, inputs = (rows_NI.new_empty(2, count, 3 * units) for _ in range(2))
        before = rows_NI.new_empty(2, count, units)
        read = *rzn, h_n, *(w.contiguous() for w in w_hh), out, above_BL.contiguous()
        call("gru_backward", *x_BLI.shape[:2], units, starts, *read, recurrent, inputs, before)
        grads = [
            gradient
            for of_recurrent, of_inputs, state in zip(recurrent, inputs, before, strict=True)
            for gradient in (of_inputs.t() @ rows_NI, of_recurrent.t() @ state, of_inputs.sum(0), of_recurrent.sum(0))
        ]
        dx = None
        if ctx.needs_input_grad[0]:
            dx_NI = torch.addmm(inputs[0] @ w_ih[0], inputs[1], w_ih[1])
            dx = torch.zeros_like(x_BLI, memory_format=torch.contiguous_format).flatten(0, 1)
            dx = dx.index_copy_(0, source_N, dx_NI).view_as(x_BLI)
        return dx, *grads, None
