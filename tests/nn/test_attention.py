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


def test_one_word_is_the_context():
    words = torch.randn(2, 4, 6)
    context, weights = ProposalToWordAttention(3, 6, 4)(
        torch.randn(3, 3), words, torch.tensor([1, 1]), torch.tensor([0, 0, 1])
    )
    torch.testing.assert_close(context, words[[0, 0, 1], 0])
    assert weights.tolist() == [[1, 0, 0, 0]] * 3


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


def test_half_precision_and_autocast():
    module, arguments = ProposalToWordAttention(3, 2, 4), (torch.tensor([3, 2]), torch.tensor([0, 0, 1, 0]))
    proposals, words = torch.randn(4, 3), torch.randn(2, 3, 2)
    expected = module(proposals, words, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(proposals, words, *arguments), expected, rtol=0.05, atol=0.05)
    found = module.bfloat16()(proposals.bfloat16(), words.bfloat16(), *arguments)
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    torch.testing.assert_close(found[0].float(), expected[0], rtol=0.05, atol=0.05)
    found[0].sum().backward()
