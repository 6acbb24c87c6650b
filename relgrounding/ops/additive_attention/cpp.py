"""A compiled loop takes each proposal through all steps; no pair is ever held. Letters as in `pieces.py`."""

from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._cpp import call, cpp_reason
from relgrounding.ops._registry import FLOAT, register_backend
from relgrounding.ops.additive_attention.naive import additive_attention_naive


@register_backend(
    "additive_attention",
    "cpp",
    devices=["cpu"],
    dtypes=(*FLOAT, torch.bfloat16),
    reason=cpp_reason,
    auto={"cpu": 30},
    widen_half=True,
    own_autocast=True,
)
def additive_attention_cpp(
    a_NA: Float[Tensor, "nodes hidden_dim"],
    b_BLA: Float[Tensor, "items length hidden_dim"],
    w_A: Float[Tensor, " hidden_dim"],
    s_BLW: Float[Tensor, "items length word_dim"],
    lengths: Int[Tensor, " items"],
    counts: list[int],
) -> tuple[Float[Tensor, "nodes word_dim"], Float[Tensor, "nodes length"]]:
    """See `relgrounding.ops.additive_attention`; where a is in bfloat16, c is, and all else in float32."""
    return _AdditiveAttention.apply(a_NA, b_BLA, w_A, s_BLW, lengths, counts)


class _AdditiveAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a_NA: Tensor, b_BLA: Tensor, w_A: Tensor, s_BLW: Tensor, lengths_B: Tensor, counts: list[int]
    ) -> tuple[Tensor, Tensor]:
        c_NW, gamma_NL = a_NA.new_empty(len(a_NA), s_BLW.shape[2]), w_A.new_empty(len(a_NA), s_BLW.shape[1])
        read = _read(a_NA, b_BLA, w_A, s_BLW, lengths_B, counts)
        call("additive_forward", *b_BLA.shape, s_BLW.shape[2], len(a_NA), *read, c_NW, gamma_NL)
        keep(ctx, (a_NA, b_BLA, w_A, s_BLW, lengths_B, counts), gamma_NL)
        ctx.set_materialize_grads(False)
        return c_NW, gamma_NL

    @staticmethod
    @backward_pass(additive_attention_naive)
    def backward(ctx: Any, dc_NW: Tensor | None, dgamma_NL: Tensor | None) -> tuple[Tensor | None, ...]:
        (a_NA, b_BLA, w_A, s_BLW, *rest), (gamma_NL,) = kept(ctx)
        # Contiguous, which `empty_like` need not be.
        d_NA, d_BLA, d_BLW = (x.new_empty(x.shape) for x in (a_NA, b_BLA, s_BLW))
        dw_BA = w_A.new_empty(len(b_BLA), len(w_A))
        above = (x if x is None else x.contiguous() for x in (dc_NW, dgamma_NL))
        read = _read(a_NA, b_BLA, w_A, s_BLW, *rest)
        call("additive_backward", *b_BLA.shape, s_BLW.shape[2], *read, gamma_NL, *above, d_NA, d_BLA, dw_BA, d_BLW)
        return d_NA, d_BLA, dw_BA.sum(0), d_BLW, None, None


def _read(
    a_NA: Tensor, b_BLA: Tensor, w_A: Tensor, s_BLW: Tensor, lengths_B: Tensor, counts: list[int]
) -> list[Tensor]:
    """Where each item's proposals start, the lengths, and the inputs."""
    starts = torch.tensor([0, *accumulate(counts)])
    return [starts, *(x.contiguous() for x in (lengths_B.long(), a_NA, b_BLA, w_A, s_BLW))]
