import math

import pytest
import torch

from relgrounding.objectives import consistency_loss, ranking_loss


def test_the_ranking_loss_of_a_batch_computed_by_hand():
    robust = torch.tensor([[0.8, 0.3], [0.6, 0.3]])
    destructive = torch.tensor([[0.1, 0.4], [0.1, 0.2]])
    # item 0: [.2 - .7 + .1]+ = 0; item 1: [.2 - .3 + .3]+ = .2
    torch.testing.assert_close(ranking_loss(robust, destructive, 0.2), torch.tensor(0.1))


ORIGINAL = torch.tensor([0.6, 0.2, 0.9])
ROBUST = torch.tensor([[0.5, 0.5, 0.4]])
DESTRUCTIVE = torch.tensor([[0.1, 0.9, 0.4]])
COUNTS = torch.tensor([2, 1])


def test_the_consistency_loss_of_a_batch_computed_by_hand():
    # item 0: p = (.75, .25), q_RCT = (.5, .5), q_DCT = (.1, .9); item 1 has one proposal: everything is 1.
    near = -math.log(0.5)
    far = -0.75 * math.log(0.1) - 0.25 * math.log(0.9)
    away = -0.75 * math.log(0.9) - 0.25 * math.log(0.1)
    expected = {
        "none": (near - far) / 2,
        "uniform": (near - min(far, math.log(2))) / 2,
    }
    for bound, value in expected.items():
        found = consistency_loss(ORIGINAL, ROBUST, DESTRUCTIVE, COUNTS, bound)
        torch.testing.assert_close(found, torch.tensor(value))
    complement = consistency_loss(ORIGINAL[:2], ROBUST[:, :2], DESTRUCTIVE[:, :2], COUNTS[:1], "complement")
    torch.testing.assert_close(complement, torch.tensor(near + away))


@pytest.mark.parametrize("bound", ["uniform", "complement", "none"])
def test_the_original_is_a_target_and_the_others_get_their_gradients(bound):
    generator = torch.Generator().manual_seed(0)
    original, robust, destructive = (
        torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((5,), (2, 5), (2, 5))
    )
    counts = torch.tensor([3, 2])
    consistency_loss(original, robust, destructive, counts, bound).backward()
    assert original.grad is None
    assert (robust.grad != 0).all()
    assert torch.autograd.gradcheck(lambda r, d: consistency_loss(original, r, d, counts, bound), (robust, destructive))


def test_the_bound_holds_where_the_plain_loss_falls_without_end():
    def loss(bound, least):
        return consistency_loss(ORIGINAL[:2], ROBUST[:, :2], torch.tensor([[least, 0.9]]), COUNTS[:1], bound).item()

    assert loss("none", 1e-5) < loss("none", 1e-3) - 3
    assert loss("uniform", 1e-5) == loss("uniform", 1e-3) == pytest.approx(0.0, abs=1e-6)
    # Once past the bound, the destroyed copy is left alone.
    destructive = DESTRUCTIVE[:, :2].clone().requires_grad_()
    consistency_loss(ORIGINAL[:2], ROBUST[:, :2], destructive, COUNTS[:1], "uniform").backward()
    assert (destructive.grad == 0).all()


def test_an_unknown_bound_is_refused():
    with pytest.raises((ValueError, TypeError), match="soft"):
        consistency_loss(ORIGINAL, ROBUST, DESTRUCTIVE, COUNTS, "soft")
