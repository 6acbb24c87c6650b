"""Checks of ragged inputs. While `torch.compile` traces a model, values are not known and not checked."""

import torch
from torch import Tensor

from relgrounding._host import on_host


def check_shape(name: str, x: Tensor, expected: tuple[int, ...]) -> None:
    """Raise if a tensor does not have the shape that the other arguments ask for: a kernel would read past its end."""
    if tuple(x.shape) != expected:
        raise ValueError(f"{name} have shape {tuple(x.shape)}; beside the other arguments {expected} is needed")


def _leaves(values: Tensor, least: int, most: int) -> bool:
    """Whether a number on the host is not in a range."""
    if not len(values):
        return False
    low, high = values.aminmax()
    return bool(low < least or high > most)


def check_lengths(lengths: Tensor, limit: int, what: str) -> None:
    """Raise if a length is not in 1 to `limit`."""
    if torch.compiler.is_compiling():
        return
    lengths = on_host(lengths)
    if _leaves(lengths, 1, limit):
        row = int(((lengths < 1) | (lengths > limit)).nonzero()[0])
        raise ValueError(
            f"{what} {row} has length {int(lengths[row])}; lengths are 1 to {limit}, the padded length: "
            f"drop empty ones, and pad to the longest"
        )


def check_item(item: Tensor, items: int) -> None:
    """Raise if a proposal belongs to an item that does not exist."""
    if torch.compiler.is_compiling():
        return
    item = on_host(item)
    if _leaves(item, 0, items - 1):
        row = int(((item < 0) | (item >= items)).nonzero()[0])
        raise ValueError(f"proposal {row} belongs to item {int(item[row])}; there are {items}, counted from 0")


def check_spans(spans: Tensor, item: Tensor, clips: Tensor) -> None:
    """Raise if a span (N, 2) is empty or leaves the padded clips (B, C, D), or belongs to an item without clips."""
    if torch.compiler.is_compiling():
        return
    spans = on_host(spans)
    start, end = spans.unbind(1)
    wrong = ((start < 0) | (start >= end) | (end > clips.shape[1])).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"proposal {row} is the span {spans[row].tolist()}; spans are [start, end) with "
            f"0 <= start < end <= {clips.shape[1]}, the number of clips"
        )
    check_shape("items", item, (len(spans),))
    check_item(item, len(clips))
