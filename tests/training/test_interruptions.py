"""A run that is stopped anywhere and resumed ends as one that was never stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from relgrounding import predictor
from relgrounding.objectives import MIL
from relgrounding.runs import RunFolder
from relgrounding.training import _trainer
from tests.reliability.outcome import differences, outcome
from tests.training.stopping import at, config_file, run, stop
from tests.training.tiny import tiny_words

ROOT = Path(__file__).parents[2]
STAGES = ["train.epochs=1", "ccl.epochs=2", "ccl.bank_size=50", "ccl.edges=rewired"]
ROUNDS = ["train.epochs=1", "cotrain.epochs=1", "cotrain.hide=[]", "cotrain.student=[dropout=0.2]"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    runs = tmp_path_factory.mktemp("whole")
    assert run(runs) == 0
    return outcome(runs / "run")


@pytest.fixture(scope="module")
def whole_stages(tmp_path_factory):
    runs = tmp_path_factory.mktemp("stages")
    assert run(runs, *STAGES) == 0
    return outcome(runs / "run")


# 8 steps and 4 batches of validation an epoch; the place, the call of it, the signal, and the step of the checkpoint.
PLACES = {
    "validation of epoch 2": (predictor, "look", 6, signal.SIGTERM, 16),
    "validation of the last epoch": (predictor, "look", 22, signal.SIGHUP, 48),
    "after the optimizer's step": (torch.optim.Adam, "step", 13, signal.SIGUSR1, 13),
    "between forward and backward": (MIL, "__call__", 13, signal.SIGUSR2, 13),
    "while best.pt or last.pt is written": (RunFolder, "save", 5, signal.SIGINT, None),
    "between two epochs": (_trainer.Trainer, "_finish_epoch", 3, signal.SIGTERM, 24),
    "the end of the last epoch": (_trainer.Trainer, "_finish_epoch", 6, signal.SIGTERM, 48),
    "final evaluation": (predictor, "look", 26, signal.SIGTERM, 48),
    "before the first step": (_trainer.Trainer, "_epoch", 1, signal.SIGTERM, 0),
}


QUICK = "between forward and backward", "while best.pt or last.pt is written"
"""Places of the default run; the others are slow."""
SLOW = [pytest.param(place, marks=pytest.mark.slow) for place in PLACES if place not in QUICK]


@pytest.mark.parametrize("place", [*QUICK, *SLOW])
def test_a_signal_at_a_place(whole, tmp_path, monkeypatch, capsys, place):
    owner, name, nth, number, step = PLACES[place]
    before = place == "before the first step"
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at(getattr(owner, name), nth, stop(number), before))
        assert run(tmp_path) == 128 + number
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"stopped by {signal.Signals(number).name}; the same command with --resume continues from step"
    )
    if step is not None:
        assert f"step {step}," in last
    assert run(tmp_path, "--resume") == 0
    assert differences(whole, outcome(tmp_path / "run")) == []


class Killed(BaseException):
    """Ends a process as SIGKILL does: nothing is written any more."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(
    ("owner", "name", "nth", "before"),
    [
        pytest.param(torch.optim.Adam, "step", 13, False, marks=pytest.mark.slow),
        # The last line of epoch 1; then its own.
        pytest.param(RunFolder, "log", 3, False, marks=pytest.mark.slow),
        pytest.param(RunFolder, "log", 6, False, marks=pytest.mark.slow),
        (RunFolder, "save", 4, False),  # best.pt or last.pt of epoch 2 is there, and nothing after it
        pytest.param(RunFolder, "save", 5, False, marks=pytest.mark.slow),
        pytest.param(RunFolder, "save", 5, True, marks=pytest.mark.slow),
    ],
)
def test_a_process_that_died_at_a_place(whole, tmp_path, monkeypatch, owner, name, nth, before):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at(getattr(owner, name), nth, kill, before))
        with pytest.raises(Killed):
            run(tmp_path)
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"step": 9')
    (tmp_path / "run" / ".last.pt.01234567.part").write_bytes(b"half")
    assert run(tmp_path, "--resume") == 0
    assert differences(whole, outcome(tmp_path / "run")) == []


def stopped_and_resumed(runs, monkeypatch, words, owner, name, nth, act):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at(getattr(owner, name), nth, act))
        if act is kill:
            with pytest.raises(Killed):
                run(runs, *words)
        else:
            assert run(runs, *words) == 143
    assert run(runs, *words, "--resume") == 0
    return outcome(runs / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        (RunFolder, "keep", 1, kill),  # mil.pt is there, stage 2 is not begun
        (_trainer.Trainer, "_begin_stage", 2, kill),
        (torch.optim.Adam, "step", 13, stop(signal.SIGTERM)),
        (RunFolder, "save", 4, kill),
    ],
)
def test_both_stages(whole_stages, tmp_path, monkeypatch, place):
    assert differences(whole_stages, stopped_and_resumed(tmp_path, monkeypatch, STAGES, *place)) == []


@pytest.fixture(scope="module")
def whole_rounds(tmp_path_factory):
    runs = tmp_path_factory.mktemp("rounds")
    assert run(runs, *ROUNDS) == 0
    return outcome(runs / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        (RunFolder, "keep", 2, kill),  # cotrain-1.pt is there, the second round is not begun
        (_trainer.Trainer, "_begin_stage", 3, kill),
        (torch.optim.Adam, "step", 21, stop(signal.SIGTERM)),
    ],
)
def test_rounds_of_co_training(whole_rounds, tmp_path, monkeypatch, capsys, place):
    assert differences(whole_rounds, stopped_and_resumed(tmp_path, monkeypatch, ROUNDS, *place)) == []
    capsys.readouterr()
    assert run(tmp_path, *ROUNDS, "--resume") == 0
    # The epochs of all rounds are one setting, and the first round cannot go on.
    assert re.search(r"is finished, with its results, after \d epochs$", capsys.readouterr().out)


def test_a_finished_run_says_so_and_changes_nothing(tmp_path, capsys):
    words = ["train.epochs=1", "train.patience=1"]
    assert run(tmp_path, *words) == 0
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "run").rglob("*")}
    capsys.readouterr()
    assert run(tmp_path, *words, "--resume", "data.workers=1") == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "is finished, with its results, after 1 epoch; to go on, raise train.epochs or ccl.epochs or" in said
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "run").rglob("*")} == before


def test_auto_starts_a_run_continues_it_and_leaves_it_alone(whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", at(torch.optim.Adam.step, 13, stop(signal.SIGTERM)))
        assert run(tmp_path, "--resume", "auto") == 143
    assert run(tmp_path, "--resume", "auto") == 0
    assert differences(whole, outcome(tmp_path / "run")) == []
    capsys.readouterr()
    assert run(tmp_path, "--resume", "auto") == 0
    assert "is finished, with its results" in capsys.readouterr().out


def test_more_epochs_train_on_and_other_settings_are_refused(tmp_path, capsys):
    assert run(tmp_path, "train.epochs=1") == 0
    first = outcome(tmp_path / "run")
    assert run(tmp_path, "--resume", "train.epochs=1", "train.learning_rate=0.5", "seed=3", "train.patience=2") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    for part in ("train.learning_rate is 0.001 there and 0.5 here", "seed is 0 there and 3 here", "(it may rise)"):
        assert part in said
    assert differences(first, outcome(tmp_path / "run")) == []
    assert run(tmp_path, "--resume", "train.epochs=2") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "epoch_loss" in line] == [8, 16]
    # The rate of the steps to come follows the new total.
    assert lines[-2]["learning_rate"] > 0
    assert RunFolder(tmp_path / "run").read_config().train.epochs == 2
    assert run(tmp_path, "--resume", "train.epochs=1") == 2
    assert "train.epochs is 2 there and 1 here (it may rise)" in capsys.readouterr().err


@pytest.mark.slow
def test_stage_2_goes_on_without_the_run_that_it_started_from(tmp_path):
    words = ["name=second", "ccl.bank_size=50", f"ccl.start_from={tmp_path / 'first'}"]
    assert run(tmp_path, "name=first", "train.epochs=1") == 0
    assert run(tmp_path, *words, "ccl.epochs=1") == 0
    shutil.rmtree(tmp_path / "first")
    assert run(tmp_path, *words, "ccl.epochs=2", "--resume") == 0
    assert RunFolder(tmp_path / "second").load("last.pt")["state"]["epoch"] == 2


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_is_resumed(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", at(torch.optim.Adam.step, 13, kill))
        with pytest.raises(Killed):
            run(tmp_path)
    folder = RunFolder(tmp_path / "run")
    saved = folder.load("last.pt")
    del saved["data"], saved["state"]["losses"], saved["state"]["stage"], saved["state"]["stage_start"]
    folder.save("last.pt", saved)
    assert run(tmp_path, "--resume") == 0
    assert differences(whole, outcome(tmp_path / "run")) == []


SCRIPT = """
import os, signal
from pathlib import Path
import torch
from tests.training.stopping import run, stop
from relgrounding._signals import run_command
save = torch.save
def twice(*args):
    if twice.calls == 2:
        stop(signal.SIGTERM)(); stop(signal.SIGINT)()
    twice.calls += 1
    save(*args)
twice.calls = 0
torch.save = twice
run_command(lambda: run(Path({runs!r})))
"""


@pytest.mark.slow
def test_two_signals_and_a_background_job(whole, tmp_path):
    """Real processes, both at once: they take their time to start."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    twice, behind = tmp_path / "twice", tmp_path / "behind"
    script = SCRIPT.format(runs=str(twice))
    first = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=environment)
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "--runs", str(behind), "train.epochs=100000"]
    command += ["--config", str(config_file(behind))]
    wait = f'"$@" & while ! grep -qs loss {behind}/run/log.jsonl; do sleep 0.05; done; kill -INT $!; wait $!'
    job = subprocess.run(
        ["sh", "-c", wait, "sh", *command], stderr=subprocess.PIPE, text=True, env=environment, timeout=100
    )
    assert job.returncode == 130
    assert "stopped by SIGINT; the same command with --resume" in job.stderr.splitlines()[-1]
    assert first.communicate(timeout=100)[1].splitlines()[-1].startswith("stopped at once by SIGINT; the same command")
    assert first.returncode == 130
    assert not list(twice.rglob("*.part"))
    assert run(twice, "--resume") == 0
    assert differences(whole, outcome(twice / "run")) == []


FAILS_IN_A_LOADING_PROCESS = """
from relgrounding import cli
from relgrounding.training import _trainer

def make_loader(collator, batches, workers):
    return made(type("Fails", (), {"queries": collator.queries, "__call__": fails})(), batches, workers)

def fails(*_):
    raise OSError(5, "vanished", "f.h5")

made, _trainer.make_loader = _trainer.make_loader, make_loader
cli.main_process()
"""


def test_an_error_in_a_loading_process_is_one_line_and_ends_the_command(tmp_path):
    words = ["train", "demo", *tiny_words("data.workers=2"), f"--runs={tmp_path}"]
    command = [sys.executable, "-c", FAILS_IN_A_LOADING_PROCESS, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    said = "error: [Errno 5] vanished: 'f.h5'; the same command with --resume continues from step 0"
    assert ended.stderr.splitlines()[-1].startswith(said)
