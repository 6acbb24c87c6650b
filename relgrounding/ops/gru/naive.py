"""Step by step: the reference of tests and benchmarks, in any float type."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding.ops._registry import register_backend


@register_backend("gru", "naive")
def gru_naive(
    x_BLI: Float[Tensor, "items length input_dim"],
    w_ih: Float[Tensor, "three_units input_dim"],
    w_hh: Float[Tensor, "three_units units"],
    b_ih: Float[Tensor, " three_units"],
    b_hh: Float[Tensor, " three_units"],
    w_ih_back: Float[Tensor, "three_units input_dim"],
    w_hh_back: Float[Tensor, "three_units units"],
    b_ih_back: Float[Tensor, " three_units"],
    b_hh_back: Float[Tensor, " three_units"],
    lengths: Int[Tensor, " items"],
) -> Float[Tensor, "items length output_dim"]:
    """See `relgrounding.ops.gru`."""
    time, ends = torch.arange(x_BLI.shape[1], device=x_BLI.device), lengths.to(x_BLI.device).unsqueeze(1)
    real_BL = time < ends
    # A step of the backward direction is as far from the end of its sequence as its own number from the start.
    mirrored_BL = torch.where(real_BL, ends - 1 - time, time).unsqueeze(2)
    x_BLI = x_BLI.masked_fill(~real_BL.unsqueeze(2), 0)
    forward = _one_direction(x_BLI, w_ih, w_hh, b_ih, b_hh)
    turned = x_BLI.gather(1, mirrored_BL.expand_as(x_BLI))
    backward = _one_direction(turned, w_ih_back, w_hh_back, b_ih_back, b_hh_back)
    backward = backward.gather(1, mirrored_BL.expand_as(backward))
    return torch.cat([forward, backward], 2).masked_fill(~real_BL.unsqueeze(2), 0)


def _one_direction(x_BLI: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    state_BH, states = x_BLI.new_zeros(len(x_BLI), w_hh.shape[1]), []
    for x_B3H in torch.nn.functional.linear(x_BLI, w_ih, b_ih).unbind(1):
        (x_r, x_z, x_n), (h_r, h_z, h_n) = (
            t.chunk(3, 1) for t in (x_B3H, torch.nn.functional.linear(state_BH, w_hh, b_hh))
        )
        n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        state_BH = n + torch.sigmoid(x_z + h_z) * (state_BH - n)
        states.append(state_BH)
    return torch.stack(states, 1)
