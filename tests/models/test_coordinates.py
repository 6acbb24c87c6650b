"""Standardised and hidden coordinates, from the training split to a restored checkpoint."""

import numpy as np
import pytest
import torch

from relgrounding import Grounder
from relgrounding.config import ConfigError
from relgrounding.models._coordinates import Standardise
from relgrounding.predictor import untrained
from relgrounding.runs import RunFolder
from relgrounding.training import Trainer, evaluate, make_task
from tests.training.tiny import tiny_config, train

SEES = ["model.standardise=true", "data.geometry_columns=3"]


def _model(*words):
    torch.manual_seed(0)
    return untrained(tiny_config(*words), 64, 30)


@pytest.mark.parametrize("centre", [0.0, 1e4])
def test_columns_get_mean_0_and_deviation_1_and_constant_ones_only_move(centre):
    generator = np.random.default_rng(0)
    rows = generator.normal(centre, [1e-2, 1.0, 50.0], (501, 3)).astype(np.float32)
    rows = np.concatenate([rows, np.full((501, 1), 0.1, np.float32), np.zeros((501, 1), np.float32)], 1)
    module = Standardise(7)
    module.fit(iter(torch.from_numpy(rows).split(100)))
    exact = rows.astype(np.float64)
    deviation = exact.std(0)
    deviation[3:] = 1
    torch.testing.assert_close(module.mean[2:].double(), torch.from_numpy(exact.mean(0)), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(module.deviation[2:].double(), torch.from_numpy(deviation), rtol=1e-6, atol=0)
    assert module.mean[:2].tolist() == [0, 0]
    assert module.deviation[:2].tolist() == [1, 1]


def test_a_model_that_does_not_standardise_has_nothing_of_it_in_its_checkpoint():
    assert not [name for name in _model().state_dict() if "standardise" in name]


def test_each_training_image_counts_once_whatever_the_number_of_its_queries(tmp_path):
    task = make_task(tiny_config(*SEES))
    model = Trainer(task, RunFolder(tmp_path / "run"), quiet=True).model
    places = []
    for item in dict.fromkeys(query.item for query in task.train.queries):
        regions = task.train.store[item]
        size = np.array(regions.size * 2, np.float64)
        corners = regions.boxes.astype(np.float64)
        extent = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1) / size
        places.append(np.concatenate([regions.features[:, -3:], extent], 1))
    exact = torch.from_numpy(np.concatenate(places))
    torch.testing.assert_close(model.standardise.mean[-7:].double(), exact.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.standardise.deviation[-7:].double(), exact.std(0, correction=0), rtol=1e-5, atol=0)
    batch = task.collator(task.train)([0, 1])
    expected = torch.cat([batch.regions, (batch.places - exact.mean(0)) / exact.std(0, correction=0)], 1).float()
    torch.testing.assert_close(model.encode(batch).proposals, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("words", [["model.hide=[geometry]"], ["model.hide=[geometry]", "model.standardise=true"]])
def test_hidden_geometry_changes_no_score(words):
    words = [*words, "data.geometry_columns=3"]
    task = make_task(tiny_config(*words))
    batch = task.collator(task.train)([0, 1, 2])
    model = untrained(task.config, task.feature_dim, len(task.vocabulary))
    before = model(batch)
    batch.places = torch.rand_like(batch.places)
    assert torch.equal(model(batch), before)
    batch.regions = torch.rand_like(batch.regions)
    assert not torch.equal(model(batch), before)


def test_there_is_nothing_else_to_hide():
    with pytest.raises(ConfigError, match=r"model\.hide: 'colour' is not an input; it can hide geometry"):
        tiny_config("model.hide=[colour]")


def test_a_restored_run_answers_alike_without_its_training_data(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    trainer = train(folder, *SEES, "name=run", "train.epochs=1")
    monkeypatch.setattr("relgrounding.models.ign.IGN.fit", None)
    table = evaluate(folder.path, quiet=True)
    test = trainer.task.test("test")
    grounder = Grounder.from_run(folder.path)
    assert grounder.model.standardise.mean[-7:].abs().min() > 0
    scored = trainer.task.predictor(grounder.model).score(test.queries[:4], test.store, {}, quiet=True)
    for query, scores in zip(test.queries[:4], scored.scores, strict=True):
        regions = test.store[query.item]
        arrays = {"features": regions.features, "boxes": regions.boxes, "image_size": regions.size}
        answer = grounder.ground(query.text, **arrays)[0]
        assert answer.score == pytest.approx(scores.max().item(), rel=1e-5)
    assert table.results[0]["queries"] == len(test.queries)
