import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.nn import GatedFusion, ProposalToWordAttention


def attention_loop(module, proposals, words, lengths, item):
    """The equations, one proposal and one word after another."""
    contexts, weights = [], torch.zeros(len(proposals), words.shape[1], dtype=words.dtype)
    for t, h in enumerate(proposals):
        s = words[item[t], : lengths[item[t]]]
        logits = [
            module.score.weight[0]
            @ torch.tanh(module.proposal.weight @ h + module.word.weight @ s_n + module.proposal.bias)
            for s_n in s
        ]
        gamma = torch.stack(logits).exp() / torch.stack(logits).exp().sum()
        weights[t, : len(gamma)] = gamma
        contexts.append(sum(g * s_n for g, s_n in zip(gamma, s, strict=True)))
    return torch.stack(contexts), weights


@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data(), seed=st.integers(0, 99))
def test_equals_a_loop_whatever_the_order_of_proposals(lengths, data, seed):
    item = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    torch.manual_seed(seed)
    module = ProposalToWordAttention(3, 2, 4).double()
    torch.nn.init.normal_(module.proposal.bias)
    proposals = torch.randn(len(item), 3, dtype=torch.float64)
    words = torch.randn(len(lengths), max(lengths) + 1, 2, dtype=torch.float64)
    arguments = proposals, words, torch.tensor(lengths), torch.tensor(item)
    torch.testing.assert_close(module(*arguments), attention_loop(module, *arguments))


def test_gradcheck():
    module = ProposalToWordAttention(3, 2, 4).double()
    proposals = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    words = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    lengths, item = torch.tensor([3, 1, 2]), torch.tensor([2, 0, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda *x: module(*x, lengths, item), (proposals, words))


def test_one_word_is_the_context():
    words = torch.randn(2, 4, 6)
    context, weights = ProposalToWordAttention(3, 6, 4)(
        torch.randn(3, 3), words, torch.tensor([1, 1]), torch.tensor([0, 0, 1])
    )
    torch.testing.assert_close(context, words[[0, 0, 1], 0])
    assert weights.tolist() == [[1, 0, 0, 0]] * 3


def test_padding_is_not_read_and_gets_no_weight():
    module = ProposalToWordAttention(3, 6, 4)
    proposals, words = torch.randn(4, 3), torch.randn(2, 5, 6)
    lengths, item = torch.tensor([2, 5]), torch.tensor([0, 0, 1, 1])
    before = module(proposals, words, lengths, item)
    words[0, 2:] = 1e6
    torch.testing.assert_close(module(proposals, words, lengths, item), before)
    assert (before[1][:2, 2:] == 0).all()


def test_an_item_without_proposals_and_no_proposals_at_all():
    module = ProposalToWordAttention(3, 6, 4)
    words, lengths = torch.randn(3, 5, 6), torch.tensor([2, 5, 1])
    assert module(torch.randn(2, 3), words, lengths, torch.tensor([0, 2]))[0].shape == (2, 6)
    assert module(torch.randn(0, 3), words, lengths, torch.zeros(0, dtype=torch.int64))[1].shape == (0, 5)
    nothing = torch.zeros(0, dtype=torch.int64)
    assert module(torch.randn(0, 3), words[:0], nothing, nothing)[0].shape == (0, 6)


def test_messages():
    module = ProposalToWordAttention(3, 6, 4)
    proposals, words = torch.randn(2, 3), torch.randn(2, 5, 6)
    with pytest.raises(ValueError, match="sentence 1 has length 0; lengths are 1 to 5"):
        module(proposals, words, torch.tensor([1, 0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="proposal 1 belongs to item 2; there are 2, counted from 0"):
        module(proposals, words, torch.tensor([1, 1]), torch.tensor([0, 2]))


def test_fusion_is_its_equation():
    fusion = GatedFusion(3, 2)
    torch.nn.init.normal_(fusion.proposal_gate.bias)
    h, c = torch.randn(4, 3), torch.randn(4, 2)
    out = fusion(h, c)
    for t in range(4):
        g_v = 1 / (1 + torch.exp(-(fusion.proposal_gate.weight @ h[t] + fusion.proposal_gate.bias)))
        g_s = 1 / (1 + torch.exp(-(fusion.context_gate.weight @ c[t] + fusion.context_gate.bias)))
        torch.testing.assert_close(out[t], torch.cat([h[t] * g_s, c[t] * g_v]))


def test_fusion_gradcheck():
    fusion = GatedFusion(3, 2).double()
    inputs = [torch.randn(4, n, dtype=torch.float64, requires_grad=True) for n in (3, 2)]
    assert torch.autograd.gradcheck(fusion, inputs)


def test_shapes_that_do_not_fit_each_other_reach_no_kernel():
    # In a process of its own: here jaxtyping would see them first.
    code = """
import torch
from relgrounding.nn import ProposalToWordAttention
attention = ProposalToWordAttention(2, 3, 6)
fine = [torch.randn(20, 6), torch.randn(4, 5, 6), torch.randn(4, 5, 3), torch.tensor([5, 1, 3, 2])]
attention.attend(*fine, torch.arange(20) // 5)
wrong = [(0, (20, 7)), (0, (19, 6)), (1, (4, 5, 7)), (1, (3, 5, 6)), (2, (4, 4, 3)), (3, (3,)), (3, (4, 1))]
for changed, shape in wrong:
    given = [x if i != changed else torch.ones(shape, dtype=x.dtype) for i, x in enumerate(fine)]
    try:
        attention.attend(*given, torch.arange(20) // 5)
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("have shape") == 7
