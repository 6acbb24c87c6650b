"""Evaluation where only the test data is, and on other data."""

import errno
import json
import logging
import shutil

import h5py
import numpy as np
import pytest

from relgrounding.cli.compare import compare
from relgrounding.config import ConfigError, load_config
from relgrounding.features import ClipFeatures, tokenize, write_clip_features
from relgrounding.runs import RunFolder
from relgrounding.training import Trainer, evaluate_run, make_task, with_data
from relgrounding.training import _evaluate as evaluation
from relgrounding.training import _run as runs
from relgrounding.viz import read_run
from tests.training.own import COLOURS, images, settings, videos
from tests.training.tiny import tool

evaluate = tool("evaluate").main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with pretrained vectors, its table, and a folder with nothing but its test data."""
    root = tmp_path_factory.mktemp("made")
    (root / "data").mkdir()
    data = videos(root / "data", True)
    words = "\n".join(f"{word} {number} 0.5" for number, word in enumerate(["the", "one", *COLOURS]))
    (data / "vectors.txt").write_text(words)
    config = settings(data, "vgn", "data.queries='{split}.jsonl'", "data.features=features.h5")
    config.data.root, config.data.word_vectors = str(data), "vectors.txt"
    trainer = Trainer(make_task(config), RunFolder(root / "run"), quiet=True)
    trainer.run()
    table = evaluate_run(trainer.task, trainer.folder, quiet=True)
    assert "constant" in table
    (root / "elsewhere").mkdir()
    shutil.copy(data / "test.jsonl", root / "elsewhere")
    store = ClipFeatures(data / "features.h5")
    write_clip_features(root / "elsewhere" / "features.h5", ((name, store[name]) for name in ("v10", "v11")))
    return root, table


@pytest.fixture
def run(made, tmp_path):
    root, table = made
    shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "data")
    return tmp_path / "copy", table


def test_a_run_is_evaluated_where_only_the_test_data_is(run, capsys):
    root, table = run
    assert evaluate([str(root / "run"), "--data", f"root={root}/elsewhere"]) == 0
    first, blank, *rest = capsys.readouterr().out.splitlines()
    assert first == f"demo, trained on own, read with root={root}/elsewhere:"
    assert (blank, "\n".join(rest)) == ("", table)


def test_results_of_other_data_do_not_replace_those_of_the_run(run, capsys):
    root, _ = run
    before = (root / "run" / "results.json").read_bytes()
    assert evaluate([str(root / "run"), "--write", "--data", f"root={root}/elsewhere"]) == 2
    assert "error: --write is for the data of the run, whose results it replaces" in capsys.readouterr().err
    assert (root / "run" / "results.json").read_bytes() == before


def test_results_of_other_data_are_kept_in_a_folder_that_is_read_like_a_run(run, capsys):
    root, table = run
    words = [str(root / "run"), "--data", f"root={root}/elsewhere", "--explain", "--out", str(root / "kept")]
    before = {path.name: path.read_bytes() for path in (root / "run").iterdir() if path.is_file()}
    assert evaluate(words) == 0
    assert capsys.readouterr().out.endswith(table + "\n")
    assert {path.name: path.read_bytes() for path in (root / "run").iterdir() if path.is_file()} == before
    kept, own = read_run(root / "kept"), read_run(root / "run")
    assert (kept.name, kept.config.name, kept.config.data.root) == ("kept", "kept", f"{root}/elsewhere")
    assert (kept.origin, kept.log) == (own.origin, own.log)
    assert [one.top for one in kept.predictions] == [one.top for one in own.predictions]
    assert any(one.neighbours for one in kept.predictions)
    assert {name for one in compare([kept], [own]) for name in one.kinds} == {"all", "other"}
    assert all(one.kinds["all"].mean == 0 for one in compare([kept], [own]))
    assert evaluate(words) == 2
    assert "kept is not empty, it holds config.yaml; name a new folder" in capsys.readouterr().err
    assert evaluate([*words, "--write"]) == 2


def test_what_could_not_be_written_whole_leaves_nothing_for_another_try(run, capsys, monkeypatch):
    root, _ = run
    words = [str(root / "run"), "--data", f"root={root}/elsewhere", "--out", str(root / "kept")]

    def full(path, _):
        assert {"config.yaml", "predictions.jsonl"} <= {one.name for one in path.parent.iterdir()}
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "write_results", full)
        assert evaluate(words) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (root / "kept").exists()
    (root / "kept").mkdir()
    assert evaluate([*words, "--split", "nosuch"]) == 2
    assert not list((root / "kept").iterdir())  # a folder that was there stays
    assert evaluate(words) == 0


def test_what_somebody_else_wrote_meanwhile_is_kept(run, capsys, monkeypatch):
    root, _ = run
    score_run = runs.score_run

    def meanwhile(*args, **kwargs):
        (root / "kept" / "config.yaml").write_text("name: other\n")
        return score_run(*args, **kwargs)

    monkeypatch.setattr(runs, "score_run", meanwhile)
    assert evaluate([str(root / "run"), "--data", f"root={root}/elsewhere", "--out", str(root / "kept")]) == 2
    assert "kept is not empty, it holds config.yaml; name a new folder" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in (root / "kept").iterdir()] == [("config.yaml", "name: other\n")]


def test_explanations_are_added_to_the_predictions_when_asked_for(run, capsys, monkeypatch):
    root, table = run
    shutil.copytree(root / "elsewhere", root / "data")
    assert evaluate([str(root / "run"), "--explain"]) == 2
    assert "error: --explain adds to predictions.jsonl, which" in capsys.readouterr().err

    def lines():
        return [json.loads(line) for line in (root / "run" / "predictions.jsonl").read_text().splitlines()]

    before = lines()
    assert evaluate([str(root / "run"), "--write", "--explain"]) == 0
    assert capsys.readouterr().out.strip() == table.strip()
    after = lines()
    for old, line in zip(before, after, strict=True):
        why = line.pop("explanation")
        assert line == old
        assert [word for word, _ in why["attention"]] == tokenize(line["text"])[:20]
        assert why["neighbours"] == sorted(why["neighbours"], key=lambda said: -said["weight"])
    assert evaluate([str(root / "run"), "--write"]) == 0
    assert lines() == before


def test_a_run_without_kept_floors_fits_them_again_or_goes_without(made, run, capsys, caplog):
    root, table = run
    (root / "run" / evaluation.FLOORS).unlink()
    assert evaluate([str(root / "run"), "--data", f"root={root}/elsewhere"]) == 0
    assert "constant" not in capsys.readouterr().out
    assert "has no floors.json: the table lacks the floor of constant segments" in caplog.text
    shutil.copytree(made[0] / "run", root / "old")
    (root / "old" / evaluation.FLOORS).unlink()
    assert evaluate([str(root / "old")]) == 0
    assert capsys.readouterr().out.strip() == table
    assert evaluate([str(root / "old"), "--write"]) == 0
    assert (root / "old" / evaluation.FLOORS).read_bytes() == (made[0] / "run" / evaluation.FLOORS).read_bytes()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"constant": [1]}', '{"constant": {"mIoU": 3}}', '{"constant": {"mIoU": [[0, 1]]}}']
)
def test_damaged_floors_are_named(run, capsys, content):
    root, _ = run
    (root / "run" / evaluation.FLOORS).write_text(content)
    assert evaluate([str(root / "run"), "--data", f"root={root}/elsewhere"]) == 2
    assert "floors.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("word_vectors=a.txt", "an evaluation does not read data.word_vectors: the vectors are in the checkpoint"),
        ("validation=0.5", "an evaluation does not read data.validation: it is about training"),
        ("dataset=refcoco", "model.name is vgn, but refcoco needs arn, ign"),
        ("feature=a.h5", "--data feature=a.h5: give KEY=VALUE, where KEY is one of dataset, root, on_error"),
        ("root", "--data root: give KEY=VALUE"),
        ("widths=[", "'data.widths=['"),
        (
            "features=wide.h5",
            "wide.h5: features of width 7, but the run was trained on width 3; take the features from",
        ),
        ("features=none.h5", "none.h5 exists; relgrounding prepare features makes one"),
    ],
)
def test_data_that_does_not_fit_is_refused(run, capsys, change, message):
    root, _ = run
    write_clip_features(root / "elsewhere" / "wide.h5", [("v10", np.ones((3, 7)))])
    assert evaluate([str(root / "run"), "--data", f"root={root}/elsewhere", "--data", change]) == 2
    assert message in capsys.readouterr().err


def test_lengths_of_the_test_data_are_compared(run, capsys):
    root, _ = run
    lines = (root / "elsewhere" / "test.jsonl").read_text().replace('"duration": 8.0', '"duration": 80')
    (root / "elsewhere" / "test.jsonl").write_text(lines)
    with h5py.File(root / "elsewhere" / "features.h5", "a") as file:
        file["v11"].attrs["duration"] = 8.0
    assert evaluate([str(root / "run"), "--data", f"root={root}/elsewhere"]) == 2
    assert "disagree about 1 of 2 videos: 'v11' is 8 s long in the features and 80 s" in capsys.readouterr().err


def test_a_run_on_images_is_evaluated_on_another_feature_file(tmp_path, capsys):
    images(tmp_path)
    folder = RunFolder(tmp_path / "run")
    trainer = Trainer(make_task(settings(tmp_path, "ign")), folder, quiet=True)
    trainer.run()
    table = evaluate_run(trainer.task, folder, quiet=True)
    assert not (tmp_path / "run" / evaluation.FLOORS).exists()
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "features.h5").rename(tmp_path / "others.h5")
    assert evaluate([str(tmp_path / "run"), "--data", f"features={tmp_path}/others.h5"]) == 0
    assert capsys.readouterr().out.endswith(table + "\n")
    lines = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    (tmp_path / "hard.jsonl").write_text("\n".join(json.dumps(line | {"box": [4, 4, 9, 9]}) for line in lines))
    (tmp_path / "others.h5").rename(tmp_path / "features.h5")
    assert evaluate([str(tmp_path / "run"), "--split", "hard"]) == 0
    assert "own, split hard" in capsys.readouterr().out


def test_settings_of_the_data_alone_change():
    config = load_config(None, ["seed=3", "model.hidden=8"])
    changed = with_data(config, ["max_words=5", "test_splits=[val]"])
    assert (changed.data.max_words, changed.data.test_splits, changed.seed) == (5, ["val"], 3)
    assert (config.data.max_words, config.data.test_splits) == (20, ["test"])
    assert with_data(config, []) == config
    with pytest.raises(ConfigError, match="max_words"):
        with_data(config, ["max_words=many"])


def test_nothing_is_logged_of_a_whole_run(made, capsys, caplog):
    root, table = made
    with caplog.at_level(logging.WARNING):
        assert evaluate([str(root / "run")]) == 0
    assert capsys.readouterr().out.strip() == table
    assert not caplog.records
