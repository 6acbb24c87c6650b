"""IGN with a comparison of neighbours, against its equations written out for one region and one edge at a time."""

from functools import partial

import numpy as np
import pytest
import torch

from relgrounding import Grounder
from relgrounding.config import ConfigError
from relgrounding.datasets import Query
from relgrounding.features import Regions, Vocabulary
from relgrounding.graphs import spatial_relations, spatial_structure
from relgrounding.modalities import ImageCollator
from relgrounding.models import IGN, IGNConfig
from relgrounding.nn import trained_embedding
from relgrounding.objectives import CCL, MIL, align_pairings
from relgrounding.runs import RunFolder
from relgrounding.training import make_task
from tests.training.tiny import tiny_config, train

TEXTS = ["left door", "the second person from the left opens it", "box"]
COUNTS = [6, 1, 9]
EDGES = ["none", "all", "same_category", "soft"]
SIZES = {"hidden": 5, "attention_dim": 6, "relation_dim": 8, "top_r": 2, "fusion_dim": 7, "position_dim": 3}
CATEGORIES, GEOMETRY = 2, 1


class _Store(dict):
    dim = 5


def _store() -> _Store:
    generator = np.random.default_rng(3)
    store = _Store()
    for i, n in enumerate(COUNTS):
        corner = generator.integers(0, 60, (n, 2))
        boxes = np.concatenate([corner, corner + generator.integers(1, 40, (n, 2))], 1).astype(np.float32)
        store[str(i)] = Regions(generator.normal(size=(n, 5)).astype(np.float32), boxes, (100, 90))
    return store


def _made(edges: str, store=None, **settings):
    """A model whose weights all matter, and batches in float64."""
    torch.manual_seed(0)
    store = store or _store()
    vocabulary = Vocabulary.from_texts(TEXTS)
    config = IGNConfig(relation="compare", relation_edges=edges, **SIZES, **settings)
    model = IGN(config, 5, trained_embedding(len(vocabulary), 6), 6).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    queries = [Query(i, i, text, ()) for i, text in zip(store, TEXTS, strict=True)]
    collate = ImageCollator(queries, store, vocabulary, 20, CATEGORIES, GEOMETRY, **IGN.graph_options(config))

    def batch(indices):
        made = collate(indices)
        made.regions, made.places = made.regions.double(), made.places.double()
        return made

    return model, batch, store


def _reference(model: IGN, edges: str, words: torch.Tensor, h: torch.Tensor, boxes) -> torch.Tensor:
    """Scores of the regions of one image for one sentence, by the docstrings of IGN and RelationalComparison."""
    layer, n = model.relation[0], len(h)
    states, last = model.word_encoder.gru(model.embedding(words)[None])
    s, q = states[0], torch.cat([last[0, 0], last[1, 0]])
    types = spatial_relations(boxes, (100, 90))
    category = h[:, :CATEGORIES].argmax(1)
    seen = torch.cat([h[:, : -4 - GEOMETRY], h.new_zeros(n, GEOMETRY)], 1)

    def apart(i: int, j: int) -> bool:
        return edges == "none" or not types[j, i] or (edges == "same_category" and bool(category[i] != category[j]))

    c, fused, scores = [], [], []
    for t in range(n):
        compared = torch.tanh(model.attention.proposal(h[t]) + model.attention.word(s))
        c.append(model.attention.score(compared)[:, 0].softmax(0) @ s)
        parts = [h[t], c[t]]
        if len(model.product):
            parts.append(model.product[0](h[t]) * model.product[1](c[t]))
        fused.append(model.fusion(torch.cat(parts)))
    for i in range(n):
        opened, heard, total = h.new_zeros(11), h.new_zeros(7), h.new_zeros(())
        for j in range(n):
            if apart(i, j):
                continue
            kind = int(types[j, i]) - 1
            logit = layer.gate(fused[j])[0] + layer.type_gate(q)[kind]
            if edges == "soft":
                keys = [model.similar.linear(seen[k]) for k in (i, j)]
                logit = logit + model.similar.scale * torch.cosine_similarity(*keys, dim=0)
            gate = torch.sigmoid(logit)
            opened[kind] = opened[kind] + gate
            heard, total = heard + gate * layer.message(fused[j]), total + gate
        m = (opened / (1 + opened)) @ layer.type_bias + heard / (1 + total) + layer.itself(fused[i])
        r = layer.score(torch.relu(layer.hidden(m)) * layer.context(c[i]))
        x = torch.relu(model.unary[2](torch.relu(model.unary[0](fused[i]))))
        scores.append(torch.sigmoid(model.score(torch.cat([x, model.position(h[i, -4:])])) + r))
    return torch.cat(scores)


@pytest.mark.parametrize("fusion", ["linear", "product"])
@pytest.mark.parametrize("edges", EDGES)
def test_scores_of_a_batch_are_those_of_the_equations(edges, fusion):
    model, batch, store = _made(edges, fusion=fusion)
    together = batch([0, 1, 2])
    parts = together.structure.batch_num_nodes.tolist()
    scores = model(together).split(parts)
    regions = torch.cat([together.regions, together.places], 1).split(parts)
    for i, (h, found) in enumerate(zip(regions, scores, strict=True)):
        words = together.words[i, : together.word_lengths[i]]
        torch.testing.assert_close(found, _reference(model, edges, words, h, store[str(i)].boxes), rtol=1e-9, atol=0)


@pytest.mark.parametrize("edges", EDGES)
def test_the_order_of_regions_does_not_matter(edges):
    model, batch, store = _made(edges)
    order = np.random.default_rng(0).permutation(COUNTS[2])
    before = model(batch([2]))
    store["2"] = Regions(store["2"].features[order], store["2"].boxes[order], store["2"].size)
    torch.testing.assert_close(model(batch([2])), before[torch.from_numpy(order)], rtol=1e-9, atol=0)


@pytest.mark.parametrize("edges", EDGES)
def test_a_fresh_comparison_adds_nothing_and_learns_at_once(edges):
    model, batch, _ = _made(edges)
    with torch.no_grad():
        for parameter in model.relation[0].score.parameters():
            parameter.zero_()
    several = batch([0, 1, 2])
    h, s = model.encode(several)
    fused = model.fuse(h, model.interact(h, s, several.word_lengths, several.structure.node_item))[:, :7]
    x = torch.cat([model.unary(fused), model.position(several.places[:, -4:])], 1)
    scores = model(several)
    torch.testing.assert_close(scores, torch.sigmoid(model.score(x)[:, 0]), rtol=1e-12, atol=0)
    scores.sum().backward()
    assert model.relation[0].score.weight.grad.abs().min() > 0


def test_edges_within_a_category_are_those_filtered_by_hand():
    _, within, store = _made("same_category")
    sizes = [store[i].size for i in store]
    every = spatial_structure([torch.from_numpy(store[i].boxes) for i in store], sizes)
    category = torch.cat([torch.from_numpy(store[i].features[:, :CATEGORIES].argmax(1)) for i in store])
    found = within([0, 1, 2]).structure
    alike = category[every.sources] == category[every.destinations]
    assert 0 < alike.sum() < every.num_edges
    assert torch.equal(found.edge_index, every.edge_index[:, alike])
    assert torch.equal(found.etype, every.etype[alike])


@pytest.mark.parametrize("edges", ["all", "same_category", "soft"])
def test_without_messages_it_is_the_control_without_edges(edges):
    model, batch, _ = _made(edges)
    control, silent, _ = _made("none")
    control.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("similar")})
    assert not silent([0, 1, 2]).structure.num_edges
    assert not control.relation.has_graph
    several = batch([0, 1, 2])
    with model.relation.passing([False]):
        torch.testing.assert_close(model(several), control(silent([0, 1, 2])), rtol=1e-12, atol=0)
    assert not torch.allclose(model(several), control(several))


@pytest.mark.parametrize("edges", EDGES)
def test_pairings_made_of_shares_are_those_of_whole_batches(edges):
    model, batch, _ = _made(edges, fusion="product")
    several = batch([0, 1, 2])
    sentences = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
    encoded = model.encode(several)
    expected = []
    for row in sentences:
        words, lengths = encoded.words[row], several.word_lengths[row]
        item = several.structure.node_item
        contexts = model.interact(encoded.proposals, words, lengths, item)
        k = model.reason(several.structure, encoded.proposals, model.fuse(encoded.proposals, contexts))
        expected.append(model.align(several.structure, k))
    found, expected = align_pairings(model, several, sentences), torch.stack(expected)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = partial(
        torch.autograd.grad, inputs=weights, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    torch.testing.assert_close(gradients(found.sum()), gradients(expected.sum()), rtol=1e-8, atol=1e-11)


COMPARE = ["model.relation=compare", "model.relation_edges=soft", "data.geometry_columns=3", "model.standardise=true"]


@pytest.mark.parametrize("objective", [MIL, CCL])
def test_every_weight_learns_from_pairs_and_from_counterfactuals(objective):
    config = tiny_config(*COMPARE, "ccl.epochs=1", "mil.message_dropout=0.1")
    task = make_task(config)
    torch.manual_seed(0)
    model = config.system(config.model, task.feature_dim, trained_embedding(len(task.vocabulary), 8), 8)
    with torch.no_grad():
        model.relation[0].score.weight.add_(0.1)
    step = objective(model, config.objectives, torch.Generator().manual_seed(0))
    batch = task.collator(task.train)(range(8))
    for _ in range(2):  # the first fills the banks
        loss, _ = step(batch)
    loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    idle += [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert idle == []


def test_a_restored_run_answers_alike(tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = train(folder, *COMPARE, "name=run", "train.epochs=2", "train.learning_rate=0.02")
    assert trainer.model.relation[0].score.weight.any()
    test = trainer.task.test("test")
    grounder = Grounder.from_run(folder.path, "last.pt")
    scored = trainer.task.predictor(trainer.model).score(test.queries[:4], test.store, {}, quiet=True)
    for query, scores in zip(test.queries[:4], scored.scores, strict=True):
        answer = grounder.ground(query.text, test.store[query.item])[0]
        assert answer.score == pytest.approx(scores.max().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.relation_edges=none", "ccl.epochs=1"], r"needs edges; set it to 0 where model\.relation_edges=none"),
    ],
)
def test_what_does_not_fit_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config("model.relation=compare", *words)


def test_edges_within_unknown_categories_are_refused():
    task = make_task(tiny_config("model.relation=compare", "model.relation_edges=same_category"))
    with pytest.raises(ConfigError, match=r"same category need data\.category_columns, which is 0"):
        task.collator(task.train)
