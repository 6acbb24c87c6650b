"""Reconstruction against a slow rendering of its equations, what it sees of hidden words, and what it finds alone."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relgrounding.config import ConfigError, load_config, model_name
from relgrounding.datasets import Query
from relgrounding.features import Regions, Vocabulary
from relgrounding.features.vocabulary import UNKNOWN
from relgrounding.modalities import ImageCollator
from relgrounding.models import IGN, IGNConfig
from relgrounding.nn import trained_embedding
from relgrounding.objectives import Reconstruction, ReconstructionConfig, draw_words
from tests.models.test_laws import _image, _video


def objective(model, seed: int = 0, **config) -> Reconstruction:
    sections = {"reconstruction": ReconstructionConfig(width=5, **config)}
    return Reconstruction(model, sections, torch.Generator().manual_seed(seed))


def in_float64(batch):
    return dataclasses.replace(
        batch,
        **{
            field.name: value.double()
            for field in dataclasses.fields(batch)
            if isinstance(value := getattr(batch, field.name), torch.Tensor) and value.is_floating_point()
        },
    )


def slow_loss(model, step: Reconstruction, collator, hidden: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss sentence by sentence, proposal by proposal, word by word."""
    total = torch.zeros((), dtype=torch.float64)
    decoder, table = step.decoder, model.embedding.weight
    for i in range(len(hidden)):
        whole = in_float64(collator([i]))
        places = [n for n in range(int(whole.word_lengths)) if hidden[i, n]]
        partial = dataclasses.replace(whole, words=whole.words.clone())
        for n in places:
            partial.words[0, n] = UNKNOWN
        odds = [np.log(k / (1 - k)) / temperature for k in model(whole).tolist()]
        weights = [np.exp(odd) / sum(np.exp(other) for other in odds) for odd in odds]
        proposals, states = model.encode(partial)
        contexts = model.interact(proposals, states, partial.word_lengths, partial.structure.node_item)
        features = model.represent(partial.structure, proposals, model.fuse(proposals, contexts))
        selected = sum(weight * feature for weight, feature in zip(weights, features, strict=True))
        for n in places:
            x = decoder.sentence.weight @ states[0, n] + decoder.sentence.bias + decoder.proposal.weight @ selected
            logits = table @ (decoder.output.weight @ x.clamp_min(0)) + decoder.bias
            total = total - torch.log(logits.exp()[whole.words[0, n]] / logits.exp().sum()) / len(places)
    return total / len(hidden)


@pytest.mark.parametrize("relation", ["graph", "none"])
@pytest.mark.parametrize(("make", "sizes"), [(_video, [6, 1, 9]), (_image, [3, 1, 7])])
def test_the_loss_is_that_of_its_equations(make, sizes, relation):
    torch.manual_seed(0)
    model, collator = make(relation, sizes)
    model.double()
    step = objective(model, weight=3.0, hidden_share=0.6, temperature=0.7, message_dropout=0.0)
    step.decoder.double()
    batch = in_float64(collator([0, 1, 2]))
    hidden = draw_words(batch.importance, 0.6, torch.Generator().manual_seed(0))
    loss, logged = step(batch)
    torch.testing.assert_close(loss, 3 * slow_loss(model, step, collator, hidden, 0.7))
    torch.testing.assert_close(logged["reconstruction/cross_entropy"] * 3, loss.detach())
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in step.parameters())
    # The score learns, and so do the messages.
    assert model.score.weight.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in model.relation.parameters() if p.grad is not None)


def test_nothing_but_the_choice_knows_the_hidden_words(monkeypatch):
    """With equal scores, sentences that differ in hidden words alone are the same to the decoder."""
    model, collator = _image("graph", [3, 4, 5])
    step = objective(model, hidden_share=1.0)
    seen = []
    monkeypatch.setattr(model, "pair", lambda structure, *_: torch.full((structure.num_nodes,), 0.5))
    monkeypatch.setattr(
        step.decoder, "forward", lambda *inputs: seen.append(inputs[:2]) or torch.zeros(len(inputs[0]), 9)
    )
    batch = collator([0, 1, 2])
    for words in (batch.words, torch.where(batch.words > 1, 9 - batch.words.clamp(max=7), batch.words)):
        step.generator.manual_seed(0)
        step(dataclasses.replace(batch, words=words))
    for first, second in zip(*seen, strict=True):
        assert torch.equal(first, second)


def test_unknown_words_are_not_predicted():
    model, collator = _image("none", [3, 4, 5])
    batch = collator([0, 1, 2])
    unknown = dataclasses.replace(batch, words=batch.words.clamp(max=UNKNOWN))
    loss, _ = objective(model)(unknown)
    assert loss == 0
    loss.backward()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0.01, 1), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_share_of_every_sentence_is_drawn_and_no_padding(lengths, share, seed):
    importance = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(importance, lengths, strict=True):
        row[:length] = torch.randint(1, 3, (length,), generator=torch.Generator().manual_seed(seed)).float()
    drawn = draw_words(importance, share, torch.Generator().manual_seed(seed))
    assert not drawn[importance == 0].any()
    assert drawn.sum(1).tolist() == [max(1, int(share * length + 0.5)) for length in lengths]


def test_words_are_drawn_by_importance_without_replacement():
    importance = torch.tensor([[2.0, 1.0, 1.0, 0.0]]).repeat(40_000, 1)
    drawn = draw_words(importance, 0.67, torch.Generator().manual_seed(0))
    assert (drawn.sum(1) == 2).all()
    # In order: first word with 1/2 and then a third each, or the others with 1/4 each and then 2/3 and 1/3.
    wanted = {(0, 1): 1 / 2 * 1 / 2 + 1 / 4 * 2 / 3, (1, 2): 2 * (1 / 4 * 1 / 3)}
    for (i, j), share in wanted.items():
        assert (drawn[:, i] & drawn[:, j]).float().mean().item() == pytest.approx(share, abs=0.01)


COLOURS = ["red", "blue", "green", "pink", "gray", "black", "white", "yellow"]


class _Store(dict):
    dim = len(COLOURS)


def _scenes(count: int, seed: int) -> tuple[ImageCollator, torch.Tensor]:
    """Images of four boxes of different colours, one of which is named, and which one it is."""
    generator = np.random.default_rng(seed)
    store, queries, targets = _Store(), [], generator.integers(0, 4, count)
    for i, target in enumerate(targets):
        colours = generator.permutation(len(COLOURS))[:4]
        corner = generator.integers(0, 60, (4, 2))
        boxes = np.concatenate([corner, corner + generator.integers(5, 40, (4, 2))], 1).astype(np.float32)
        store[str(i)] = Regions(np.eye(len(COLOURS), dtype=np.float32)[colours], boxes, (100, 100))
        queries.append(Query(str(i), str(i), COLOURS[colours[target]], ((0.0, 1.0),)))
    return ImageCollator(queries, store, Vocabulary(COLOURS)), torch.from_numpy(targets)


@pytest.mark.parametrize(("relation", "steps"), [("none", 120), pytest.param("graph", 400, marks=pytest.mark.slow)])
def test_reconstruction_alone_finds_the_right_region(relation, steps):
    torch.manual_seed(0)
    sizes = {"hidden": 12, "attention_dim": 12, "fusion_dim": 24, "relation_dim": 24, "position_dim": 4, "top_r": 1}
    embedding = trained_embedding(len(COLOURS) + 2, 12)
    model = IGN(IGNConfig(relation=relation, fusion="product", **sizes), len(COLOURS), embedding, 12)
    step = Reconstruction(
        model,
        {"reconstruction": ReconstructionConfig(hidden_share=1.0, width=24)},
        torch.Generator().manual_seed(0),
    )
    collator, _ = _scenes(400, 0)
    other, targets = _scenes(200, 1)
    unseen = other(range(200))

    def accuracy() -> float:
        with torch.no_grad():
            return (model(unseen).view(-1, 4).argmax(1) == targets).float().mean().item()

    assert accuracy() < 0.5
    optimizer = torch.optim.Adam([*model.parameters(), *step.parameters()], lr=0.01)
    for _ in range(steps):
        loss, _ = step(collator(torch.randint(0, 400, (32,), generator=step.generator).tolist()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert accuracy() > 0.9


def test_its_settings_and_its_name():
    config = load_config(None, ["train.objectives=[mil,reconstruction]", "reconstruction.weight=2"])
    assert config.reconstruction.weight == 2
    assert model_name(config) == "ign + reconstruction"
    with pytest.raises(ConfigError, match=r"reconstruction\.hidden_share is 0"):
        load_config(None, ["train.objectives=[mil,reconstruction]", "reconstruction.hidden_share=0"])
