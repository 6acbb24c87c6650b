"""Candidate moments of a video of some number of clips."""

import operator
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor


def _positive(name: str, value: int) -> int:
    value = operator.index(value)
    if value < 1:
        raise ValueError(f"{name}: {value} is too small; give an integer of at least 1")
    return value


def _step(stride: int | float, width: int) -> int:
    if 0 < stride < 1:
        return max(1, round(stride * width))
    if stride < 1 or stride != stride // 1:
        raise ValueError(
            f"stride: {stride} is neither a whole number of clips nor a share of a width, above 0, below 1"
        )
    return int(stride)


def window_proposals(n_clips: int, widths: Sequence[int], stride: int | float) -> Int64[Tensor, "proposals 2"]:
    """Windows of fixed widths slid over the clips; the last of each width ends with the video.

    Args:
        n_clips: length of the video in clips, at least 1.
        widths: length of a window in clips; windows longer than the video are dropped.
        stride: between two windows: 1 or more, in whole clips; below 1, as a share of the width (rounded, at least
            1 clip).

    Returns:
        (P, 2) start and end in clips, ``[start, end)``, sorted by width, then start. A video shorter than every
        width gives one proposal, the whole video.

    Raises:
        ValueError: no widths, or a number that is not as above.

    >>> window_proposals(5, [2, 4], 2).tolist()
    [[0, 2], [2, 4], [3, 5], [0, 4], [1, 5]]
    """
    n_clips = _positive("n_clips", n_clips)
    distinct = sorted({_positive("widths", width) for width in widths})
    if not distinct:
        raise ValueError("widths: the list is empty; give at least one width in clips")
    steps = [_step(stride, width) for width in distinct]
    windows = [(0, n_clips)] if n_clips < distinct[0] else []
    for width, step in zip(distinct, steps, strict=True):
        if width <= n_clips:
            starts = {*range(0, n_clips - width + 1, step), n_clips - width}
            windows += [(start, start + width) for start in sorted(starts)]
    return torch.tensor(windows)


def ending_windows(n_clips: int, shares: int = 8) -> Int64[Tensor, "proposals 2"]:
    """At each clip, the windows within the video that end with it, of widths i/K of the video, i = 1 to K.

    Widths are rounded down to whole clips, at least 1; equal ones count once.

    Args:
        n_clips: T, length of the video in clips, at least 1.
        shares: K, at least 1.

    Returns:
        (P, 2) start and end in clips, ``[start, end)``, sorted by end, then width.

    Raises:
        ValueError: a number that is not positive.

    Paper: Lin et al., Weakly-Supervised Video Moment Retrieval via Semantic Completion Network, AAAI 2020.

    >>> ending_windows(4, 2).tolist()
    [[0, 2], [1, 3], [2, 4], [0, 4]]
    """
    n_clips, shares = _positive("n_clips", n_clips), _positive("shares", shares)
    widths = (torch.arange(1, shares + 1) * n_clips // shares).clamp_min(1).unique()
    end = torch.arange(1, n_clips + 1)[:, None].expand(-1, len(widths))
    windows = torch.stack([end - widths, end], dim=2)
    return windows[windows[:, :, 0] >= 0]


def map_proposals(n_clips: int, dense_width: int = 16) -> Int64[Tensor, "proposals 2"]:
    """The sparse 2D map of 2D-TAN: every short moment, and fewer of the longer ones.

    A moment of length L is kept where start and L are multiples of ``2^k``, with k = 0 for ``L <= dense_width`` and
    otherwise ``k = ceil(log2(L / dense_width))``: boundaries are half as dense each time the length doubles.

    Args:
        n_clips: length of the video in clips, at least 1; the paper uses 16, 64 and 128.
        dense_width: longest length of which every moment is kept, at least 1; 16 in the paper.

    Returns:
        (P, 2) start and end in clips, ``[start, end)``, sorted by length, then start.

    Raises:
        ValueError: a number that is not positive.

    Paper: Zhang et al., Learning 2D Temporal Adjacent Networks for Moment Localization with Natural Language, AAAI
    2020. There a moment is written with its first and last clip; here `end` is the clip after the last.

    >>> len(map_proposals(16)), len(map_proposals(64))
    (136, 1104)
    """
    n_clips, dense_width = _positive("n_clips", n_clips), _positive("dense_width", dense_width)
    starts = torch.arange(n_clips)
    lengths = torch.arange(1, n_clips + 1)
    step = torch.ones_like(lengths)
    limit = dense_width
    while limit < n_clips:
        step = torch.where(lengths > limit, step * 2, step)
        limit *= 2
    length, start, step = lengths[:, None], starts[None, :], step[:, None]
    kept = (start + length <= n_clips) & (start % step == 0) & (length % step == 0)
    row, column = kept.nonzero(as_tuple=True)
    return torch.stack((starts[column], starts[column] + lengths[row]), dim=1)
