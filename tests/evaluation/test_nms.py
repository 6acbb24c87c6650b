import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.evaluation import select_by_score, select_by_vote, temporal_nms, votes


def overlap(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / ((a[1] - a[0]) + (b[1] - b[0]) - shared)


def slow_nms(segments: list, scores: list, threshold: float, keep: int) -> list[int]:
    left = sorted(range(len(segments)), key=lambda i: (-scores[i], i))
    picked = []
    while left and len(picked) < keep:
        best = left.pop(0)
        picked.append(best)
        left = [i for i in left if overlap(segments[best], segments[i]) <= threshold]
    return picked + [-1] * (keep - len(picked))


def slow_votes(segments: list, scores: list, temperature: float, prior: float = 0.0) -> list[float]:
    spread = np.std(scores)
    standard = [(s - np.mean(scores)) / spread if spread else 0.0 for s in scores]
    weights = np.exp(temperature * np.array(standard))
    weights = weights / weights.sum() - prior / len(scores)
    return [sum(w * overlap(a, b) for w, b in zip(weights, segments, strict=True)) for a in segments]


@st.composite
def scored_segments(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    n = draw(st.integers(1, 8))
    starts = draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))
    lengths = draw(st.lists(st.integers(1, 8), min_size=n, max_size=n))
    scores = draw(st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1, max_size=3))
    segments = torch.tensor([[s, s + d] for s, d in zip(starts, lengths, strict=True)])
    return segments, torch.tensor(scores, dtype=torch.float64) / 4


@given(scored_segments(), st.sampled_from([0.0, 0.25, 0.5, 0.55, 1.0]), st.integers(1, 10))
def test_nms_agrees_with_one_segment_at_a_time(
    case: tuple[torch.Tensor, torch.Tensor], threshold: float, keep: int
) -> None:
    segments, scores = case
    expected = [slow_nms(segments.tolist(), row, threshold, keep) for row in scores.tolist()]
    assert temporal_nms(segments, scores, threshold, keep).tolist() == expected
    assert select_by_score(segments, scores, threshold, keep).tolist() == expected


@given(scored_segments(), st.sampled_from([0.0, 2.0, 5.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_vote_picks_a_segment_of_the_most_votes(
    case: tuple[torch.Tensor, torch.Tensor], temperature: float, prior: float
) -> None:
    segments, scores = case
    chosen = select_by_vote(segments, scores, keep=1, temperature=temperature, prior=prior)[:, 0].tolist()
    for row, best in zip(scores.tolist(), chosen, strict=True):
        votes = slow_votes(segments.tolist(), row, temperature, prior)
        assert votes[best] == pytest.approx(max(votes), rel=1e-9, abs=1e-12)


def test_the_prior_takes_from_a_long_moment_what_its_length_alone_brings() -> None:
    # IoU: [0, 4] with both short ones .5, with [0, 10] .4; the short ones with each other 0, with [0, 10] .2.
    segments = torch.tensor([[0.0, 2.0], [2.0, 4.0], [0.0, 4.0], [0.0, 10.0]])
    # Standardised: 1, 0, 0, -1 over sqrt(1/2); weights of temperature log(2) / sqrt(2): 2, 1, 1, 1/2, over 4.5.
    scores = torch.tensor([[3.0, 2.0, 2.0, 1.0]], dtype=torch.float64)
    # votes [2.6, 1.6, 2.7, 1.5] / 4.5 = [.578, .356, .6, .333]; all alike: [.425, .425, .6, .45].
    temperature = math.log(2) / math.sqrt(2)
    for prior, best in ((0.0, 2), (0.1, 2), (0.2, 0), (1.0, 0)):
        assert select_by_vote(segments, scores, keep=1, temperature=temperature, prior=prior).tolist() == [[best]]


@given(scored_segments())
def test_vote_ignores_shift_and_scale_of_scores(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    segments, scores = case
    # Distinct segments and a little tilt: rounding must not decide between equal votes.
    segments = torch.unique(segments, dim=0)
    scores = scores[:, : len(segments)] + torch.linspace(0, 0.013, len(segments), dtype=torch.float64).square()
    scaled = 4 * scores + 8
    for row, other in zip(scores, scaled, strict=True):
        votes = slow_votes(segments.tolist(), row.tolist(), 2.0)
        best = int(select_by_vote(segments, other[None], keep=1)[0, 0])
        assert votes[best] == pytest.approx(max(votes), rel=1e-6)


def test_scores_near_the_end_of_their_range_vote_as_smaller_ones_do() -> None:
    segments, scores = torch.tensor([[0.0, 1], [0.5, 1.5], [5, 6]]), torch.tensor([[2.0, 1, 1]])
    torch.testing.assert_close(votes(segments, scores * 1e38), votes(segments, scores))


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": float("nan")}, {"prior": 2.0}, {"prior": -0.1}]
)
def test_a_vote_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"temperature is .*, prior .*; give one from 0 on, and one from 0 to 1"):
        select_by_vote(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5]]), **options)


def test_an_overlap_equal_to_the_threshold_is_kept() -> None:
    segments = torch.tensor([[0.0, 10.0], [0.0, 5.0]])
    assert temporal_nms(segments, torch.tensor([[2.0, 1.0]]), 0.5, 2).tolist() == [[0, 1]]
    assert temporal_nms(segments, torch.tensor([[2.0, 1.0]]), 0.49, 2).tolist() == [[0, -1]]


def test_one_proposal_is_picked_whatever_its_score() -> None:
    segments = torch.tensor([[0, 1]])
    assert select_by_vote(segments, torch.tensor([[-3.0]]), keep=2).tolist() == [[0, -1]]


def test_no_queries_give_no_rows() -> None:
    assert temporal_nms(torch.tensor([[0.0, 1.0]]), torch.zeros(0, 1), 0.5, 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("scores", "threshold", "keep", "message"),
    [
        (torch.tensor([[0.0], [torch.nan]]), 0.5, 1, "scores of query 1 are not all finite"),
        (torch.tensor([[0.0]]), 1.5, 1, "NMS threshold is 1.5; give an IoU from 0 to 1"),
        (torch.tensor([[0.0]]), 0.5, 0, "keep is 0; NMS must keep at least 1 segment"),
    ],
)
def test_unusable_arguments_are_named(scores: torch.Tensor, threshold: float, keep: int, message: str) -> None:
    for choose in (select_by_score, select_by_vote):
        with pytest.raises(ValueError, match=message):
            choose(torch.tensor([[0.0, 1.0]]), scores, threshold, keep)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([5.0, 3.0], r"segments, row 1: \[5.0, 3.0\] ends before it starts; a moment is start and end"),
        ([5.0, math.nan], r"segments, row 1: \[5.0, nan\] is not finite"),
    ],
)
def test_unusable_segments_are_named(row: list[float], message: str) -> None:
    for choose in (select_by_score, select_by_vote):
        with pytest.raises(ValueError, match=message):
            choose(torch.tensor([[0.0, 1.0], row]), torch.tensor([[1.0, 0.5]]))


def test_no_proposals_are_an_error() -> None:
    with pytest.raises(ValueError, match="every video must have at least one proposal"):
        select_by_vote(torch.zeros(0, 2), torch.zeros(1, 0))
