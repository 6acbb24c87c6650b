import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from relgrounding.objectives import contrastive_loss, draw_negatives, mil_loss


@given(size=st.integers(2, 40), count=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_every_row_is_a_permutation_without_fixed_points(size, count, seed):
    rows = draw_negatives(size, count, torch.full((size,), -1), torch.Generator().manual_seed(seed))
    assert rows.shape == (min(count, size - 1), size)
    for row in rows:
        assert sorted(row.tolist()) == list(range(size))
        assert (row != torch.arange(size)).all()
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


@given(pairs=st.integers(1, 10), alone=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_minimal_pairs_are_swapped_in_the_first_row(pairs, alone, seed):
    generator = torch.Generator().manual_seed(seed)
    group = torch.cat([torch.arange(pairs).repeat_interleave(2), torch.full((alone,), -1)])
    group = group[torch.randperm(len(group), generator=generator)]
    rows = draw_negatives(len(group), 2, group, generator)
    assert len(rows) == min(2, len(group) - 1)
    row = rows[0]
    for i, other in enumerate(row.tolist()):
        if group[i] >= 0:
            assert other != i
            assert group[other] == group[i]
        else:
            assert other == i


def test_one_item_has_no_negatives():
    with pytest.raises(ValueError, match="a batch of 1 has no negatives; use batches of 2 or more"):
        draw_negatives(1, 1, torch.tensor([-1]))


def test_the_loss_of_a_batch_computed_by_hand():
    own = torch.tensor([0.9, 0.4])
    wrong = torch.tensor([[0.5, 0.6]])
    negatives = torch.tensor([[1, 0]])
    valid = torch.tensor([[True, True]])
    # item 0 with sentence 1: [.2 - .9 + .5]+ = 0 and [.2 - .4 + .5]+ = .3; item 1 with sentence 0: .4 and 0.
    loss = mil_loss(own, wrong, negatives, valid, margin=0.2)
    torch.testing.assert_close(loss, torch.tensor((0.0 + 0.3 + 0.4 + 0.0) / 2))


def test_a_pair_that_is_no_negative_does_not_count():
    own, wrong = torch.tensor([0.1, 0.1], requires_grad=True), torch.tensor([[0.9, 0.9]], requires_grad=True)
    loss = mil_loss(own, wrong, torch.tensor([[1, 0]]), torch.tensor([[False, False]]), margin=0.2)
    loss.backward()
    assert loss == 0
    assert (own.grad == 0).all()
    assert (wrong.grad == 0).all()


def test_gradients_agree_with_finite_differences():
    own = torch.rand(4, dtype=torch.float64, requires_grad=True)
    wrong = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    negatives = torch.tensor([[1, 2, 3, 0], [2, 3, 0, 1]])
    valid = torch.tensor([[True, True, False, True]] * 2)
    assert torch.autograd.gradcheck(lambda a, b: mil_loss(a, b, negatives, valid, 0.3), (own, wrong))


def test_the_cross_entropy_of_a_batch_computed_pair_by_pair():
    own, wrong = torch.tensor([0.9, 0.4, 0.6]), torch.tensor([[0.5, 0.6, 0.2]])
    negatives, valid = torch.tensor([[1, 2, 0]]), torch.tensor([[True, True, False]])

    def odds(score: float) -> float:
        return (score / (1 - score)) ** 2  # exp(log odds / T) with T = 1/2

    # Items 0 and 1 are contrasted with sentences 1 and 2; the pair of item 2 and sentence 0 is no negative.
    sentences = [odds(0.9) / (odds(0.9) + odds(0.5)), odds(0.4) / (odds(0.4) + odds(0.6)), 1.0]
    items = [1.0, odds(0.4) / (odds(0.4) + odds(0.5)), odds(0.6) / (odds(0.6) + odds(0.6))]
    expected = -torch.tensor([sentences, items]).log().mean(1).sum()
    torch.testing.assert_close(contrastive_loss(own, wrong, negatives, valid, temperature=0.5), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_cross_entropy_of_a_certain_pair_is_finite(dtype):
    own, wrong = torch.tensor([1, 0.5], dtype=dtype), torch.tensor([[0.0, 0.5]], dtype=dtype)
    negatives, valid = torch.tensor([[1, 0]]), torch.ones(1, 2).bool()
    expected = contrastive_loss(own.float(), wrong.float(), negatives, valid, 1.0)
    torch.testing.assert_close(contrastive_loss(own, wrong, negatives, valid, 1.0), expected)


def test_gradients_of_the_cross_entropy_agree_with_finite_differences():
    own = torch.rand(4, dtype=torch.float64, requires_grad=True)
    wrong = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    negatives = torch.tensor([[1, 2, 3, 0], [2, 3, 0, 1]])
    valid = torch.tensor([[True, True, False, True]] * 2)
    assert torch.autograd.gradcheck(lambda a, b: contrastive_loss(a, b, negatives, valid, 0.7), (own, wrong))


@given(
    st.lists(st.integers(-1, 4), min_size=2, max_size=30), st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**31)
)
@example([0, 0, 0, 0], 2, 1, 3)
def test_hard_rows_stay_within_blocks_and_pair_no_two_items_twice(block, count, hard, seed):
    hard = min(hard, count)
    block, none = torch.tensor(block), torch.full((len(block),), -1)
    rows = draw_negatives(len(block), count, none, torch.Generator().manual_seed(seed), block, hard)
    size = {b: int((block == b).sum()) if b >= 0 else 1 for b in set(block.tolist())}
    within = min(hard, max(size.values()) - 1)
    assert all(sorted(row.tolist()) == list(range(len(block))) for row in rows)
    assert (block[rows[:within]] == block).all()
    for item, b in enumerate(block.tolist()):
        others = [other for other in rows[:within, item].tolist() if other != item]
        assert len(others) == len(set(others)) == min(within, size[b] - 1)
    assert (rows[within:] != torch.arange(len(block))).all()
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


def test_the_other_rows_leave_the_blocks_where_a_shift_can():
    block = torch.arange(4).repeat_interleave(8)
    for seed in range(20):
        rows = draw_negatives(32, 8, torch.full((32,), -1), torch.Generator().manual_seed(seed), block, 3)
        assert (block[rows[:3]] == block).all()
        assert (block[rows[3:]] != block).all()
