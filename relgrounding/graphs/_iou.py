"""Intersection over union, exact where the coordinates are integers."""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def _common(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """Both in one floating-point type: float64 for integers, at least float32 otherwise."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    if not (a.is_floating_point() and b.is_floating_point()):
        dtype = torch.float64
    dtype = torch.promote_types(dtype, torch.float32)
    return a.to(dtype), b.to(dtype)


def segment_iou(start_a: Tensor, end_a: Tensor, start_b: Tensor, end_b: Tensor) -> Tensor:
    """Temporal IoU of segments that broadcast against each other."""
    shared = (torch.minimum(end_a, end_b) - torch.maximum(start_a, start_b)).clamp_min(0)
    return shared / ((end_a - start_a) + (end_b - start_b) - shared)


def rectangle_iou(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    """IoU of boxes (x1, y1, x2, y2), one tensor per coordinate, that broadcast against each other."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp_min(0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp_min(0)
    shared = width * height
    return shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared)


def temporal_iou(
    a: Shaped[np.ndarray | Tensor, "*#batch a 2"], b: Shaped[np.ndarray | Tensor, "*#batch b 2"]
) -> Float[Tensor, "*batch a b"]:
    """IoU of every segment of `a` with every segment of `b`: shared length / length of the union, no "+ 1 second".

    Args:
        a: (..., A, 2) start, end in any one unit, start < end.
        b: (..., B, 2) the same; leading dimensions broadcast.

    Returns:
        (..., A, B), 0 to 1; float64 where either is integer, otherwise the wider type, at least float32.

    >>> temporal_iou(torch.tensor([[0, 10]]), torch.tensor([[5, 10], [10, 20]])).tolist()
    [[0.5, 0.0]]
    """
    a, b = _common(a, b)
    (start_a, end_a), (start_b, end_b) = a.unsqueeze(-2).unbind(-1), b.unsqueeze(-3).unbind(-1)
    return segment_iou(start_a, end_a, start_b, end_b)


def box_iou(
    a: Shaped[np.ndarray | Tensor, "*#batch a 4"], b: Shaped[np.ndarray | Tensor, "*#batch b 4"]
) -> Float[Tensor, "*batch a b"]:
    """IoU of every box of `a` with every box of `b`: shared area / area of the union, no "+ 1 pixel".

    Args:
        a: (..., A, 4) x1, y1, x2, y2 in any one unit, x1 < x2 and y1 < y2.
        b: (..., B, 4) the same; leading dimensions broadcast.

    Returns:
        (..., A, B), 0 to 1; float64 where either is integer, otherwise the wider type, at least float32.

    >>> box_iou(torch.tensor([[0, 0, 10, 10]]), torch.tensor([[0, 0, 5, 10], [10, 0, 20, 10]])).tolist()
    [[0.5, 0.0]]
    """
    a, b = _common(a, b)
    return rectangle_iou(a.unsqueeze(-2).unbind(-1), b.unsqueeze(-3).unbind(-1))
