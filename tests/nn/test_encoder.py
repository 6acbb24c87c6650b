import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from relgrounding.nn import BiGRUEncoder


def test_weights_start_as_documented():
    gru = BiGRUEncoder(5, 4).gru
    for gate in gru.weight_hh_l0_reverse.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4))
    assert gru.weight_ih_l0.abs().max() <= (6 / 9) ** 0.5
    assert (gru.bias_ih_l0 == 0).all()


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
