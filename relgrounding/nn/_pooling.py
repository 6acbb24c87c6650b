"""From clips to proposals."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding.nn._checks import check_item
from relgrounding.nn._window_max import window_max


class ProposalPooling(nn.Module):
    """Pool the clips of each proposal.

    `reduce="max"`: the gradient goes to the clip that is the largest, to one of them where several are; a gradient of
    the gradient is refused. See `relgrounding.nn._window_max` for how.

    `reduce="mean"`: difference of two prefix sums, which are kept in float64.

    Args:
        reduce: "max" or "mean".
    """

    def __init__(self, reduce: Literal["max", "mean"] = "max") -> None:
        super().__init__()
        if reduce not in ("max", "mean"):
            raise ValueError(f"unknown reduce '{reduce}'; it is 'max' or 'mean'")
        self.reduce = reduce

    def forward(
        self,
        clips: Float[Tensor, "items clips dim"],
        spans: Int[Tensor, "nodes 2"],
        item: Int[Tensor, " nodes"],
    ) -> Float[Tensor, "nodes dim"]:
        """Pool.

        Args:
            clips: (B, C, D), padded at the end with anything.
            spans: (N, 2) start and end clip of each proposal, [start, end), 0 <= start < end <= C.
            item: (N,) video of each proposal, in any order.

        Returns:
            (N, D).

        Raises:
            ValueError: an empty span or one that leaves the padded video, or an item that does not exist.

        >>> clips = torch.tensor([[[3.0], [1.0], [2.0]]])
        >>> ProposalPooling()(clips, torch.tensor([[0, 3], [1, 3]]), torch.tensor([0, 0])).tolist()
        [[3.0], [2.0]]
        """
        start, end = spans.long().unbind(1)
        wrong = ((start < 0) | (start >= end) | (end > clips.shape[1])).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"proposal {row} is the span {spans[row].tolist()}; spans are [start, end) with "
                f"0 <= start < end <= {clips.shape[1]}, the number of clips"
            )
        check_item(item, len(clips))
        pool = window_max if self.reduce == "max" else _mean
        return pool(clips, start, end, item.long())


def _mean(clips: Tensor, start: Tensor, end: Tensor, item: Tensor) -> Tensor:
    sums = nn.functional.pad(clips.cumsum(1, dtype=torch.float64), (0, 0, 1, 0))
    row = item * sums.shape[1]
    sums = sums.flatten(0, 1)
    total = sums.index_select(0, row + end) - sums.index_select(0, row + start)
    return (total / (end - start).unsqueeze(1)).to(clips.dtype)
