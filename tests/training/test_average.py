"""The average of weights against its definition."""

import pytest
import torch

from relgrounding.training._average import Average


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_it_is_the_normalised_sum_of_all_weights(decay):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(3, 2).double()), torch.nn.Parameter(torch.zeros(()).double())]
    average, history = Average(weights, decay), []
    for step in range(1, 8):
        with torch.no_grad():
            for weight in weights:
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        history.append([weight.detach().clone() for weight in weights])
        average.update()
        shares = [decay ** (step - i) for i in range(1, step + 1)]
        for k, weight in enumerate(weights):
            expected = sum(s * past[k] for s, past in zip(shares, history, strict=True)) / sum(shares)
            with average.applied():
                torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-12)
            assert torch.equal(weight, history[-1][k])  # the model's own are back, to the last bit


def test_its_state_continues_it():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    whole, first = Average([weight], 0.9), Average([weight], 0.9)
    for value in (1.0, 3.0):
        weight.data.fill_(value)
        whole.update()
        first.update()
    second = Average([weight], 0.9)
    second.load_state_dict(first.state_dict())
    weight.data.fill_(-2.0)
    whole.update()
    second.update()
    assert str(whole.state_dict()) == str(second.state_dict())


def test_without_decay_nothing_happens():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    average = Average([weight], 0.0)
    average.update()
    weight.data.fill_(3.0)
    with average.applied():
        assert weight.item() == 3.0
    assert weight.item() == 3.0
    assert average.state_dict() == {}
    average.load_state_dict({})
