import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from relgrounding.nn import BiGRUEncoder


def run_alone(encoder, sequence):
    """The recurrence step by step, one direction at a time."""
    weights = dict(encoder.gru.named_parameters())

    def one_way(steps, suffix):
        w, u, b, c = (weights[f"{n}_l0{suffix}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        state, states = sequence.new_zeros(u.shape[1]), []
        for x in steps:
            (xr, xz, xn), (hr, hz, hn) = (w @ x + b).chunk(3), (u @ state + c).chunk(3)
            update = torch.sigmoid(xz + hz)
            state = (1 - update) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + update * state
            states.append(state)
        return states

    forward, backward = one_way(sequence, ""), one_way(sequence.flip(0), "_reverse")[::-1]
    return torch.stack([torch.cat(pair) for pair in zip(forward, backward, strict=True)])


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), spare=st.integers(0, 2), seed=st.integers(0, 99))
def test_equals_each_sequence_alone_and_zeros_behind_it(lengths, spare, seed):
    torch.manual_seed(seed)
    encoder = BiGRUEncoder(3, 4).double()
    torch.nn.init.normal_(encoder.gru.bias_hh_l0)
    x = torch.randn(len(lengths), max(lengths) + spare, 3, dtype=torch.float64)
    for row, length in zip(x, lengths, strict=True):
        row[length:] = torch.nan
    out = encoder(x, torch.tensor(lengths))
    assert out.shape == (*x.shape[:2], 8)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(out[i, :length], run_alone(encoder, x[i, :length]))
        assert (out[i, length:] == 0).all()


def test_gradcheck():
    encoder = BiGRUEncoder(2, 2).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: encoder(x, torch.tensor([3, 1])), x)


def test_weights_start_as_documented():
    gru = BiGRUEncoder(5, 4).gru
    for gate in gru.weight_hh_l0_reverse.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4))
    assert gru.weight_ih_l0.abs().max() <= (6 / 9) ** 0.5
    assert (gru.bias_ih_l0 == 0).all()


def test_no_sequence_at_all():
    assert BiGRUEncoder(3, 4)(torch.zeros(0, 5, 3), torch.zeros(0, dtype=torch.int64)).shape == (0, 5, 8)


@pytest.mark.parametrize("wrong", [0, 6])
def test_a_length_that_does_not_fit_is_named(wrong):
    with pytest.raises(ValueError, match=f"sequence 1 has length {wrong}; lengths are 1 to 5, the padded length"):
        BiGRUEncoder(3, 4)(torch.zeros(2, 5, 3), torch.tensor([2, wrong]))


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_all_gradients_are_those_of_the_packed_gru_of_pytorch(lengths, seed):
    torch.manual_seed(seed)
    encoder = BiGRUEncoder(3, 4).double()
    for bias in (encoder.gru.bias_hh_l0, encoder.gru.bias_ih_l0_reverse):
        torch.nn.init.normal_(bias)
    x = torch.randn(len(lengths), max(lengths), 3, dtype=torch.float64, requires_grad=True)
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(encoder.gru(packed)[0], batch_first=True)
    found = encoder(x, torch.tensor(lengths))
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((y * weight).sum(), [x, *encoder.parameters()]) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_half_precision():
    encoder, x = BiGRUEncoder(3, 4), torch.randn(2, 5, 3)
    half = BiGRUEncoder(3, 4).bfloat16()
    half.load_state_dict(encoder.state_dict())
    lengths = torch.tensor([5, 2])
    torch.testing.assert_close(half(x.bfloat16(), lengths).float(), encoder(x, lengths), rtol=0.1, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder(x, lengths), encoder(x, lengths))
