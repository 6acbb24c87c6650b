"""VGN with a comparison of moments, against its equations written out for one moment and one edge at a time."""

import numpy as np
import pytest
import torch

from relgrounding.datasets import Query
from relgrounding.features import Vocabulary
from relgrounding.graphs import naive
from relgrounding.modalities import VideoCollator
from relgrounding.models import VGN, VGNConfig
from relgrounding.nn import trained_embedding
from relgrounding.objectives import align_pairings

TEXTS = ["door", "the person opens the door again", "after that a box"]
LENGTHS = [6, 1, 9]
EDGES = ["none", "nearest", "all"]
NEIGHBOURS = 4
SIZES = {"hidden": 5, "attention_dim": 6, "relation_dim": 8, "top_r": 2, "heads": 2}


class _Store(dict):
    dim = 4


def _made(edges: str):
    """A model whose weights all matter, and batches in float64."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    store = _Store({str(i): generator.normal(size=(n, 4)).astype(np.float32) for i, n in enumerate(LENGTHS)})
    vocabulary = Vocabulary.from_texts(TEXTS)
    config = VGNConfig("vgn", "compare", relation_edges=edges, relation_neighbours=NEIGHBOURS, **SIZES)
    model = VGN(config, 4, trained_embedding(len(vocabulary), 6), 6).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    queries = [Query(i, i, text, ()) for i, text in zip(store, TEXTS, strict=True)]
    collate = VideoCollator(queries, store, vocabulary, [2, 3, 5], 1.0, **VGN.graph_options(config))

    def batch(indices):
        made = collate(indices)
        made.clips = made.clips.double()
        return made

    return model, batch


def _reference(model: VGN, edges: str, words: torch.Tensor, h: torch.Tensor, spans: list[list[int]]) -> torch.Tensor:
    """Scores of the moments of one video for one sentence, by the docstrings of VGN and RelationalComparison."""
    layer = model.relation[0]
    states, last = model.word_encoder.gru(model.embedding(words)[None])
    s, q = states[0], torch.cat([last[0, 0], last[1, 0]])
    types = naive.temporal_relations(spans)
    near = naive.nearest(spans, NEIGHBOURS)
    sources = {"none": [[]] * len(h), "nearest": near, "all": [range(len(h))] * len(h)}[edges]
    c, fused, scores = [], [], []
    for own in h:
        compared = torch.tanh(model.attention.proposal(own) + model.attention.word(s))
        c.append(model.attention.score(compared)[:, 0].softmax(0) @ s)
        fused.append(model.fusion(own[None], c[-1][None])[0])
    for i, heard in enumerate(sources):
        opened, message, total = h.new_zeros(13), h.new_zeros(8), h.new_zeros(())
        for j in heard:
            if i == j:
                continue
            kind = types[j][i] - 1
            gate = torch.sigmoid(layer.gate(fused[j])[0] + layer.type_gate(q)[kind])
            opened[kind] = opened[kind] + gate
            message, total = message + gate * layer.message(fused[j]), total + gate
        m = (opened / (1 + opened)) @ layer.type_bias + message / (1 + total) + layer.itself(fused[i])
        r = layer.score(torch.relu(layer.hidden(m)) * layer.context(c[i]))
        x = torch.nn.functional.elu(model.unary[2](torch.nn.functional.elu(model.unary[0](fused[i]))))
        scores.append(torch.sigmoid(model.score(x) + r))
    return torch.cat(scores)


@pytest.mark.parametrize("edges", EDGES)
def test_scores_of_a_batch_are_those_of_the_equations(edges):
    model, batch = _made(edges)
    together = batch([0, 1, 2])
    parts = together.structure.batch_num_nodes.tolist()
    moments = model.encode(together).proposals.split(parts)
    rows = zip(moments, together.spans.split(parts), model(together).split(parts), strict=True)
    for i, (h, spans, found) in enumerate(rows):
        words = together.words[i, : together.word_lengths[i]]
        torch.testing.assert_close(found, _reference(model, edges, words, h, spans.tolist()), rtol=1e-9, atol=0)


@pytest.mark.parametrize("edges", EDGES)
def test_pairings_made_of_shares_are_those_of_whole_batches(edges):
    model, batch = _made(edges)
    several = batch([0, 1, 2])
    sentences = torch.tensor([[0, 1, 2], [1, 2, 0]])
    proposals, words = model.encode(several)
    assert words.shape[-1] == model.language_dim == 20
    item = several.structure.node_item
    expected = []
    for row in sentences:
        contexts = model.interact(proposals, words[row], several.word_lengths[row], item)
        k = model.reason(several.structure, proposals, model.fuse(proposals, contexts))
        expected.append(model.align(several.structure, k))
    found, expected = align_pairings(model, several, sentences), torch.stack(expected)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad(k.sum(), weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        for k in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-11)
    idle = [name for (name, _), g in zip(model.named_parameters(), gradients[0], strict=True) if not g.any()]
    gates = ["relation.0.message.weight", "relation.0.gate.weight", "relation.0.type_gate.weight"]
    assert edges == "none" or not set(gates) & set(idle)
    assert not [name for name in idle if not name.startswith("relation.0")]


def test_without_messages_it_is_the_control_without_edges_and_a_fresh_one_adds_nothing():
    model, batch = _made("all")
    control, _ = _made("none")
    control.load_state_dict(model.state_dict())
    several = batch([0, 1, 2])
    assert not control.relation.has_graph
    with model.relation.passing([False]):
        torch.testing.assert_close(model(several), control(several), rtol=1e-12, atol=0)
    assert not torch.allclose(model(several), control(several))
    with torch.no_grad():
        for parameter in model.relation[0].score.parameters():
            parameter.zero_()
    h, words = model.encode(several)
    c = model.interact(h, words, several.word_lengths, several.structure.node_item)
    unary = model.score(model.unary(model.fuse(h, c)[:, :20]))[:, 0]
    torch.testing.assert_close(model(several), torch.sigmoid(unary), rtol=1e-12, atol=0)
