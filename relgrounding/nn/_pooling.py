"""From clips to proposals."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding.nn._checks import check_item


class ProposalPooling(nn.Module):
    """Pool the clips of each proposal.

    `reduce="max"`: a sparse table of the maxima of all runs of 1, 2, 4, ... clips is built once a video, and a proposal
    is the larger of the two runs that cover it: O(clips log clips) memory, and no loop over proposals. The gradient
    goes to the clip that is the largest.

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
        pool = _max if self.reduce == "max" else _mean
        return pool(clips, start, end, item.long())


def _max(clips: Tensor, start: Tensor, end: Tensor, item: Tensor) -> Tensor:
    with torch.no_grad():
        clip = _argmax(clips, start, end, item)
    # Reading the clips at the found places has a cheap gradient; that of the table would be as large as the table.
    return clips.flatten(0, 1).gather(0, clip + (item * clips.shape[1]).unsqueeze(1))


def _argmax(clips: Tensor, start: Tensor, end: Tensor, item: Tensor) -> Tensor:
    """Return (N, D), the clip of the video at which each feature is largest."""
    width = end - start
    # The exponent of frexp is exact where a logarithm would be rounded: 2^level <= width < 2^(level + 1).
    level = torch.frexp(width.double()).exponent.long() - 1
    places = torch.arange(clips.shape[1], device=clips.device).view(1, -1, 1).expand_as(clips)
    tables, run = [(clips, places)], 1
    for _ in range(int(level.max()) if len(level) else 0):
        largest, where = tables[-1]
        tables.append(_larger(largest[:, :-run], where[:, :-run], largest[:, run:], where[:, run:]))
        run *= 2
    counts = torch.tensor([largest.shape[1] for largest, _ in tables], device=clips.device)
    largest, where = (torch.cat(parts, dim=1) for parts in zip(*tables, strict=True))
    row = item * largest.shape[1] + (counts.cumsum(0) - counts)[level]
    largest, where = largest.flatten(0, 1), where.flatten(0, 1)
    first, second = row + start, row + end - (1 << level)
    return _larger(largest[first], where[first], largest[second], where[second])[1]


def _larger(a: Tensor, where_a: Tensor, b: Tensor, where_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the elementwise maximum and its place; a NaN is the largest of all, so that it shows in the result."""
    choose_a = (a >= b) | a.isnan()
    return torch.where(choose_a, a, b), torch.where(choose_a, where_a, where_b)


def _mean(clips: Tensor, start: Tensor, end: Tensor, item: Tensor) -> Tensor:
    sums = nn.functional.pad(clips.cumsum(1, dtype=torch.float64), (0, 0, 1, 0))
    row = item * sums.shape[1]
    sums = sums.flatten(0, 1)
    total = sums.index_select(0, row + end) - sums.index_select(0, row + start)
    return (total / (end - start).unsqueeze(1)).to(clips.dtype)
