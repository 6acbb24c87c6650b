import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.nn import TopRScore, pad_nodes

counts_of = st.lists(st.integers(0, 5), min_size=1, max_size=4)


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), r=st.integers(1, 8), seed=st.integers(0, 99))
def test_top_r_is_the_mean_of_the_highest(counts, r, seed):
    scores = torch.rand(sum(counts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    highest = [sorted(item.tolist(), reverse=True)[:r] for item in scores.split(counts)]
    expected = torch.tensor([sum(item) / len(item) for item in highest], dtype=torch.float64)
    torch.testing.assert_close(TopRScore(r)(scores, torch.tensor(counts)), expected)


def test_top_r_gradcheck():
    scores = torch.rand(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: TopRScore(3)(s, torch.tensor([1, 4, 2])), scores)


def test_an_item_without_proposals_has_no_score():
    with pytest.raises(ValueError, match="item 1 has no proposals, so it has no score; drop it from the batch"):
        TopRScore(2)(torch.rand(3), torch.tensor([3, 0]))
    for r in (0, True):
        with pytest.raises(ValueError, match=f"r is {r!r}; it must be at least 1"):
            TopRScore(r)


@given(counts=counts_of, wide=st.booleans())
def test_padding_keeps_every_node_and_fills_the_rest(counts, wide):
    x = torch.arange(1.0, sum(counts) + 1)
    x = torch.stack([x, -x], 1) if wide else x
    padded, mask = pad_nodes(x, torch.tensor(counts), fill=-9)
    assert mask.sum(1).tolist() == counts
    assert mask.shape == (len(counts), max(counts))
    torch.testing.assert_close(padded[mask], x, rtol=0, atol=0)
    assert (padded[~mask] == -9).all()
    for row, item in zip(padded, x.split(counts), strict=True):
        torch.testing.assert_close(row[: len(item)], item, rtol=0, atol=0)


def test_padding_takes_whole_numbers_and_truth_values_and_no_items():
    assert pad_nodes(torch.tensor([True, False]), torch.tensor([2]), fill=True)[0].dtype == torch.bool
    assert pad_nodes(torch.zeros(0, 3), torch.zeros(0).long())[0].shape == (0, 0, 3)


def test_padding_gradcheck():
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad_nodes(x, torch.tensor([1, 0, 2]))[0], x)


def test_numbers_that_do_not_sum_up_are_named():
    with pytest.raises(ValueError, match=r"batch_num_nodes \[1, 1\] sums to 2, but there are 3 nodes"):
        pad_nodes(torch.zeros(3), torch.tensor([1, 1]))
