import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import relgrounding
from relgrounding.config import ConfigError
from relgrounding.runs import RunError, RunFolder, hold_run
from relgrounding.training import Trainer, evaluate_run, train_run
from tests.evaluation.recount import recount
from tests.training.tiny import TINY, same, tiny_config, tool, train, train_until

ROOT = Path(__file__).parent.parent.parent


train_tool, evaluate_tool = tool("train"), tool("evaluate")


def _weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return folder.load("last.pt")["model"]


def test_a_run_leaves_what_it_promises(tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = train(folder)
    table = evaluate_run(trainer.task, folder, quiet=True)
    assert {p.name for p in folder.path.iterdir()} >= {
        "config.yaml", "log.jsonl", "last.pt", "best.pt", "results.json", "predictions.jsonl", "tensorboard"
    }  # fmt: skip
    (entry,) = json.loads((folder.path / "results.json").read_text())
    assert set(entry) == {
        "dataset", "protocol", "split", "model", "queries", "metrics", "floors", "oracle", "seed", "seconds"
    }  # fmt: skip
    predictions = [json.loads(line) for line in (folder.path / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == entry["queries"] == 4
    assert all(p["size"] == [640, 480] for p in predictions)
    assert folder.read_origin().keys() >= {"date", "relgrounding", "torch"}
    assert folder.read_origin()["device"] == "cpu"
    hits = [p["top"][0]["proposal"] == pytest.approx(p["targets"][0], abs=0.01) for p in predictions]
    assert entry["metrics"]["Acc@0.5"] == pytest.approx(100 * sum(hits) / len(hits))
    ((written, again),) = recount(folder.path)
    assert written == again
    for name in ("random", "largest", "oracle", "ign"):
        assert name in table
    steps = [json.loads(line)["step"] for line in (folder.path / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert folder.read_config() == tiny_config()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(RunFolder(tmp_path / name), f"seed={seed}", "model.dropout=0.2")
    a, b, c = (_weights(RunFolder(tmp_path / name)) for name in "abc")
    assert same(a, b)
    assert not same(a, c)


RECONSTRUCTION = ["train.objectives=[mil,reconstruction]", "reconstruction.width=8"]
BLOCKS = ["data.block_by=sentence", "data.block_size=4", "mil.hard_negatives=1"]


SLOW = [
    pytest.param(*values, marks=pytest.mark.slow)
    for values in ((1, []), (4, []), (5, []), (9, []), (7, RECONSTRUCTION))
]


@pytest.mark.parametrize(("stop_after", "more"), [(7, BLOCKS), *SLOW])
def test_a_run_that_is_interrupted_and_resumed_equals_one_that_is_not(tmp_path, monkeypatch, stop_after, more):
    words = ["model.dropout=0.2", "mil.negatives=2", *more]
    train(RunFolder(tmp_path / "whole"), *words)
    folder = RunFolder(tmp_path / "parts")
    train_until(monkeypatch, stop_after, folder, *words)
    assert folder.load("last.pt")["state"]["step"] == stop_after
    train(folder, *words, resume=True)
    assert same(_weights(RunFolder(tmp_path / "whole")), _weights(folder))
    found = [
        run.load("last.pt")["objectives"].get("reconstruction", {}) for run in (RunFolder(tmp_path / "whole"), folder)
    ]
    assert all(same(found[0][part], found[1][part]) for part in found[0])
    assert bool(found[0]) == (more is RECONSTRUCTION)


def test_a_finished_run_resumed_changes_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(folder)
    before = _weights(folder)
    train(folder, resume=True)
    assert same(before, _weights(folder))


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(folder)
    with pytest.raises(RunError, match="continue it with --resume, replace it with --overwrite"):
        train(folder)
    with pytest.raises(RunError, match=r"last\.pt does not exist"):
        train(RunFolder(tmp_path / "other"), resume=True)


def test_kernels_that_cannot_run_here_are_refused_before_the_run_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("relgrounding.training._task.available_backends", lambda: {"triton": "there is no GPU"})
    with pytest.raises(ConfigError, match="backend is triton, which cannot run here: there is no GPU"):
        train(RunFolder(tmp_path / "run"), "backend=triton")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_not_trained_into(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").touch()
    (tmp_path / "run" / "thesis.txt").touch()
    with pytest.raises(RunError, match=r"run holds thesis\.txt and is not a run; give this run another name"):
        train(RunFolder(tmp_path / "run"))
    (tmp_path / "run" / "thesis.txt").unlink()
    train(RunFolder(tmp_path / "run"), "train.epochs=1")


def test_a_configuration_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("mine: 1\n")
    with pytest.raises(RunError, match=r"run holds config\.yaml and is not a run"):
        train_run(tiny_config(), RunFolder(tmp_path / "run"), quiet=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
    assert (tmp_path / "run" / "config.yaml").read_text() == "mine: 1\n"
    (tmp_path / "run" / ".lock").touch()
    with pytest.raises(RunError, match=r"\.lock was not written by this program"):
        train_run(tiny_config(), RunFolder(tmp_path / "run"), quiet=True)
    assert (tmp_path / "run" / ".lock").read_bytes() == b""


@pytest.mark.parametrize("resume", [False, pytest.param(True, marks=pytest.mark.slow), "auto"])
def test_what_is_left_of_a_run_without_its_last_checkpoint_is_not_replaced(tmp_path, resume):
    run = relgrounding.train(tiny_config(), runs=tmp_path, quiet=True)
    relgrounding.evaluate(run, out=tmp_path / "answers", quiet=True)
    (run.path / "last.pt").unlink()
    for folder in (run.path, tmp_path / "answers"):
        config = tiny_config(f"name={folder.name}", "seed=1")
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
        copied = "copy best.pt there to continue from its epoch, " if folder == run.path else ""
        with pytest.raises(
            RunError, match=rf"of a run, but last\.pt does not exist; {copied}replace it all with --over"
        ):
            relgrounding.train(config, runs=tmp_path, resume=resume, quiet=True)
        assert all(path.read_bytes() == content for path, content in before.items())
        if not resume:
            again = relgrounding.train(config, runs=tmp_path, overwrite=True, quiet=True)
            assert again.config.seed == 1


def test_a_run_that_was_killed_before_its_first_checkpoint_starts(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with hold_run(folder):
        folder.write_config(tiny_config())
        folder.rewind(0, 0)
    assert relgrounding.train(tiny_config(), runs=tmp_path, resume="auto", quiet=True).results


def test_training_stops_early_when_the_validation_metric_does_not_rise(tmp_path, monkeypatch):
    metric = iter([50.0, 40.0, 45.0, 90.0])
    monkeypatch.setattr(
        "relgrounding.training._trainer.validation_metrics", lambda *_, **__: ("Acc@0.5", {"Acc@0.5": next(metric)})
    )
    trainer = train(RunFolder(tmp_path / "run"), "train.epochs=10", "train.patience=2")
    assert (trainer.state["epoch"], trainer.state["best_epoch"], trainer.state["best"]) == (3, 1, 50.0)
    assert RunFolder(tmp_path / "run").load("best.pt")["state"]["epoch"] == 1


def test_without_selection_the_last_epoch_is_the_best(tmp_path, monkeypatch):
    metric = iter([50.0, 40.0, 45.0])
    monkeypatch.setattr(
        "relgrounding.training._trainer.validation_metrics", lambda *_, **__: ("Acc@0.5", {"Acc@0.5": next(metric)})
    )
    trainer = train(RunFolder(tmp_path / "run"), "train.epochs=3", "train.patience=1", "train.select_metric=last")
    assert (trainer.state["epoch"], trainer.state["best_epoch"]) == (3, 3)
    assert RunFolder(tmp_path / "run").load("best.pt")["state"]["epoch"] == 3


def test_the_tools_train_and_repeat_the_table(tmp_path, capsys):
    arguments = [*TINY, "name=t", "--runs", str(tmp_path)]
    assert train_tool.main(arguments) == 0
    first = capsys.readouterr().out
    assert train_tool.main(arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert evaluate_tool.main([str(tmp_path / "t")]) == 0
    assert capsys.readouterr().out.splitlines()[-5:] == first.splitlines()[-5:]
    assert train_tool.main(["train.epoch=1"]) == 2
    assert "the nearest one is 'train.epochs'" in capsys.readouterr().err
    assert evaluate_tool.main([str(tmp_path / "nothing")]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_ctrl_c_keeps_the_state_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(self, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", interrupted)
    assert train_tool.main([*TINY, "name=t", "--runs", str(tmp_path)]) == 130
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "t" / "last.pt").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_every_tool_explains_itself(path):
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout
    assert "python tools/" in done.stdout
