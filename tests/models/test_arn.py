"""ARN against its equations, one region, neighbour and word at a time."""

import math
import statistics

import numpy as np
import pytest
import torch

from relgrounding.config import ConfigError, load_config
from relgrounding.datasets import Query
from relgrounding.features import Regions, Vocabulary
from relgrounding.graphs import naive
from relgrounding.modalities import ImageCollator
from relgrounding.models import ARN, ARNConfig
from relgrounding.nn import WordEmbedding
from relgrounding.objectives import ARNLoss, ARNLossConfig

TEXTS = ["door", "the man in the red shirt", "a white cup"]
SIZE = (100, 90)
CATEGORIES = 3


class Store(dict):
    dim = 6


def make(counts, columns=CATEGORIES, geometry=0, seed=0, **settings):
    """A model and a collator in float64, of images with so many regions of three categories."""
    generator = np.random.default_rng(seed)
    store = Store()
    for i, n in enumerate(counts):
        corner = generator.integers(0, 50, (n, 2))
        boxes = np.concatenate([corner, corner + generator.integers(1, 40, (n, 2))], 1).astype(np.float32)
        store[f"i{i}"] = Regions(generator.random((n, 6)).astype(np.float32), boxes, SIZE)
    vocabulary = Vocabulary.from_texts(TEXTS)
    queries = [Query(str(i), f"i{i}", TEXTS[i % 3], ((0.0, 0.0, 1.0, 1.0),)) for i in range(len(counts))]
    collator = ImageCollator(
        queries, store, vocabulary, category_columns=columns, geometry_columns=geometry, attributes=4
    )
    torch.manual_seed(seed)
    sizes = {"hidden": 4, "match_dim": 7, "decoder_dim": 5, "neighbours": 2, "attributes": 4}
    model = ARN(ARNConfig(**(sizes | settings)), 6, WordEmbedding(torch.randn(len(vocabulary), 3)), 3)
    for weights in model.parameters():
        if not weights.any():  # attention starts even
            torch.nn.init.normal_(weights)
    return model.double(), lambda rows: to_double(collator(rows))


def to_double(batch):
    for name in ("regions", "places", "boxes", "attributes"):
        setattr(batch, name, getattr(batch, name).double())
    return batch


def close(found, expected):
    """Offsets are in float32."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def lstm(module, rows, suffix=""):
    """States of an LSTM, gate by gate: input, forget, candidate, output."""
    state = cell = torch.zeros(module.hidden_size, dtype=torch.float64)
    weights = [getattr(module, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    found = []
    for row in rows:
        gates = weights[0] @ row + weights[2] + weights[1] @ state + weights[3]
        i, f, g, o = gates.chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        state = torch.sigmoid(o) * torch.tanh(cell)
        found.append(state)
    return found


def slow_phrases(model, words):
    encoder = model.phrases
    forward = lstm(encoder.lstm, words)
    backward = lstm(encoder.lstm, words[::-1], "_reverse")[::-1]
    logits = [encoder.attention.weight @ torch.cat(states) for states in zip(forward, backward, strict=True)]
    attention = torch.stack(logits).softmax(0)
    phrases = [sum(attention[n, m] * word for n, word in enumerate(words)) for m in range(3)]
    last = torch.cat([forward[-1], backward[0]])
    shares, least = (encoder.weight.weight @ last + encoder.weight.bias).softmax(0), model.config.least_weight
    return phrases, torch.stack([least + (1 - 3 * least) * share for share in shares])


def slow_neighbours(boxes, categories, among, i, k):
    def distance(j):
        return sum((boxes[i][d] + boxes[i][d + 2] - boxes[j][d] - boxes[j][d + 2]) ** 2 for d in (0, 1))

    found = naive.nearest(boxes, k, categories, among)[i]
    return sorted(found, key=lambda j: (distance(j), j))


def slow_scaled(module, *parts):
    unit = [part / max(1e-12, math.sqrt(sum(part.tolist()[c] ** 2 for c in range(len(part))))) for part in parts]
    return torch.cat(unit) * module.scale


def slow_places(model, batches):
    """Geometry columns and place of each region of each batch, standardised over all of them if the model does so."""
    rows = []
    for geometry, boxes in batches:
        w, h = SIZE
        for own, (x1, y1, x2, y2) in zip(geometry.tolist(), boxes, strict=True):
            rows.append([*own, x1 / w, y1 / h, x2 / w, y2 / h, (x2 - x1) * (y2 - y1) / (w * h)])
    columns = list(zip(*rows, strict=True))
    if model.config.standardise:
        columns = [[(v - statistics.mean(c)) / statistics.pstdev(c) for v in c] for c in columns]
    return torch.tensor(columns, dtype=torch.float64).T


def slow_features(model, regions, places, boxes, categories):
    """For each region its subject and its location feature, and its possible context features."""
    k, known = model.config.neighbours, categories is not None
    offset = lambda i, j: torch.tensor([float(v) for v in naive.offset(boxes[i], boxes[j])], dtype=torch.float64)  # noqa: E731
    found = []
    geometry, places = places[:, :-5], places[:, -5:]
    for i in range(len(boxes)):
        same = slow_neighbours(boxes, categories, "same" if known else "any", i, k)
        others = slow_neighbours(boxes, categories, "different_first" if known else "any", i, k)
        offsets = torch.cat([*(offset(i, j) for j in same), torch.zeros(5 * (k - len(same)), dtype=torch.float64)])
        location = slow_scaled(model.features[1], places[i], offsets)
        near = [slow_scaled(model.features[2], regions[j], geometry[j], offset(i, j)) for j in others]
        none = torch.zeros(len(model.features[2].scale), dtype=torch.float64)
        found.append((slow_scaled(model.features[0], regions[i], geometry[i]), location, near or [none]))
    return found


def slow_match(model, m, feature, phrase):
    match, query = model.matches[m], model.config.phrase_scale * phrase / phrase.norm()
    weight = torch.cat([match.feature.weight, match.phrase.weight], 1)
    hidden = torch.relu(weight @ torch.cat([feature, query]) + match.feature.bias)
    return float(match.score.weight[0] @ hidden)


def slow_scores(model, regions, places, boxes, categories, words):
    """Scores and the three features of each region of one image."""
    phrases, weights = slow_phrases(model, words)
    features = slow_features(model, regions, places, boxes, categories)
    chosen, matches = [], []
    for subject, location, near in features:
        heard = [slow_match(model, 2, feature, phrases[2]) for feature in near]
        chosen.append((subject, location, near[heard.index(max(heard))]))
        own = [slow_match(model, m, chosen[-1][m], phrases[m]) for m in (0, 1)]
        matches.append([*own, max(heard)])
    total = [sum(math.exp(row[m]) for row in matches) for m in range(3)]
    scores = [sum(float(weights[m]) * math.exp(row[m]) / total[m] for m in range(3)) for row in matches]
    return scores, chosen, phrases, weights


def items(model, batch, columns):
    """Regions, places, boxes, categories and words of each item."""
    counts = batch.structure.batch_num_nodes.tolist()
    regions, boxes, geometry = (x.split(counts) for x in (batch.regions, batch.boxes, batch.places[:, :-4]))
    boxes = [box.tolist() for box in boxes]
    places = slow_places(model, list(zip(geometry, boxes, strict=True))).split(counts)
    categories = [region[:, :columns].argmax(1).tolist() if columns else None for region in regions]
    words = [row[:length] for row, length in zip(batch.words, batch.word_lengths, strict=True)]
    return list(zip(regions, places, boxes, categories, words, strict=True))


@pytest.mark.parametrize(("columns", "geometry"), [(CATEGORIES, 0), (CATEGORIES, 2), (0, 2)])
@torch.no_grad()
def test_scores_and_features_are_those_of_the_equations(columns, geometry):
    model, collate = make([7, 1, 3, 2], columns, geometry, scale=3.0, phrase_scale=2.0, standardise=geometry > 0,
        least_weight=geometry / 10,
    )  # fmt: skip
    batch = collate([0, 1, 2, 3])
    model.fit([batch])
    found = model.match(batch)
    expected = [
        slow_scores(model, *item[:4], list(model.embedding(item[4][None])[0])) for item in items(model, batch, columns)
    ]
    close(found.scores, torch.tensor([s for e in expected for s in e[0]], dtype=torch.float64))
    for m in range(3):
        close(found.features[m], torch.stack([row[m] for e in expected for row in e[1]]))
    close(found.phrases, torch.stack([torch.stack(e[2]) for e in expected]))
    close(found.weights, torch.stack([e[3] for e in expected]))


@pytest.mark.parametrize(("content", "even"), [("start", 0.0), ("words", 0.75)])
@torch.no_grad()
def test_losses_are_those_of_the_equations(content, even):
    model, collate = make([7, 1, 3], scale=2.0, content=content)
    batch = collate([0, 1, 2])
    weights = ARNLossConfig(sentence=5.0, phrase=0.01, language=1.0, attribute=1.0, even=even)
    total, logged = ARNLoss(model, {"arn": weights}, torch.Generator())(batch)
    sums = dict.fromkeys(("sentence", "phrase", "language", "attribute"), 0.0)
    for number, (*item, words) in enumerate(items(model, batch, CATEGORIES)):
        vectors = list(model.embedding(words[None])[0])
        scores, features, phrases, shares = slow_scores(model, *item, vectors)
        mixed = [(1 - even) * k + even / len(scores) for k in scores]
        means = [sum(k * row[m] for k, row in zip(mixed, features, strict=True)) for m in range(3)]
        sums["sentence"] += slow_sentence(model.sentence_decoder, torch.cat(means), words, vectors)
        sums["language"] += slow_sentence(model.language_decoder, torch.cat(phrases), words, vectors)
        for m, decoder in enumerate(model.phrase_decoders):
            found = decoder.weight @ means[m] + decoder.bias
            sums["phrase"] += float(shares[m]) * sum((found - phrases[m]).tolist()[c] ** 2 for c in range(3))
        chances = torch.sigmoid(model.attribute.weight @ means[0] + model.attribute.bias).tolist()[:2]  # red, white
        named = ["red" in TEXTS[number], "white" in TEXTS[number]]
        right = [p if there else 1 - p for p, there in zip(chances, named, strict=True)]
        sums["attribute"] -= sum(map(math.log, right)) / len(right)
    for name, value in sums.items():
        assert float(logged[name]) == pytest.approx(value / 3, rel=1e-5)
    assert float(total) == pytest.approx(sum(getattr(weights, name) * value / 3 for name, value in sums.items()))


def slow_sentence(decoder, content, words, vectors):
    term = decoder.content.weight @ content
    if decoder.content.bias is None:
        first, added = torch.zeros_like(vectors[0]), term
    else:
        first, added = term + decoder.content.bias, 0
    losses = []
    for state, word in zip(lstm(decoder.lstm, [first, *vectors]), [*words.tolist(), 0], strict=True):
        losses.append(-float((decoder.word.weight @ state + decoder.word.bias + added).log_softmax(0)[word]))
    return sum(losses) / len(losses)


@torch.no_grad()
def test_a_batch_equals_its_items_and_scores_of_an_image_sum_to_one():
    model, collate = make([6, 1, 9])
    batch = collate([0, 1, 2])
    together = model(batch).split(batch.structure.batch_num_nodes.tolist())
    for place, scores in enumerate(together):
        torch.testing.assert_close(model(collate([place])), scores)
        assert float(scores.sum()) == pytest.approx(1)
        assert ((scores >= 0) & (scores <= 1)).all()


@torch.no_grad()
def test_the_order_of_regions_does_not_matter():
    model, collate = make([12])
    batch = collate([0])
    expected, order = model(batch), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for name in ("regions", "places", "boxes", "categories"):
        setattr(batch, name, getattr(batch, name)[order])
    torch.testing.assert_close(model(batch), expected[order])


@pytest.mark.parametrize("content", ["start", "words"])
def test_from_zero_no_region_is_preferred_before_the_decoder_has_learned(content):
    batch, started = make([6, 1, 9])[1]([0, 1, 2]), {}
    sentence = ARNLossConfig(phrase=0.0, language=0.0, attribute=0.0)
    for start in ("random", "zero"):
        torch.manual_seed(0)
        config = ARNConfig(hidden=4, decoder_dim=5, neighbours=2, attributes=4, content=content, content_start=start)
        model = started[start] = ARN(config, 6, WordEmbedding(torch.randn(12, 3)), 3).double()
        torch.nn.init.normal_(model.matches[0].score.weight)
        loss, logged = ARNLoss(model, {"arn": sentence}, torch.Generator())(batch)
        loss.backward()
        assert set(logged) == {"sentence"}
        gradients = [p.grad for part in (model.matches[0], model.features[0]) for p in part.parameters()]
        assert all(gradient.any() == (start == "random") for gradient in gradients)
        assert model.sentence_decoder.content.weight.grad.any()
    random, zero = (model.state_dict() for model in started.values())
    assert [name for name in random if not torch.equal(random[name], zero[name])] == ["sentence_decoder.content.weight"]


def test_every_weight_gets_a_gradient():
    model, collate = make([6, 1, 9])
    loss, _ = ARNLoss(model, {"arn": ARNLossConfig()}, torch.Generator())(collate([0, 1, 2]))
    loss.backward()
    weights = dict(model.named_parameters())
    weights.pop("embedding.unknown")  # no word is unknown
    assert not [name for name, p in weights.items() if p.grad is None or not p.grad.abs().sum() > 0]


@torch.no_grad()
def test_without_neighbours_regions_hear_of_none():
    for neighbours, hears in ((2, True), (0, False)):
        model, collate = make([5], neighbours=neighbours)
        batch = collate([0])
        before = model.match(batch).features
        batch.regions[1:] *= 2
        batch.boxes[1:] += 3
        after = model.match(batch).features
        assert torch.equal(before[1][0], after[1][0]) != hears
        assert torch.equal(before[2][0], after[2][0]) != hears
        assert bool(after[2].abs().sum() > 0) == hears


def test_contradictory_settings_are_refused():
    with pytest.raises(ConfigError, match="arn reconstructs from the parts of ARN; ign has no such parts"):
        load_config(None, ["train.objectives=[arn]"])
    with pytest.raises(ConfigError, match="mil pairs items with other sentences"):
        load_config("refcoco_arn", ["train.objectives=[mil]"])
