"""The exponential moving average of trained weights."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Average:
    """Average of the weights after each step, in which older ones count exponentially less.

        a_n = (1 - d) / (1 - d^n)  sum over i = 1 ... n of  d^(n - i) w_i

    Like the means of Adam it is divided by the sum of its weights, so that it does not lean to where it began: a_1 is
    w_1, and the first 1 / (1 - d) steps or so count almost alike.

    Args:
        parameters: what is averaged; they stay the model's.
        decay: d, at least 0 and below 1; 0: there is no average, and all methods do nothing.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._trained = nn.ParameterList(parameters if decay else ())
        self._averaged = AveragedModel(self._trained)

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights as they are now."""
        if not self.decay:
            return
        # Not `update_parameters`, which copies the number of steps to the device, where reading it would wait.
        before = int(self._averaged.n_averaged)
        share = (1 - self.decay) / (1 - self.decay ** (before + 1))
        averages, weights = list(self._averaged.parameters()), list(self._trained)
        if before:
            torch._foreach_lerp_(averages, weights, share)
        else:
            torch._foreach_copy_(averages, weights)
        self._averaged.n_averaged += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within a ``with`` block, the model has the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for weight, average in zip(self._trained, self._averaged.parameters(), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint; empty if there is no average."""
        return self._averaged.state_dict() if self.decay else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from a checkpoint.

        Raises:
            RuntimeError: it is the average of other weights.
        """
        if self.decay:
            self._averaged.load_state_dict(state)
