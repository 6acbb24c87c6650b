"""What does not fit a layer is one sentence, which names the layer, what it was given and what it takes."""

import re

import pytest
import torch

from relgrounding import nn
from relgrounding.graphs import temporal_structure
from relgrounding.nn import pad_nodes, sinusoidal_positions

MOMENTS = temporal_structure([[0, 4], [2, 6], [5, 9]], iou_threshold=0.1)
NUMBERS = torch.tensor([2, 1])
LAYERS = {
    "GraphAttention x (nodes, 8)": lambda layer, x: layer(MOMENTS, x),
    "GatedSum x (nodes, 8)": lambda layer, x: layer.silent(x),
    "EdgeGatedGCN x (nodes, 8)": lambda layer, x: layer(MOMENTS, x, return_attention=True),
    "RelationalComparison x (nodes, 8)": lambda layer, x: layer(MOMENTS, x, torch.ones(3, 9)),
    "RelationalComparison share (nodes, 9)": lambda layer, x: layer.silent(torch.ones(3, 8), x),
    "RelationalComparison context (..., 6)": lambda layer, x: layer.share(x, torch.ones(3, 4)),
    "RelationalComparison sentence (..., 4)": lambda layer, x: layer.share(torch.ones(3, 6), x),
    "EdgeSimilarity h (..., 8)": lambda layer, x: layer.keys(x),
    "ProposalToWordAttention proposals (nodes, 8)": lambda layer, x: layer(x, torch.ones(2, 3, 6), NUMBERS, NUMBERS),
    "ProposalToWordAttention words (items, length, 6)": lambda layer, x: layer(torch.ones(2, 8), x, NUMBERS, NUMBERS),
    "BiGRUEncoder x (items, length, 8)": lambda layer, x: layer(x, NUMBERS),
    "GatedFusion h (..., 8)": lambda layer, x: layer(x, torch.ones(3, 6)),
    "GatedFusion c (..., 6)": lambda layer, x: layer(torch.ones(3, 8), x),
    "DecoderLayer x (..., 8)": lambda layer, x: layer(x),
    "DecoderLayer memory (..., 8)": lambda layer, x: layer(torch.ones(2, 3, 8), x),
}
SETTINGS = {
    "GraphAttention": (8, 6, 2), "GatedSum": (8, 6, 1), "EdgeGatedGCN": (8, 6, 1), "RelationalComparison": (8, 6, 4, 1),
    "EdgeSimilarity": (8,), "ProposalToWordAttention": (8, 6, 4), "BiGRUEncoder": (8, 4), "GatedFusion": (8, 6),
    "DecoderLayer": (8, 2, 16),
}  # fmt: skip


@pytest.mark.usefixtures("_unchecked_types")
@pytest.mark.parametrize("what", LAYERS)
def test_what_does_not_fit_a_layer_is_one_sentence(what):
    kind, name, shape = what.split(maxsplit=2)
    layer = getattr(nn, kind)(*SETTINGS[kind])
    given = torch.ones([3] * shape.count(",") + [7])
    for x, error, said in (
        (given, ValueError, f"{kind}: {name} has the shape {tuple(given.shape)}; this layer takes {shape}"),
        (given.new_ones(()), ValueError, f"{kind}: {name} has the shape (); this layer takes {shape}"),
        ([1.0], TypeError, f"{kind}: {name} is a list; give a float tensor of shape {shape}"),
    ):
        with pytest.raises(error, match=f"^{re.escape(said)}$"):
            LAYERS[what](layer, x)
    fitting = torch.ones([2] * shape.count(",") + [int(shape[-2])])
    for x in (fitting.double(), fitting.long()):
        said = f"{kind}: {name} is {x.dtype}, the weights are torch.float32; give both one type with .to()"
        with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
            LAYERS[what](layer, x)
    with torch.autocast("cpu"), pytest.raises(ValueError, match=r"are torch\.float32; give both one type"):
        LAYERS[what](layer, fitting.long())


@pytest.mark.usefixtures("_unchecked_types")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_items_and_numbers_of_any_integer_type_are_the_same(dtype):
    random = torch.Generator().manual_seed(0)
    item, lengths, spans = torch.tensor([1, 0, 1]), torch.tensor([3, 2]), torch.tensor([[0, 2], [1, 2], [1, 3]])
    clips, words, proposals = (torch.randn(shape, generator=random) for shape in ((2, 3, 4), (2, 3, 4), (3, 4)))
    attention = nn.ProposalToWordAttention(4, 4, 4)

    def answers(item, lengths, spans):
        return [
            attention(proposals, words, lengths, item)[0],
            nn.ProposalPooling("mean", 1.0, 3.0)(clips, spans, item, lengths),
            nn.ProposalPooling()(clips, spans, item),
            nn.TopRScore(1000)(torch.arange(5.0), lengths),
        ]

    torch.testing.assert_close(answers(*(x.to(dtype) for x in (item, lengths, spans))), answers(item, lengths, spans))


@pytest.mark.usefixtures("_unchecked_types")
def test_numbers_that_do_not_fit_are_refused():
    for call, said in (
        (lambda: pad_nodes(torch.ones(3), torch.tensor([4, -1])), "one number of at least 0 per item"),
        (lambda: pad_nodes(torch.ones(3), torch.tensor([[1, 2]])), "one number of at least 0 per item"),
        (lambda: nn.TopRScore(2)(torch.ones(3, 1), NUMBERS), r"the shape \(3, 1\); give one score per node"),
        (lambda: nn.ProposalPooling()(torch.ones(4, 3), NUMBERS[None], NUMBERS[:1]), r"clips have shape \(4, 3\)"),
        (lambda: nn.ProposalPooling()(torch.ones(1, 4, 3), NUMBERS, NUMBERS), r"and spans \(2,\); give"),
        (lambda: nn.WordEmbedding(torch.ones(3)), r"give \(words, dim\) floats"),
        (lambda: nn.DecoderLayer(8, 3, 16), "width 8 is not a multiple of heads 3"),
        (lambda: sinusoidal_positions(3, 5), "width 5 is odd"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
