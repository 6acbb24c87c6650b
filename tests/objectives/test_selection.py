import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.objectives import gradient_importance, split_proposals


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(0.05, 1), st.floats(0, 1), st.integers(0, 10**6))
def test_the_sets_have_their_sizes_and_hold_the_extremes(counts, critical, inessential, seed):
    generator = torch.Generator().manual_seed(seed)
    importance = torch.randint(0, 4, (sum(counts),), generator=generator).float()
    scores = torch.randint(0, 3, (sum(counts),), generator=generator).float()
    best, worst = split_proposals(importance, scores, torch.tensor(counts), critical, inessential)
    assert not (best & worst).any()
    keys = list(zip(importance.tolist(), scores.tolist(), strict=True))
    first = 0
    for n in counts:
        own = range(first, first + n)
        ranked = sorted(own, key=lambda k: (-keys[k][0], -keys[k][1], k))
        most = math.ceil(critical * n - 1e-6)
        least = min(math.ceil(inessential * n - 1e-6), n - most)
        assert {k for k in own if best[k]} == set(ranked[:most])
        assert {k for k in own if worst[k]} == set(ranked[n - least :])
        first += n


def test_the_critical_proposal_is_the_one_the_alignment_rests_on():
    # K = mean over two items of a weighted sum: item 0 rests on its second proposal, item 1 on its first.
    proposals = torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0]], requires_grad=True)
    weights = torch.tensor([[0.1], [0.7], [0.2], [0.6], [-0.4]])
    alignment = torch.stack([(weights * proposals)[:3].sum(), (weights * proposals)[3:].sum()])
    importance = gradient_importance(alignment, proposals)
    torch.testing.assert_close(importance, weights.squeeze(1))
    critical, inessential = split_proposals(importance, torch.zeros(5), torch.tensor([3, 2]), 0.3, 0.5)
    assert critical.tolist() == [False, True, False, True, False]
    assert inessential.tolist() == [True, False, True, False, True]
    alignment.sum().backward()
    torch.testing.assert_close(proposals.grad, weights)


def test_to_first_order_importance_is_what_the_alignment_loses():
    generator = torch.Generator().manual_seed(0)
    proposals = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, generator=generator, dtype=torch.float64)

    def alignment(h):
        return torch.sigmoid(matrix @ (h @ weight)).mean()

    importance = gradient_importance(alignment(proposals)[None], proposals)
    for t in range(6):
        less = proposals.detach().clone()
        less[t] *= 1 - 1e-6
        lost = (alignment(proposals) - alignment(less)).item() / 1e-6
        assert importance[t].item() == pytest.approx(lost, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("shares", [(0.0, 0.5), (1.1, 0.5), (0.2, -0.1), (0.2, 2.0)])
def test_shares_out_of_range_are_refused(shares):
    with pytest.raises(ValueError, match="both are shares, critical above 0"):
        split_proposals(torch.zeros(2), torch.zeros(2), torch.tensor([2]), *shares)
