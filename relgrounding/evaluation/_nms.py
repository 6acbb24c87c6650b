"""Non-maximum suppression of scored segments."""

import torch
from jaxtyping import Float, Float64, Int64, Real
from torch import Tensor

from relgrounding.evaluation._arrays import check_rows, doubles, overlaps
from relgrounding.graphs import temporal_iou


def temporal_nms(
    segments: Real[Tensor, "proposals 2"], scores: Float[Tensor, "queries proposals"], threshold: float, keep: int
) -> Int64[Tensor, "queries keep"]:
    """Select the best segments of every query, dropping those that overlap a better one too much.

    Repeated `keep` times: select the segment with the highest remaining score (the first of equal ones) and drop every
    remaining segment whose IoU with it is > threshold.

    Args:
        segments: start, end in any unit, the same candidates for all queries.
        scores: finite; higher is better.
        threshold: in [0, 1]; 1 drops nothing.
        keep: number of segments to select, >= 1.

    Returns:
        Indices of the segments, best first; -1 where a query has fewer left.

    Raises:
        ValueError: an argument out of range, a score or segment that is not finite, or a segment that ends before it
            starts.

    >>> segments = torch.tensor([[0.0, 10.0], [1.0, 10.0], [20.0, 30.0]])
    >>> temporal_nms(segments, torch.tensor([[0.9, 0.8, 0.1]]), threshold=0.55, keep=3)
    tensor([[ 0,  2, -1]])
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"NMS threshold is {threshold}; give an IoU from 0 to 1")
    if keep < 1:
        raise ValueError(f"keep is {keep}; NMS must keep at least 1 segment")
    check_scores(scores)
    clash = segment_overlaps(segments) > threshold
    alive = torch.ones_like(scores, dtype=torch.bool)
    picked = []
    for _ in range(keep):
        best = scores.masked_fill(~alive, -torch.inf).argmax(dim=1)
        picked.append(torch.where(alive.any(dim=1), best, -1))
        alive = alive & ~clash[best]
        # A segment of no length does not overlap even itself.
        alive.scatter_(1, best[:, None], False)
    return torch.stack(picked, dim=1)


def segment_overlaps(segments: Real[Tensor, "proposals 2"]) -> Float64[Tensor, "proposals proposals"]:
    """IoU of all segments with each other, safe to compare with a threshold; 0 where they have no length."""
    spans = doubles(segments.detach().cpu())
    check_rows(spans, lambda row: f"segments, row {row}")
    return torch.from_numpy(overlaps(temporal_iou, spans, spans)).to(segments.device)


def check_scores(scores: torch.Tensor) -> None:
    """Raise `ValueError` if there are no proposals or a score is not finite."""
    if scores.shape[1] == 0:
        raise ValueError("NMS got no segments; every video must have at least one proposal")
    finite = torch.isfinite(scores).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0, 0])
        raise ValueError(f"scores of query {row} are not all finite; give every proposal a real number")
