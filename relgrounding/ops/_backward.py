"""What the hand-written backward passes have in common."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def backward_pass(function: Callable[..., tuple]) -> Callable[..., tuple]:
    """Static method of a `torch.autograd.Function` that runs outside autocast, whose gradient has no gradient."""

    @functools.wraps(function)
    def run(ctx: Any, grad: Tensor) -> tuple:
        if not torch.is_autocast_enabled(grad.device.type):
            return function(ctx, grad)
        with torch.autocast(grad.device.type, enabled=False):
            return function(ctx, grad)

    return once_differentiable(run)
