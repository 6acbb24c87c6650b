"""Gradient penalties of every module, against plain versions that autograd differentiates."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from relgrounding import nn

LENGTHS, ITEM = torch.tensor([3, 1, 4]), torch.tensor([2, 0, 2, 1, 0])
SPANS = torch.tensor([[0, 4], [1, 3], [2, 3], [0, 1], [0, 3]])


def encode(module, x):
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(module.gru(packed)[0], batch_first=True, total_length=x.shape[1])[0]


def pool(module, clips):
    return torch.stack([clips[i, s:e].amax(0) for i, (s, e) in zip(ITEM.tolist(), SPANS.tolist(), strict=True)])


def attend(module, proposals, words):
    logits = module.score(torch.tanh(module.proposal(proposals).unsqueeze(1) + module.word(words)[ITEM])).squeeze(-1)
    logits = logits.masked_fill(torch.arange(words.shape[1]) >= LENGTHS[ITEM].unsqueeze(1), -torch.inf)
    gamma = logits.softmax(1)
    return torch.einsum("nl,nlw->nw", gamma, words[ITEM]), gamma


CASES = {
    "BiGRUEncoder": (lambda: nn.BiGRUEncoder(3, 2), [(3, 4, 3)], (LENGTHS,), encode),
    "ProposalPooling": (nn.ProposalPooling, [(3, 4, 2)], (SPANS, ITEM), pool),
    "ProposalToWordAttention": (
        lambda: nn.ProposalToWordAttention(3, 2, 4),
        [(5, 3), (3, 4, 2)],
        (LENGTHS, ITEM),
        attend,
    ),
}
PLAIN = {
    "GatedFusion": (lambda: nn.GatedFusion(2, 3), [(4, 2), (4, 3)], ()),
    "TopRScore": (lambda: nn.TopRScore(2), [(5,)], (torch.tensor([3, 2]),)),
    "ProposalPooling, mean": (lambda: nn.ProposalPooling("mean", 0.5), [(3, 4, 2)], (SPANS, ITEM)),
    "WordEmbedding": (lambda: nn.WordEmbedding(torch.ones(4, 2)), [], (torch.tensor([[0, 1, 3]]),)),
    "trained_embedding": (lambda: nn.trained_embedding(4, 2), [], (torch.tensor([[0, 1, 3]]),)),
}


def penalised(results, wanted, linear):
    values = [x.sum() if linear else x.square().sum() for x in results]
    gradients = torch.autograd.grad(sum(values), wanted, create_graph=True, materialize_grads=True)
    loss = sum(values) + 10 * sum(g.pow(2).sum() for g in gradients)
    return [loss.detach(), *torch.autograd.grad(loss, wanted, materialize_grads=True)]


def set_up(make, shapes):
    module = make().double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module, [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("which", ["all", "inputs", "weights", "first"])
def test_a_gradient_penalty_is_that_of_the_plain_module(name, which, linear):
    make, shapes, rest, plain = CASES[name]
    module, inputs = set_up(make, shapes)
    weights = list(module.parameters())
    wanted = {"all": inputs + weights, "inputs": inputs, "weights": weights or inputs, "first": inputs[:1]}[which]
    for tensor in inputs + weights:
        tensor.requires_grad_(any(tensor is x for x in wanted))
    results = []
    for out in (module(*inputs, *rest), plain(module, *inputs)):
        results.append(penalised([out] if isinstance(out, torch.Tensor) else out, wanted, linear))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", [*CASES, *PLAIN])
def test_finite_differences_agree(name):
    make, shapes, rest, *_ = (CASES | PLAIN)[name]
    module, inputs = set_up(make, shapes)
    names = [key for key, _ in module.named_parameters()]

    def function(*values):
        weights = dict(zip(names, values[len(shapes) :], strict=True))
        return torch.func.functional_call(module, weights, (*values[: len(shapes)], *rest))

    assert torch.autograd.gradgradcheck(function, [*inputs, *module.parameters()])


def test_a_penalty_reaches_the_largest_clip_alone_also_among_equal_ones():
    clips = torch.tensor([[[1.0], [2.0], [2.0], [0.0]]], requires_grad=True)
    out = nn.ProposalPooling()(clips, torch.tensor([[0, 4]]), torch.tensor([0]))
    first = torch.autograd.grad(out.square().sum(), clips, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), clips, create_graph=True), first)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's own, in jvp
def test_transforms_of_functions_are_refused(name):
    make, shapes, rest, _ = CASES[name]
    module, inputs = set_up(make, shapes)
    tensors = tuple(x.detach() for x in inputs)

    def first(*x):
        out = module(*x, *rest)
        return out if isinstance(out, torch.Tensor) else out[0]

    for attempt in (
        lambda: torch.func.jvp(first, tensors, tuple(torch.ones_like(x) for x in tensors)),
        lambda: torch.func.grad(lambda *x: first(*x).sum())(*tensors),
        lambda: torch.func.vmap(first)(*(torch.stack([x, x]) for x in tensors)),
    ):
        with pytest.raises(RuntimeError, match=r"must override the setup_context|vmap over calling \.item"):
            attempt()
