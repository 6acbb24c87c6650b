"""Selection of a video's answers from scored proposals: by score, or by votes of overlapping proposals."""

import torch
from jaxtyping import Float, Float64, Int64, Real
from torch import Tensor

from relgrounding._host import to_device
from relgrounding.evaluation._nms import check_scores, segment_overlaps, temporal_nms


def select_by_score(
    segments: Real[Tensor, "proposals 2"],
    scores: Float[Tensor, "queries proposals"],
    nms_threshold: float = 0.55,
    keep: int = 5,
) -> Int64[Tensor, "queries keep"]:
    """Select segments by score, with non-maximum suppression, as VGN does.

    Args:
        segments: start, end in any unit.
        scores: finite; higher is better.
        nms_threshold: a segment whose IoU with a better one is greater is dropped.
        keep: number of segments to select.

    Returns:
        Indices of the segments, best first; -1 where there are fewer.

    Raises:
        ValueError: as `temporal_nms`.
    """
    return temporal_nms(segments, scores, nms_threshold, keep)


def select_by_vote(
    segments: Real[Tensor, "proposals 2"],
    scores: Float[Tensor, "queries proposals"],
    nms_threshold: float = 0.55,
    keep: int = 5,
    temperature: float = 2.0,
    prior: float = 0.0,
) -> Int64[Tensor, "queries keep"]:
    """Select the segments that overlap high-scored ones most, with non-maximum suppression on the votes.

    Weakly supervised models score all windows around an action alike; the vote finds their middle.

    Args:
        segments: start, end in any unit.
        scores: finite; higher is better. Only their standardised values matter.
        nms_threshold: a segment whose IoU with one of more votes is greater is dropped.
        keep: number of segments to select.
        temperature: see `votes`.
        prior: likewise.

    Returns:
        Indices of the segments, best first; -1 where there are fewer.

    Raises:
        ValueError: as `votes` and `temporal_nms`.

    >>> segments = torch.tensor([[0.0, 8.0], [1.0, 9.0], [2.0, 10.0], [20.0, 30.0], [40.0, 50.0]])
    >>> scores = torch.tensor([[0.80, 0.79, 0.80, 0.81, 0.10]])
    >>> select_by_score(segments, scores, keep=1), select_by_vote(segments, scores, keep=1)
    (tensor([[3]]), tensor([[1]]))
    """
    return temporal_nms(segments, votes(segments, scores, temperature, prior), nms_threshold, keep)


def votes(
    segments: Real[Tensor, "proposals 2"],
    scores: Float[Tensor, "queries proposals"],
    temperature: float = 2.0,
    prior: float = 0.0,
) -> Float64[Tensor, "queries proposals"]:
    """Return the votes that segments get from those that they overlap.

        vote_i = sum_j (w_j - prior / P) IoU_ij,   w = softmax_j(temperature * (score_j - mean) / standard deviation)

    Long segments overlap more of the P segments than short ones do, whatever the scores: `prior` subtracts a share of
    that.

    Args:
        segments: start, end in any unit.
        scores: finite; higher is better.
        temperature: at least 0, which weights all votes equally; larger values count high-scored proposals more.
        prior: from 0 to 1.

    Returns:
        From -prior to 1.

    Raises:
        ValueError: an argument out of range, a score or segment that is not finite, or a segment that ends before it
            starts.
    """
    if not (temperature >= 0 and 0 <= prior <= 1):
        raise ValueError(f"temperature is {temperature}, prior {prior}; give one from 0 on, and one from 0 to 1")
    check_scores(scores)
    return unchecked_votes(segments, scores, temperature, prior)


def unchecked_votes(
    segments: Real[Tensor, "proposals 2"],
    scores: Float[Tensor, "queries proposals"],
    temperature: float,
    prior: float,
) -> Float64[Tensor, "queries proposals"]:
    """Return `votes` without a look at the scores, which waits for their device; the segments may be on the host."""
    weights = _weights(scores, temperature) - prior / max(1, len(segments))
    return weights @ to_device(segment_overlaps(segments), scores.device)


def _weights(scores: Float[Tensor, "queries proposals"], temperature: float) -> Float[Tensor, "queries proposals"]:
    scores = scores.to(torch.float64)
    centred = scores - scores.mean(dim=1, keepdim=True)
    spread = centred.square().mean(dim=1, keepdim=True).sqrt()
    # Equal scores (a lone proposal among them) have no spread: they vote alike.
    return torch.softmax(temperature * centred / spread.clamp(min=torch.finfo(torch.float64).tiny), dim=1)
