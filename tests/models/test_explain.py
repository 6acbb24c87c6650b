"""Messages to a proposal against the equations of the layers, and what leaving out a word does to them."""

import pytest
import torch
from torch import nn

from relgrounding.datasets import Query
from relgrounding.features import Vocabulary
from relgrounding.modalities._batches import Texts
from relgrounding.models import Recorded
from relgrounding.models._relation import Relation
from relgrounding.nn import RelationalComparison
from tests.models.test_laws import TEXTS, _image, _video


def _listed(recorded, node):
    return {(m.layer, m.source, m.edge_type): m.weight for m in recorded.messages(node)}


def test_the_gates_of_both_directions_are_those_of_the_equations():
    model, collator = _image("graph", [5], relation_layers=1)
    batch, layer = collator([0]), model.relation[0]
    graph, encoded = batch.structure, model.eval().encode(batch)
    contexts = model.interact(*encoded, batch.word_lengths, graph.node_item)
    logits = model.fuse(encoded.proposals, contexts) @ torch.cat(layer.parts[3:]).T
    recorded = Recorded(model, batch)
    torch.testing.assert_close(recorded.scores, model(batch).detach())
    for node in range(5):
        expected = {}
        for (j, i), kind in zip(graph.edge_index.T.tolist(), graph.etype.tolist(), strict=True):
            name = graph.edge_types[kind]
            if i == node:
                expected["relation.0", j, name] = torch.sigmoid(logits[j, 0] + layer.gate_bias[0, kind]).item()
            if j == node:
                gate = torch.sigmoid(logits[i, 1] + layer.gate_bias[1, kind]).item()
                expected["relation.0", i, name + " (reversed)"] = gate
        assert _listed(recorded, node) == pytest.approx(expected, rel=1e-5)
        assert sum(recorded.attention(node)) == pytest.approx(1)


def test_attention_of_each_layer_sums_to_one():
    model, collator = _video("graph", [6])
    recorded = Recorded(model.eval(), collator([0]))
    for node in range(len(recorded.scores)):
        weights = _listed(recorded, node)
        for layer in ("relation.0", "relation.1"):
            assert sum(w for key, w in weights.items() if key[0] == layer) == pytest.approx(1)
        assert [m.weight for m in recorded.messages(node)] == sorted(weights.values(), reverse=True)


@pytest.mark.parametrize("edges", ["all", "soft"])
def test_gates_of_a_comparison_are_those_of_the_equation(edges):
    model, collator = _image("compare", [3, 5], relation_edges=edges)
    (layer,) = [module for module in model.modules() if isinstance(module, RelationalComparison)]
    nn.init.normal_(layer.type_gate.weight)
    nn.init.normal_(layer.score.weight)
    batch = collator([1])
    recorded, graph, encoded = Recorded(model.eval(), batch), batch.structure, model.encode(batch)
    contexts = model.interact(*encoded, batch.word_lengths, graph.node_item)
    fused = model.fuse(encoded.proposals, contexts)[:, : layer.in_dim]
    sentence = encoded.words[0, 0, -layer.type_gate.in_features :]  # the last states, beside every word
    keys = None if edges == "all" else model.similar.keys(batch.regions)
    for node in range(5):
        expected = {}
        for (j, i), kind in zip(graph.edge_index.T.tolist(), graph.etype.tolist(), strict=True):
            if i == node:
                logit = layer.gate(fused[j]).squeeze() + layer.type_gate(sentence)[kind]
                if keys is not None:
                    logit = logit + model.similar.scale * keys[i] @ keys[j]
                expected[j, graph.edge_types[kind]] = torch.sigmoid(logit).item()
        assert expected
        assert {key[1:]: w for key, w in _listed(recorded, node).items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [_image, _video])
def test_a_change_is_the_difference_to_the_sentence_without_the_word(make):
    model, collator = make("graph", [4, 4, 4])
    collator.store = dict.fromkeys("012", collator.store["0"])
    queries = [Query(text, "0", text, ()) for text in ("red door", "door", "red")]
    collator.queries, collator._texts = queries, Texts(queries, Vocabulary.from_texts(TEXTS), 20)
    whole, first, second = (Recorded(model.eval(), collator([i])) for i in range(3))
    together = Recorded(model, collator([0, 1, 2]))
    for node in range(len(whole.scores)):
        alone = [_listed(recorded, node) for recorded in (whole, first, second)]
        assert _listed(together, node) == pytest.approx(alone[0], abs=1e-6)
        for m in together.messages(node):
            key = m.layer, m.source, m.edge_type
            assert m.changes == pytest.approx([alone[0][key] - other[key] for other in alone[1:]], abs=1e-6)
        assert all(m.changes == () for m in whole.messages(node))


def test_models_without_weights_are_explained_by_attention_alone_and_hooks_are_gone():
    class Sum(nn.Module):
        def forward(self, structure, x):
            return nn.functional.pad(x, (0, 1))

    model, collator = _image("none", [4])
    batch = collator([0])
    for relation in (model.relation, Relation([Sum()])):
        model.relation = relation
        recorded = Recorded(model.eval(), batch)
        assert recorded.messages(0) == []
        assert len(recorded.attention(0)) == int(batch.word_lengths[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
