"""A sparse table: the maxima of all runs of 1, 2, 4, ... clips, built once per video.

A window is the larger of the two runs that cover it. The backward goes the same way down: each window hands its
gradient to one of its two runs, and each run to one of its two halves, so that every gradient ends at the first of the
largest clips of its window. Memory is O(clips log clips) per video, there is no loop over windows, and no index of a
maximum is stored.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from relgrounding._host import to_device
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import register_backend
from relgrounding.ops._segments import add_rows_
from relgrounding.ops.window_max.naive import window_max_naive


@register_backend("window_max", "table", auto={"cpu": 10, "cuda": 10, "mps": 10})
def window_max_table(
    clips: Float[Tensor, "items clips dim"],
    start: Int64[Tensor, " nodes"],
    end: Int64[Tensor, " nodes"],
    item: Int64[Tensor, " nodes"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.window_max`; the windows are on the host."""
    return _WindowMax.apply(clips, start, end, item)


def _offsets(clips: int, levels: int) -> list[int]:
    """Return where in the table of a video the runs of 1, 2, 4, ... clips start, and its number of rows at the end."""
    offsets = [0]
    for level in range(levels + 1):
        offsets.append(offsets[-1] + clips - (1 << level) + 1)
    return offsets


def _fill_table(clips: Tensor, offsets: list[int]) -> Tensor:
    """(B, rows, D) maxima of all runs."""
    table = clips.new_empty(clips.shape[0], offsets[-1], clips.shape[2])
    table[:, : offsets[1]] = clips
    for run, (below, here), (_, after) in _halves(offsets):
        halves = table[:, below:here]
        torch.maximum(halves[:, :-run], halves[:, run:], out=table[:, here:after])
    return table


def _halves(offsets: list[int]) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    """For each level above the clips: the length of its halves, the rows of the halves, its own rows."""
    rows = list(pairwise(offsets))
    return [(1 << level, below, here) for level, (below, here) in enumerate(pairwise(rows))]


class _WindowMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clips: Tensor, start: Tensor, end: Tensor, item: Tensor) -> Tensor:
        # The exponent of frexp is exact where a logarithm would be rounded: 2^level <= width < 2^(level + 1).
        level = torch.frexp((end - start).double()).exponent.long() - 1
        offsets = _offsets(clips.shape[1], int(level.max()) if len(level) else 0)
        row = item * offsets[-1] + torch.tensor(offsets)[level]
        first, second = (to_device(x, clips.device) for x in (row + start, row + end - (1 << level)))
        table = _fill_table(clips, offsets).flatten(0, 1)
        a, b = table.index_select(0, first), table.index_select(0, second)
        if ctx.needs_input_grad[0]:
            ctx.offsets = offsets
            keep(ctx, (clips, start, end, item), first, second, b > a)
        return torch.maximum(a, b, out=a)

    @staticmethod
    @backward_pass(window_max_naive)
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (clips, *_), (first, second, is_second) = kept(ctx)
        offsets = ctx.offsets
        table = _fill_table(clips, offsets)
        gradient = torch.zeros_like(table)
        rows = gradient.flatten(0, 1)
        # Products with 0 and 1, because selections cost ten times as much on a CPU.
        to_second = above * is_second
        add_rows_(rows, second, to_second)
        add_rows_(rows, first, above - to_second)
        for run, (below, here), (_, after) in reversed(_halves(offsets)):
            halves, to_halves, handed = table[:, below:here], gradient[:, below:here], gradient[:, here:after]
            a, b = halves[:, :-run], halves[:, run:]
            to_second = torch.gt(b, a, out=torch.empty_like(handed)).mul_(handed)
            to_halves[:, run:] += to_second
            to_halves[:, :-run] += handed.sub_(to_second)
        return gradient[:, : offsets[1]].contiguous(), None, None, None
