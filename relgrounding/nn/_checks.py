"""Checks of ragged inputs that several modules share."""

from torch import Tensor


def check_shape(name: str, x: Tensor, expected: tuple[int, ...]) -> None:
    """Raise where a tensor does not have the shape that others ask for: a kernel would read beyond its end."""
    if tuple(x.shape) != expected:
        raise ValueError(f"{name} have shape {tuple(x.shape)}; beside the other arguments {expected} is needed")


def check_lengths(lengths: Tensor, limit: int, what: str) -> None:
    """Raise where a length is not in 1 to `limit`."""
    wrong = ((lengths < 1) | (lengths > limit)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{what} {row} has length {int(lengths[row])}; lengths are 1 to {limit}, the padded length: "
            f"drop empty ones, and pad to the longest"
        )


def check_item(item: Tensor, items: int) -> None:
    """Raise where a proposal belongs to an item that does not exist."""
    wrong = ((item < 0) | (item >= items)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"proposal {row} belongs to item {int(item[row])}; there are {items}, counted from 0")
