"""The attention in pieces against the same equations with the tensor of all pairs and plain autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.nn import ProposalToWordAttention
from relgrounding.ops import _cpp
from relgrounding.ops.additive_attention import pieces as in_pieces


@pytest.fixture(autouse=True, scope="module", params=["compiled", "in pieces"])
def _way(request):
    """Both ways of computing it, of which a machine without a compiler has the second alone."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "in pieces":
            patch.setattr(_cpp, "_library", lambda: (None, "left out"))
        elif reason := _cpp.cpp_reason():
            pytest.skip(f"the C++ kernel was not tested: {reason}")
        yield


def all_pairs(module, proposals, words, lengths, item):
    pairs = torch.tanh(module.proposal(proposals).unsqueeze(1) + module.word(words)[item])
    padding = torch.arange(words.shape[1]) >= lengths.unsqueeze(1)
    weights = torch.softmax((pairs @ module.score.weight[0]).masked_fill(padding[item], -torch.inf), -1)
    return (weights.unsqueeze(-1) * words[item]).sum(1), weights


def draw(counts, lengths, dtype=torch.float64, scale=1.0, width=4):
    module = ProposalToWordAttention(3, 2, width).to(dtype)
    torch.nn.init.normal_(module.proposal.bias)
    for parameter in module.parameters():
        parameter.data *= scale
    item = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    proposals = torch.randn(len(item), 3, dtype=dtype, requires_grad=True)
    words = torch.randn(len(lengths), max(lengths) + 1, 2, dtype=dtype, requires_grad=True)
    return module, (proposals, words, torch.tensor(lengths), item)


def with_gradients(function, module, arguments, pick=(0, 1)):
    out = [function(*arguments)[i] for i in pick]
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)).sum() for x in out)
    return out, torch.autograd.grad(loss, [*arguments[:2], *module.parameters()], allow_unused=True)


items = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=6)


@given(items=items, most=st.sampled_from([1, 40, 200, 2**20]), seed=st.integers(0, 99))
def test_values_and_gradients_wherever_the_batch_is_cut(items, most, seed):
    torch.manual_seed(seed)
    module, arguments = draw(*zip(*items, strict=True))
    expected = with_gradients(lambda *x: all_pairs(module, *x), module, arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_pieces, "PIECE_ON_CPU", most)
        found = with_gradients(module, module, arguments)
    torch.testing.assert_close(found, expected)


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    most=st.sampled_from([1, 40, 200, 2**20]),
    data=st.data(),
)
def test_pieces_cover_every_proposal_once_and_stay_small(counts, most, data):
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=len(counts), max_size=len(counts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_pieces, "PIECE_ON_CPU", most)
        pieces = in_pieces.Pieces(counts, lengths, 4, torch.device("cpu")).pieces
    assert [n for p in pieces for n in range(p.nodes.start, p.nodes.stop)] == list(range(sum(counts)))
    for piece in pieces:
        rows = len(piece.counts) * max(piece.counts)
        assert rows * piece.length * 4 <= most or rows == 1
        assert rows <= 1.25 * sum(piece.counts)
        assert piece.length == max(lengths[piece.items])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_arguments_far_outside_the_range_of_an_exponential(dtype, scale):
    module, arguments = draw([5, 0, 3], [3, 1, 2], dtype, scale)
    module.score.weight.data /= scale
    expected = with_gradients(lambda *x: all_pairs(module, *x), module, arguments)
    torch.testing.assert_close(with_gradients(module, module, arguments), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_widths_of_whole_vectors_and_some_columns_more(dtype):
    module = ProposalToWordAttention(3, 37, 91).to(dtype)
    _, (proposals, _, lengths, item) = draw([40, 0, 1, 7], [5, 1, 2, 4], dtype)
    words = torch.randn(4, 5, 37, dtype=dtype, requires_grad=True)
    arguments = proposals, words, lengths.int(), item
    expected = with_gradients(lambda *x: all_pairs(module, *x), module, arguments)
    torch.testing.assert_close(with_gradients(module, module, arguments), expected)


def test_large_arguments_of_opposite_sign_cancel():
    module, arguments = draw([4], [3], torch.float32)
    module.proposal.bias.data += 300
    module.word.weight.data.zero_()
    module.word.weight.data[:, 0] = -300
    words = torch.randn(1, 4, 2) * 1e-3 + torch.tensor([1.0, 0.0])
    arguments = arguments[0], words.requires_grad_(), *arguments[2:]
    expected = with_gradients(lambda *x: all_pairs(module, *x), module, arguments)
    torch.testing.assert_close(with_gradients(module, module, arguments), expected, rtol=1e-4, atol=1e-4)


def test_as_exact_in_float32_as_the_plain_version():
    module, arguments = draw([40, 30], [9, 7], width=64)
    exact, _ = with_gradients(module, module, arguments)
    single = [x.float() if x.is_floating_point() else x for x in arguments]
    module = module.float()
    errors = [
        max((a.double() - b).abs().max() for a, b in zip(function(*single), exact, strict=True))
        for function in (module, lambda *x: all_pairs(module, *x))
    ]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("pick", [(0,), (1,)])
@pytest.mark.parametrize("counts", [[3, 3], [4, 0, 1]])
def test_either_result_may_stay_unused(pick, counts):
    module, arguments = draw(counts, [3, 1, 2][: len(counts)])
    found, expected = (with_gradients(f, module, arguments, pick) for f in (module, lambda *x: all_pairs(module, *x)))
    torch.testing.assert_close(found, expected)


def test_gradcheck_of_every_input_and_weight():
    module, arguments = draw([3, 0, 1, 2], [3, 2, 1, 2])
    inputs = *arguments[:2], *module.parameters()
    weights = [name for name, _ in module.named_parameters()]

    def run(proposals, words, *values):
        values = dict(zip(weights, values, strict=True))
        return torch.func.functional_call(module, values, (proposals, words, *arguments[2:]))

    assert torch.autograd.gradcheck(run, inputs)


def test_the_pairs_are_never_kept():
    module, arguments = draw([50, 50], [8, 8], torch.float32, width=32)
    kept = 0

    def count(x):
        nonlocal kept
        kept += x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        module(*arguments)
    assert kept < 100 * 8 * 32 / 2


def test_twice_gives_the_same_bits():
    module, arguments = draw([7, 2, 30, 1], [3, 1, 4, 2], torch.float32)
    first, second = (with_gradients(module, module, arguments) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_half_precision_and_autocast():
    module, arguments = draw([5, 2], [3, 2], torch.float32)
    expected = module(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(*arguments)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    module = module.bfloat16()
    halves = [x.bfloat16() if x.is_floating_point() else x for x in arguments]
    found = module(*halves)
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    torch.testing.assert_close(found[0].float(), expected[0], rtol=0.05, atol=0.05)
    found[0].sum().backward()
