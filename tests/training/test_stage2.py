import json

import pytest
import torch

from relgrounding.config import ConfigError, load_config
from relgrounding.runs import RunError, RunFolder
from relgrounding.training import Trainer, make_task
from tests.training.tiny import same, tiny_config, tool, train, train_until

train_tool = tool("train")
STAGES = ["train.epochs=1", "ccl.epochs=2", "ccl.bank_size=50", "ccl.edges=rewired"]


def test_stage_2_follows_from_the_best_epoch_of_stage_1(tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = train(folder, *STAGES, "train.log_every=1")
    assert trainer.state["epoch"] == 3
    assert trainer.state["stage"] == 2
    alone = RunFolder(tmp_path / "alone")
    train(alone, "train.epochs=1")
    assert same(folder.load("mil.pt")["model"], alone.load("best.pt")["model"])
    assert not same(folder.load("best.pt")["model"], folder.load("mil.pt")["model"])
    lines = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "ccl/feature/ranking" in line]
    assert {line["epoch"] for line in logged} == {1, 2}
    # The learning rate of stage 2 warms up anew.
    assert logged[0]["learning_rate"] == pytest.approx(tiny_config().ccl.learning_rate / 3)


def test_stage_2_from_another_run_takes_its_weights_and_words(tmp_path, capsys):
    first = RunFolder(tmp_path / "first")
    train(first, "train.epochs=1")
    words = [*STAGES, f"ccl.start_from={first.path}"]
    trainer = Trainer(make_task(tiny_config(*words)), RunFolder(tmp_path / "second"), quiet=True)
    assert same(trainer.model.state_dict(), first.load("best.pt")["model"])
    trainer.run()
    assert trainer.state["epoch"] == 2
    saved = first.load("best.pt")
    first.save("best.pt", saved | {"vocabulary": saved["vocabulary"][::-1]})
    with pytest.raises(RunError, match="was trained with another vocabulary"):
        Trainer(make_task(tiny_config(*words)), RunFolder(tmp_path / "third"), quiet=True)
    first.save("best.pt", saved)
    with pytest.raises(RunError, match="the weights do not match the model that model"):
        Trainer(make_task(tiny_config(*words, "model.hidden=4")), RunFolder(tmp_path / "fourth"), quiet=True)
    assert train_tool.main(["--runs", str(tmp_path), "ccl.epochs=1", f"ccl.start_from={tmp_path / 'none'}"]) == 2
    assert "does not exist" in capsys.readouterr().err


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in (1, 6, 8, 13)]


@pytest.mark.parametrize("stop_after", [5, *SLOW])
def test_an_interrupted_run_of_both_stages_equals_one_that_is_not(tmp_path, monkeypatch, stop_after):
    words = [*STAGES, "model.dropout=0.2"]
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert train(whole, *words).state["step"] > stop_after
    train_until(monkeypatch, stop_after, folder, *words)
    train(folder, *words, resume=True)
    assert same(whole.load("last.pt")["model"], folder.load("last.pt")["model"])
    for bank in ("features", "language"):
        one, other = (f.load("last.pt")["objectives"]["ccl"][bank] for f in (whole, folder))
        assert torch.equal(one["rows"], other["rows"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ccl.critical=0"], "ccl.critical is 0.0; it must be above 0"),
        (["ccl.bank_size=1"], "ccl.bank_size is 1; it must be from 2 to "),
        (["ccl.margin=0.1", "ccl.feature_weight=-1"], r"ccl.feature_weight is -1.0; it must be 0 or more"),
        (["ccl.epochs=1", "model.relation=none"], "needs a relation module; set it to 0"),
        (["ccl.epochs=1", "ccl.edges=retyped", "model.name=vgn", "data.dataset=charades_sta"], "vgn has one type"),
        (
            [
                "ccl.epochs=1",
                *(f"ccl.{w}_weight=0" for w in ("mil", "feature", "interaction", "relation")),
            ],
            "ccl: every weight is 0",
        ),
    ],
)
def test_settings_that_no_stage_2_can_use_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, words)
