"""Hostile names and outputs, given to every command inside a folder of things that must stay as they are."""

import hashlib
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests import cases
from tests.training.tiny import TINY, tool

NAMES = ["..", "", "../valuable", "ABSOLUTE", "a/b", "${oc.env:HOME}", "\uff0e\uff0e", "x" * 300, "a\0b", " a"]
MORE = [".", " ", "a/../../valuable", "a\\b", "${name}", "\u2025", "a\uff0fb", "a\nb", "a\u202eb", "a\u2066b", "a ",
        "a\u3000", "\ufeffa"]  # fmt: skip
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MORE]
tools = {name: tool(name) for name in ("train", "evaluate", "ablate", "ground", "prepare", "extract", "figures",
                                       "report", "misses", "compare")}  # fmt: skip


def snapshot(folder: Path) -> dict[str, tuple]:
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        target = os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(folder))] = (oct(facts.st_mode), digest and facts.st_size, digest, target)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with things of value, a home, and a folder to work in, in which a run on videos has been trained."""
    root = tmp_path_factory.mktemp("world")
    for place in ("valuable/inner", "home/.cache", "work/runs", "work/clips"):
        (root / place).mkdir(parents=True)
    for place in ("valuable/thesis.txt", "valuable/inner/photo.png", "home/.profile", "work/notes.txt", "top.txt"):
        (root / place).write_text(place)
    (root / "work" / "link").symlink_to(root / "valuable")
    work = root / "work"
    cases.threshold(work)
    (work / "demo.yaml").write_text("name: demo\n")
    np.save(work / "clips" / "v0.npy", np.zeros((8, 8), np.float32))
    os.environ.setdefault("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("HOME", str(root / "home"))
        assert tools["train"].main(["--config", "own.yaml", "name=run"]) == 0
    return root


@pytest.fixture
def here(world, monkeypatch) -> Path:
    monkeypatch.chdir(world / "work")
    monkeypatch.setenv("HOME", str(world / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return world


def quoted(text: str) -> str:
    return json.dumps(text).replace("\\/", "/")


def status(command: str, words: list[str]) -> int:
    try:
        return tools[command].main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def grid(path: Path, name: str = "g", experiment: str = "e", row: str = "r", settings: str = "seed=0") -> str:
    content = {"name": name, "experiments": {experiment: {"config": "demo.yaml"}}, "rows": {row: {}}, "seeds": [0],
               "settings": [*TINY, settings]}  # fmt: skip
    path.write_text(json.dumps(content))
    return str(path)


def commands(name: str, kept: Path) -> dict[str, list[str]]:
    """Every command and place that takes a name; `kept` is a folder outside the world for files that hold one."""
    file, split = kept / "c.yaml", kept / "s.yaml"
    file.write_text(f"name: {quoted(name)}\n")
    split.write_text(f"data: {{test_splits: [{quoted(name)}]}}\n")
    ask = ["ground", "--query", "person opens door", "--duration", "20", "--out", str(kept / "answer")]
    return {
        "name": ["train", *TINY, f"name={name}"],
        "name, overwritten": ["train", *TINY, f"name={name}", "--overwrite"],
        "name, resumed": ["train", *TINY, f"name={name}", "--resume"],
        "name in a file": ["train", *TINY, "--config", str(file), "--overwrite"],
        "split in a file": ["train", *TINY, "--config", str(split)],
        "split": ["evaluate", "runs/run", "--write", "--split", name],
        "run of evaluate": ["evaluate", name, "--write"],
        "start": ["train", *TINY, "ccl.epochs=1", f"ccl.start_from={name}", "name=next"],
        "grid": ["ablate", grid(kept / "1", name=name), "--out", str(kept / "out")],
        "experiment": ["ablate", grid(kept / "2", experiment=name), "--out", str(kept / "out")],
        "row": ["ablate", grid(kept / "3", row=name), "--out", str(kept / "out")],
        "settings of a grid": ["ablate", grid(kept / "4", settings=f"data.test_splits=[{quoted(name)}]"), "--out",
                               str(kept / "out")],
        "item": [*ask, "--checkpoint", "runs/run", "--video-features", "clips", "--item", name],
        "run of ground": [*ask, "--checkpoint", name, "--video-features", "clips", "--item", "v0"],
        "split of verify": ["prepare", "verify", str(split)],
        "output of prepare": ["prepare", "features", "clips", name],
        "output of extract": ["extract", "images", str(kept / "photo.png"), name, "--overwrite"],
        "input of extract": ["extract", "videos", name, str(kept / "o.h5")],
        "run of figures": ["figures", name],
        "run of report": ["report", name],
        "run of compare": ["compare", name, "--with", name],
        "run of misses": ["misses", name],
    }  # fmt: skip


FINE = {("start", ""), ("output of prepare", "a/b"), ("output of extract", "a/b")}
"""No start is stage 1, and an output is a path, `a/b` as good a one as any."""


@pytest.mark.parametrize("name", [*NAMES, *SLOW], ids=lambda name: ascii(name)[1:20])
def test_no_command_changes_anything_for_a_hostile_name(here, tmp_path, name, capsys):
    name = str(here / "valuable") if name == "ABSOLUTE" else name
    (tmp_path / "photo.png").touch()
    before = snapshot(here)
    for where, (command, *words) in commands(name, tmp_path).items():
        if (where, name) in FINE:
            continue
        result = status(command, words)
        error = capsys.readouterr().err
        assert result == 2, where
        assert "Traceback" not in error, where
        assert error.count("error: ") == 1, where
        assert snapshot(here) == before, where
    assert not (tmp_path / "out").exists()


GOOD = ["2024_01_01", "007", "no", "1e5", "12:30:45", "run #3", "test🎬", "𠮷野", "-x", "~", "a."]


@pytest.mark.parametrize("name", ["run #3", "test🎬"])
def test_a_run_of_an_odd_name_has_exactly_that_folder_and_every_command_reads_it(here, tmp_path, name, capsys):
    words = ["--config", "own.yaml", f"name={name}", "--runs", str(tmp_path / "runs")]
    assert status("train", words) == 0
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [name]
    run = str(tmp_path / "runs" / name)
    before = snapshot(here)
    assert status("evaluate", [run, "--write"]) == 0
    assert status("misses", [run]) == 0
    assert status("report", [run]) == 0
    pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")
    assert status("figures", [run, "--n", "1"]) == 0
    ask = ["--query", "person opens door", "--duration", "20", "--out", str(tmp_path / "answer")]
    assert status("ground", [*ask, "--checkpoint", run, "--video-features", "clips/v0.npy"]) == 0
    assert snapshot(here) == before


@pytest.mark.parametrize("name", GOOD)
def test_a_plain_name_of_any_script_is_taken_literally(here, tmp_path, name):
    words = [*TINY, "train.epochs=1", f"name={name}", "data.demo_pairs=10", "--runs", str(tmp_path / "runs")]
    assert status("train", words) == 0
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [name]
    assert status("evaluate", ["--", str(tmp_path / "runs" / name)]) == 0


@pytest.fixture
def place(here, tmp_path, monkeypatch) -> Path:
    """A folder of sources, each of which some command must not replace; the working directory."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["v"] = np.zeros((3, 4), np.float32)
    os.link(tmp_path / "f.h5", tmp_path / "hard.h5")
    (tmp_path / "soft.h5").symlink_to("f.h5")
    os.link(tmp_path / "f.h5", tmp_path / "o.h5.part")
    (tmp_path / "p.h5.journal").symlink_to("notes.txt")
    (tmp_path / "notes.txt").write_text("n")
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "v.npy", np.zeros((3, 4), np.float32))
    (tmp_path / "answers.jsonl").write_text('{"video": "v0", "duration": 20, "query": "person opens door"}\n')
    (tmp_path / "cells.json").write_text(Path(grid(tmp_path / "grid")).read_text())
    (tmp_path / "demo.yaml").write_text("name: demo\n")
    (tmp_path / "x.h5.parts").mkdir()
    (tmp_path / "x.h5.parts" / "mine.npz").touch()
    (tmp_path / "photo.png").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = "{world}/work/runs/run"
OUTPUTS = [
    "prepare features f.h5 f.h5",
    "prepare features f.h5 hard.h5",
    "prepare features f.h5 soft.h5",
    "prepare features o.h5.part o.h5",
    "prepare features f.h5 p.h5",
    "prepare features f.h5 folder",
    "prepare features f.h5 .",
    "prepare features folder folder/v.npy",
    "prepare features f.h5 notes.txt",
    "prepare features f.h5 o.h5 --pca 2",
    "prepare charades-actions notes.txt",
    "prepare coco-categories folder",
    "extract images photo.png photo.png --overwrite",
    "extract images photo.png notes.txt --overwrite",
    "extract images photo.png folder --overwrite",
    "extract videos photo.png x.h5 --weights random",
    f"report {RUN} --out {RUN}/predictions.jsonl",
    f"report {RUN} --out folder",
    f"figures {RUN} --out notes.txt",
    f"figures {RUN} --images folder --out folder",
    f"ground --checkpoint {RUN} --video-features f.h5 --item v --duration 9 --query a --out {RUN}/results.json",
    f"ground --checkpoint {RUN} --video-features f.h5 --item v --duration 9 --query a --out folder",
    f"ground --checkpoint {RUN} --video-features {{world}}/work/clips --batch answers.jsonl --out .",
    f"ground --checkpoint {RUN} --video-features {{world}}/work/clips --batch answers.jsonl --out notes.txt",
    "ablate cells.json --out . --table",
    "ablate grid --out notes.txt --table",
    "train --runs notes.txt",
    "train --config demo.yaml --runs folder --overwrite name=v.npy",
]


@pytest.mark.parametrize("line", OUTPUTS)
def test_an_output_that_is_a_folder_or_a_source_is_refused_before_the_work(here, place, line, capsys):
    if "x.h5" in line:
        pytest.importorskip("torchvision", reason="extraction needs the extra `extract`")
    before = snapshot(place), snapshot(here)
    command, *words = line.format(world=here).split()
    assert status(command, words) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1, error
    assert "Traceback" not in error
    assert (snapshot(place), snapshot(here)) == before


def test_a_page_does_not_go_through_a_link(here, tmp_path):
    page = "<!doctype html>mine"
    (tmp_path / "valuable").write_text(page)
    (tmp_path / "report.html").symlink_to("valuable")
    assert status("report", [str(here / "work" / "runs" / "run"), "--out", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "valuable").read_text() == page
    assert not (tmp_path / "report.html").is_symlink()
