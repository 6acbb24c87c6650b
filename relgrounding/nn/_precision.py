"""Under autocast: float32 where bfloat16 has too few significant bits, and linear maps of few shapes on the CPU."""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding.ops._fused import linear


def under_autocast(x: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    kind = x.device.type
    return kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context in which operations on the device of a tensor keep the types of their inputs."""
    return torch.autocast(x.device.type, enabled=False) if under_autocast(x) else nullcontext()


def widened(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x, under autocast in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if under_autocast(x) else x


def shortened(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x, under autocast in its type: one copy for several maps, each of which would make its own.

    Autocast leaves float64 as it is.
    """
    short = under_autocast(x) and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(x.device.type)) if short else x


def precise_linear(linear: nn.Linear, x: Float[Tensor, "... in_dim"]) -> Float[Tensor, "... out_dim"]:
    """Return W x + b, under autocast in the type of W: a map to few numbers that decide between proposals."""
    if not under_autocast(x):
        return linear(x)
    with without_autocast(x):
        return linear(x.to(linear.weight.dtype))


class Linear(nn.Linear):
    """`torch.nn.Linear`; see `relgrounding.ops._fused.linear`."""

    def forward(self, x: Float[Tensor, "*rows in_dim"]) -> Float[Tensor, "*rows out_dim"]:
        return linear(x, self.weight, self.bias)
