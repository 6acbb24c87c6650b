"""Checks of what layers and operators are given. While `torch.compile` traces a model, values are not checked."""

import torch
from torch import Tensor

from relgrounding._host import on_host


def check_shape(name: str, x: Tensor, expected: tuple[int, ...]) -> None:
    """Raise if a tensor does not have the shape that the other arguments ask for: a kernel would read past its end."""
    if tuple(x.shape) != expected:
        raise ValueError(f"{name} have shape {tuple(x.shape)}; beside the other arguments {expected} is needed")


def check_features(layer: torch.nn.Module, name: str, x: object, leading: str, width: int, dtype: torch.dtype) -> None:
    """Raise if the features that a layer is given do not fit it.

    Args:
        layer: named in the message.
        name: of the features.
        x: the features.
        leading: names of their dimensions before the last one, with commas between them; "...": any.
        width: of the last one.
        dtype: of the weights of the layer; under autocast any type of floats will do.

    Raises:
        TypeError: x is not a tensor.
        ValueError: another number of dimensions, width or type.
    """
    kind = type(layer).__name__
    if not isinstance(x, Tensor):
        raise TypeError(f"{kind}: {name} is a {type(x).__name__}; give a float tensor of shape ({leading}, {width})")
    if x.shape[-1:] != (width,) or (leading != "..." and x.dim() != leading.count(",") + 2):
        raise ValueError(f"{kind}: {name} has the shape {tuple(x.shape)}; this layer takes ({leading}, {width})")
    if x.dtype == dtype:
        return
    device = x.device.type
    if not (x.is_floating_point() and device in ("cpu", "cuda") and torch.is_autocast_enabled(device)):
        raise ValueError(f"{kind}: {name} is {x.dtype}, the weights are {dtype}; give both one type with .to()")


def _leaves(values: Tensor, least: int, most: int) -> bool:
    """Whether a number on the host is not in a range."""
    if not len(values):
        return False
    low, high = values.aminmax()
    return bool(low < least or high > most)


def _check_whole(name: str, numbers: Tensor) -> None:
    """Raise if numbers are not integers: kernels would round them, or read them as such."""
    if numbers.is_floating_point():
        raise ValueError(f"{name} are {numbers.dtype}; give integers")


def check_lengths(lengths: Tensor, limit: int, what: str) -> None:
    """Raise if a length is not an integer from 1 to `limit`."""
    if torch.compiler.is_compiling():
        return
    _check_whole("lengths", lengths)
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
    _check_whole("items", item)
    item = on_host(item)
    if _leaves(item, 0, items - 1):
        row = int(((item < 0) | (item >= items)).nonzero()[0])
        raise ValueError(f"proposal {row} belongs to item {int(item[row])}; there are {items}, counted from 0")


def check_spans(spans: Tensor, item: Tensor, clips: Tensor) -> None:
    """Raise if a span (N, 2) is empty or leaves the padded clips (B, C, D), or belongs to an item without clips."""
    if torch.compiler.is_compiling():
        return
    if clips.dim() != 3 or spans.shape[1:] != (2,):
        given = f"clips have shape {tuple(clips.shape)} and spans {tuple(spans.shape)}"
        raise ValueError(f"{given}; give (items, clips, dim) and (nodes, 2)")
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
