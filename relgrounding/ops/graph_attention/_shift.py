"""A shift of all logits of a destination: it cancels out of the softmax and keeps the exponentials in range."""

import torch
from torch import Tensor


def common_shift(src_NH: Tensor, dst_NH: Tensor, slope: float) -> Tensor | None:
    """(N, H) a shift that suits every in-neighbour: the logit of the highest source score of all.

    The leaky ReLU does not decrease and is no steeper than 1, so a shifted logit lies between minus the spread of the
    source scores and 0: no exponential overflows, and the largest of a segment does not underflow. Where the spread is
    too large for that, a score is minus infinity, or on a GPU, where reading them would wait for the device, None: use
    each segment's maximum.
    """
    if src_NH.device.type != "cpu" or not 0 <= slope <= 1 or src_NH.numel() == 0:
        return None
    lowest_H, highest_H = src_NH.aminmax(dim=0)
    if not bool((highest_H - lowest_H <= exponent_range(src_NH.dtype)).all() & (dst_NH.min() > -torch.inf)):
        return None
    return torch.nn.functional.leaky_relu(dst_NH + highest_H, slope)


def exponent_range(dtype: torch.dtype) -> float:
    """How far below its largest value a logit may lie: exp(-range), and its product with epsilon, are normal."""
    return 600.0 if dtype == torch.float64 else 60.0
