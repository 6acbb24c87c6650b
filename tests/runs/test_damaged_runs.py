"""Checkpoints and logs that are not what they should be, and disks that take no more."""

import errno
import io
import json
import os
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from relgrounding import Grounder
from relgrounding._files import clear_parts, replacing
from relgrounding.io import UnsafeFile
from relgrounding.runs import RunError, RunFolder
from relgrounding.training import _trainer
from tests.reliability.outcome import differences, outcome, points
from tests.training.stopping import at, run
from tests.training.tiny import tool, train

train_tool, evaluate_tool, report_tool = tool("train"), tool("evaluate"), tool("report")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp("trained")
    assert run(runs, "train.epochs=2") == 0
    return runs / "run"


def _with(**changes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        saved = torch.load(io.BytesIO(content), weights_only=True) | changes
        return _saved({key: value for key, value in saved.items() if value is not None})

    return change


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _zip(_: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("letter.txt", "a zip of something else")
    return buffer.getvalue()


def _flipped(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max((archive.read(name) for name in archive.namelist()), key=len)
    at = content.index(largest) + len(largest) // 2
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


DAMAGE = {
    "one byte of a tensor": _flipped,
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(range(256)) * 20,
    "text": lambda content: b"not a checkpoint\n",
    "a zip": _zip,
    "a list": lambda content: _saved([1, 2]),
    "no model": _with(model=None),
    "no words": _with(vocabulary=None),
    "numbers for words": _with(vocabulary=[1, 2]),
    "text for tensors": _with(model={"a": "b"}),
    "another model": _with(model={"a": torch.zeros(2)}),
}


def _other_moments(content: bytes) -> bytes:
    optimizer = torch.load(io.BytesIO(content), weights_only=True)["optimizer"]
    optimizer["state"][0]["exp_avg"] = torch.zeros(2)
    return _with(optimizer=optimizer)(content)


STATE = {"step": 16, "epoch": 2, "best": 0.0, "best_epoch": 1}
OF_TRAINING = {
    "text for losses": _with(state=STATE | {"losses": "abc"}),
    "a step of another epoch": _with(state=STATE | {"step": 25}),
    "a list of its data": _with(data=[1]),
    "an optimizer of other weights": _other_moments,
    "a step that is not finite": _with(state={"step": float("nan"), "epoch": 1, "best": 0.0, "best_epoch": 1}),
    "no state": _with(state=None),
    "no random numbers": _with(random={}),
    "no optimizer": _with(optimizer={}),
    "another one's optimizer": _with(optimizer={"state": {}, "param_groups": []}),
}


EVERY_COMMAND = ("cut", "a list", "another model")


@pytest.mark.parametrize("kind", DAMAGE | OF_TRAINING)
def test_a_damaged_checkpoint_is_one_line_for_every_command(trained, tmp_path, capsys, kind):
    shutil.copytree(trained, tmp_path / "run")
    change = (DAMAGE | OF_TRAINING)[kind]
    path = tmp_path / "run" / "last.pt"
    path.write_bytes(change(path.read_bytes()))
    (tmp_path / "run" / "results.json").unlink()
    assert run(tmp_path, "--resume", "train.epochs=2") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"error: {path}")
    if kind in OF_TRAINING:
        return
    path = tmp_path / "run" / "best.pt"
    path.write_bytes(change(path.read_bytes()))
    if kind not in EVERY_COMMAND:
        with pytest.raises(RunError, match=r"best\.pt cannot be restored"):
            RunFolder(path.parent).load("best.pt")
        return
    assert evaluate_tool.main([str(path.parent)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said
    assert run(tmp_path, "name=other", "ccl.epochs=1", f"ccl.start_from={path.parent}") == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(RunError, match=r"best\.pt"):
        Grounder.from_run(path.parent)


def test_best_is_what_to_go_on_from_when_last_is_damaged(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "last.pt").write_bytes(b"")
    (tmp_path / "run" / "results.json").unlink()
    assert run(tmp_path, "--resume", "train.epochs=2") == 2
    assert "copy best.pt over it to continue from there" in capsys.readouterr().err
    shutil.copy(tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt")
    assert run(tmp_path, "--resume", "train.epochs=2") == 0
    assert differences(outcome(trained), outcome(tmp_path / "run")) == []


def test_best_is_not_what_to_go_on_from_when_its_weights_are_an_average(tmp_path):
    for name, content in (("config.yaml", b"train: {ema: 0.9}\n"), ("last.pt", b""), ("best.pt", b"")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=r"not a checkpoint; train the run again with --overwrite$"):
        RunFolder(tmp_path).load("last.pt")


def test_an_epoch_is_kept_although_nobody_reads_the_line_about_it(tmp_path, monkeypatch, capsys):
    def gone(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(_trainer, "note", gone)
    assert run(tmp_path, "train.epochs=2") == 2
    assert "--resume continues from step 8, 1 epoch done" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["no room", "file too large", "read-only"])
def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint(trained, tmp_path, monkeypatch, capsys, kind):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    os_open = os.open

    def refuse(path, flags, *mode):
        if str(path).endswith(".part") and flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return os_open(path, flags, *mode)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    acts = {
        "no room": lambda: monkeypatch.setattr(Path, "write_bytes", full),
        "file too large": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1])),
        "read-only": lambda: monkeypatch.setattr(os, "open", refuse),
    }
    # The checkpoints of the beginning and of epoch 1 are there; the third write is that of last.pt of epoch 1.
    monkeypatch.setattr(RunFolder, "save", at(RunFolder.save, 3, acts[kind], before=True))
    try:
        assert run(tmp_path, "train.epochs=2") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        monkeypatch.undo()
    said = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert said.startswith("error: [Errno ")
    assert str(tmp_path / "run" / "last.pt") in said
    assert ".part" not in said
    assert "None" not in said
    assert "--resume continues from step 0, 0 epochs done" in said
    assert not list(tmp_path.rglob("*.part"))
    assert run(tmp_path, "--resume", "train.epochs=2") == 0
    assert differences(outcome(trained), outcome(tmp_path / "run")) == []


def test_a_folder_that_is_deleted_is_not_made_again(tmp_path, monkeypatch, capsys):
    remove = at(RunFolder.save, 3, lambda: shutil.rmtree(tmp_path / "run"), before=True)
    monkeypatch.setattr(RunFolder, "save", remove)
    assert run(tmp_path, "train.epochs=2") == 2
    assert "the run folder was deleted" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_log_that_is_not_whole(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"step": 3')
    assert len(RunFolder(tmp_path / "run").read_log()) == whole.count(b"\n")
    assert report_tool.main([str(tmp_path / "run")]) == 0
    for name, content in (
        ("log.jsonl", b"[1]\n"), ("results.json", b"[{"), ("results.json", b"{}"), ("predictions.jsonl", b"\xff\n"),
    ):  # fmt: skip
        before = (tmp_path / "run" / name).read_bytes()
        (tmp_path / "run" / name).write_bytes(content)
        capsys.readouterr()
        assert report_tool.main([str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert name in said
        (tmp_path / "run" / name).write_bytes(before)


def test_what_was_logged_after_a_checkpoint_is_cut(tmp_path):
    folder = RunFolder(tmp_path)
    for step, epoch, name in ((2, 0, "loss"), (4, 0, "loss"), (4, 1, "epoch_loss"), (6, 1, "loss")):
        folder.log({"step": step, "epoch": epoch, "seconds": 0.0, name: float(step)})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n")
    RunFolder(tmp_path).rewind(6, 1)
    assert len(points(tmp_path)) == 4
    RunFolder(tmp_path).rewind(5, 1)
    assert points(tmp_path) == [("epoch_loss", 4, 4.0), ("loss", 2, 2.0), ("loss", 4, 4.0)]
    # The validation of epoch 1 was not over: its line has the step of the checkpoint and comes again.
    again = RunFolder(tmp_path)
    again.rewind(4, 0)
    again.log({"step": 4, "epoch": 1, "seconds": 0.0, "epoch_loss": 5.0})
    assert points(tmp_path) == [("epoch_loss", 4, 5.0), ("loss", 2, 2.0), ("loss", 4, 4.0)]
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [2, 4, 4]


def test_a_log_that_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(UnsafeFile, match=r"log.jsonl is a FIFO, not a regular file"):
        RunFolder(tmp_path).rewind(0, 0)


def test_unfinished_files_are_those_of_replacing_alone(tmp_path):
    with pytest.raises(KeyError), replacing(tmp_path / "a.pt") as beside:
        raise KeyError
    assert not beside.exists()
    for name in (beside.name, "notes.part", ".a.pt.part", ".a.pt.0123456g.part"):
        (tmp_path / name).touch()
    clear_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.part", ".a.pt.part", ".a.pt.0123456g.part"}


def test_other_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("relgrounding.training.Task.fingerprint", lambda self: {"features": "a", "annotations": "b"})
    folder = RunFolder(tmp_path / "run")
    train(folder, "train.epochs=1")
    monkeypatch.setattr("relgrounding.training.Task.fingerprint", lambda self: {"features": "c", "annotations": "b"})
    with pytest.raises(RunError, match="was started on other data: features changed since"):
        train(folder, "train.epochs=2", resume=True)
