"""Coordinates as inputs of a system."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

_CONSTANT = 1e-9
"""A deviation below this share of the mean is rounding."""


class Standardise(nn.Module):
    """Shift and scale each column of a coordinate to mean 0 and deviation 1 over the training data.

        y = (x - mean) / deviation

    Both are buffers; before `fit` they are 0 and 1. The deviation of a constant column is 1.

    Args:
        dim: maximum number of columns; of fewer, x has the last ones.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def fit(self, parts: Iterable[Float[Tensor, "rows columns"]]) -> None:
        """Take mean and deviation over all rows of all parts, of which there is at least one."""
        count, shift = 0, torch.zeros(())
        total = squares = shift.double()
        for part in parts:
            rows = part.double()
            # Near the mean, sums of squares keep their digits.
            shift = shift if count else rows.mean(0)
            rows = rows - shift
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        offset = total / count
        mean, deviation = shift + offset, (squares / count - offset.square()).clamp_min(0).sqrt()
        self.mean[-len(mean) :] = mean
        self.deviation[-len(mean) :] = torch.where(deviation > _CONSTANT * mean.abs(), deviation, 1.0)

    def forward(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """Return the standardised columns."""
        columns = slice(-x.shape[1], None)
        return (x - self.mean[columns]) / self.deviation[columns]
