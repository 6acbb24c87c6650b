import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relgrounding.runs import RunError, RunFolder, check_free, hold_run
from relgrounding.training import grid_jobs, read_grid
from tests.training.tiny import TINY, tiny_words, tool

ROOT = Path(__file__).parents[2]
HOLD = """
import os, sys, time
from relgrounding.runs import RunFolder, hold_run
with hold_run(RunFolder(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(60)  # a worker, which outlives its parent
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""
# The same without the second that it takes to import torch.
HOLD_PLAINLY = """
import fcntl, json, os, sys, time
os.makedirs(sys.argv[1], exist_ok=True)
file = open(sys.argv[1] + "/.lock", "w")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
json.dump({"pid": os.getpid(), "host": "h", "since": "s", "command": "c"}, file)
print("held", file=file.flush() or sys.stdout, flush=True)
time.sleep(60)
"""
train_tool, evaluate_tool, ablate_tool = tool("train"), tool("evaluate"), tool("ablate")


def _start(*words: str | Path, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, text=True, **options)


@contextlib.contextmanager
def _holding(path: Path, program: str = HOLD_PLAINLY):
    with _start("-c", program, path, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            yield holder.pid
        finally:
            holder.kill()


def _wait(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _snapshot(folder: Path) -> dict[str, bytes | str | None]:
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
        if p.name != ".lock"
    }


def test_a_lock_names_its_holder_and_goes_with_it_even_if_a_forked_worker_stays(tmp_path):
    path = tmp_path / "run"
    with _holding(path, HOLD) as pid:
        with pytest.raises(RunError, match=rf"run is in use by process {pid} on .* since 20.*\('-c"):
            check_free(path)
        for overwrite in (False, True):
            with pytest.raises(RunError, match=f"by process {pid}"), hold_run(RunFolder(path), overwrite):
                pass
        os.kill(pid, signal.SIGKILL)
        _wait(lambda: not _alive(pid))
        before = (path / ".lock").read_bytes()
        check_free(path)
        assert (path / ".lock").read_bytes() == before
        with hold_run(RunFolder(path)):
            assert (path / ".lock").read_bytes() != before


def test_the_same_process_does_not_hold_a_run_twice_nor_lose_it_by_asking(tmp_path):
    path = tmp_path / "run"
    with hold_run(RunFolder(path)):
        for _ in range(2):
            with pytest.raises(RunError, match="in use by this process"):
                check_free(path)
        with _start("-c", HOLD_PLAINLY, path, stderr=subprocess.PIPE) as other:
            assert "BlockingIOError" in other.communicate()[1]
    assert not path.exists()  # nothing was written into it


def test_where_there_are_no_locks_a_run_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    with hold_run(RunFolder(tmp_path / "run")):
        pass
    assert "the file system has no locks" in caplog.text


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "valuable").write_text("v")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "valuable")
    with pytest.raises(RunError, match=r"\.lock is not a plain file"), hold_run(RunFolder(tmp_path / "run")):
        pass
    assert (tmp_path / "valuable").read_text() == "v"


@pytest.mark.parametrize("content", ["v", "{}", "[" * 9999, "# poetry\n" * 999])
def test_a_lock_of_another_program_is_not_written_over(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"\.lock was not written by"), hold_run(RunFolder(tmp_path), overwrite):
            pass
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(".lock", content)]


def test_an_empty_lock_beside_files_of_something_else_stays_empty(tmp_path, finished):
    (tmp_path / ".lock").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match=r"\.lock was not written by"), hold_run(RunFolder(tmp_path)):
        pass
    assert not (tmp_path / ".lock").stat().st_size
    run = _copy(finished, tmp_path / "runs")
    (run / ".lock").write_bytes(b"")
    with hold_run(RunFolder(run)):
        assert (run / ".lock").stat().st_size


def test_a_run_that_is_refused_leaves_no_new_folder(tmp_path, capsys):
    words = tiny_words("data.root=nowhere", "data.dataset=refcoco")
    assert train_tool.main([*words, "--runs", f"{tmp_path}/a/b"]) == 2
    assert "error: " in capsys.readouterr().err
    assert not os.listdir(tmp_path)
    (tmp_path / "a").mkdir()
    with hold_run(RunFolder(tmp_path / "a" / "b" / "run")):
        (tmp_path / "a" / "b" / "other").mkdir()
    assert os.listdir(tmp_path / "a" / "b") == ["other"]


@pytest.mark.parametrize("name", [[], [".lock"]])
def test_a_folder_that_was_there_stays_there(tmp_path, name):
    for file in name:
        (tmp_path / file).touch()
    with hold_run(RunFolder(tmp_path)):
        pass
    assert os.listdir(tmp_path) == name


def test_a_lock_with_the_longest_command_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "\U0001f600" * 600])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").touch()
    for _ in range(2):
        with hold_run(RunFolder(tmp_path / "run")):
            kept = (tmp_path / "run" / ".lock").read_bytes()
        (tmp_path / "run" / ".lock").write_bytes(kept)


@pytest.mark.parametrize("content", ["", '{"pid": 1, "host": "h", "since": "s", "command": "c"}'])
def test_a_lock_left_by_a_process_that_died_is_taken_over(tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text(content)
    with hold_run(RunFolder(tmp_path / "run")):
        assert f'"pid": {os.getpid()}' in (tmp_path / "run" / ".lock").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("finished")
    assert train_tool.main([*TINY, "train.epochs=1", "name=old", "--runs", str(runs)]) == 0
    return runs / "old"


def _copy(finished: Path, runs: Path) -> Path:
    runs.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", finished, runs / "old"], check=True)
    return runs / "old"


def test_overwrite_replaces_a_run_and_leaves_nothing_of_it(tmp_path, finished):
    run = _copy(finished, tmp_path)
    (run / "mine.txt").write_text("of the old run")
    (run / "outside").symlink_to(tmp_path / "keep")
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").write_text("k")
    words = [*TINY, "train.epochs=1", "name=old", "seed=3", "--runs", str(tmp_path), "--overwrite"]
    assert train_tool.main(words) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keep", "old"]
    assert (tmp_path / "keep" / "file").read_text() == "k"
    assert not (run / "mine.txt").exists()
    assert RunFolder(run).read_config().seed == 3


@pytest.mark.parametrize(
    "wrong", [["ccl.start_from=nowhere"], ["data.validation=0.999"], ["device=cuda:99"],
              ["data.dataset=flickr30k"], ["data.dataset=flickr30k", "data.features=none.h5"]]
)  # fmt: skip
def test_a_wrong_setting_does_not_cost_the_old_run(tmp_path, finished, capsys, wrong):
    _copy(finished, tmp_path / "runs")
    before = _snapshot(tmp_path)
    words = tiny_words("train.epochs=1", "ccl.epochs=1", *wrong, "name=old")
    assert train_tool.main([*words, "--runs", str(tmp_path / "runs"), "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "is a setting of" not in error
    assert error.count("\n") == 1
    assert _snapshot(tmp_path) == before


@pytest.mark.parametrize("what", ["no config", "other yaml", "cut", "link", "file", "link to config"])
def test_overwrite_refuses_by_name_what_is_not_known_to_be_a_run(tmp_path, finished, capsys, what):
    run = _copy(finished, tmp_path / "elsewhere" if what == "link" else tmp_path)
    target, config = tmp_path / "old", run / "config.yaml"
    if what == "no config":
        config.unlink()
    elif what == "other yaml":
        config.write_text("services: {web: {image: x}}\nversions: 3\n")
    elif what == "cut":
        config.write_bytes(config.read_bytes()[:300])
    elif what == "link":
        target.symlink_to(run)
    elif what == "file":
        subprocess.run(["rm", "-r", run], check=True)
        run.write_text("a file")
    else:
        config.rename(tmp_path / "c.yaml")
        config.symlink_to(tmp_path / "c.yaml")
    before = _snapshot(tmp_path)
    assert train_tool.main([*TINY, "name=old", "--runs", str(tmp_path), "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert str(target) in error
    assert "--overwrite deletes" in error
    assert _snapshot(tmp_path) == before


@pytest.mark.parametrize("what", ["data.root", "ccl.start_from", "another run"])
def test_overwrite_deletes_no_other_run_and_nothing_that_is_read(tmp_path, finished, capsys, what):
    run = _copy(finished, tmp_path)
    if what == "another run":
        _copy(finished, run / "deeper")
    inner = {"data.root": run / "data", "ccl.start_from": run, "another run": run / "deeper" / "old"}[what]
    inner.mkdir(exist_ok=True)
    words = [] if what == "another run" else [f"{what}={inner}", "ccl.epochs=1"]
    before = _snapshot(tmp_path)
    assert train_tool.main([*tiny_words("name=old", *words), "--runs", str(tmp_path), "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert f"{inner}, which --overwrite would delete" in error
    assert error.count("\n") == 1
    assert _snapshot(tmp_path) == before


def test_overwrite_on_a_full_disk_leaves_nothing(tmp_path, finished, monkeypatch):
    run = _copy(finished, tmp_path)
    pwrite = os.pwrite

    def full(descriptor, *content):
        if "old." in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, *content)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match="No space left on device"), hold_run(RunFolder(run), overwrite=True):
        pass
    assert os.listdir(tmp_path) == ["old"]


def test_resume_and_overwrite_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        train_tool.main(["--resume", "--overwrite"])
    assert "not allowed with" in capsys.readouterr().err


def test_evaluate_writes_only_what_nobody_else_writes_and_reads_in_any_case(tmp_path, finished, capsys):
    run = _copy(finished, tmp_path)
    with _holding(run) as pid:
        before = _snapshot(tmp_path)
        assert evaluate_tool.main([str(run), "--write"]) == 2
        assert f"in use by process {pid}" in capsys.readouterr().err
        assert train_tool.main([*TINY, "name=old", "--runs", str(tmp_path), "--resume"]) == 2
        assert train_tool.main([*TINY, "name=old", "--runs", str(tmp_path), "--overwrite"]) == 2
        assert capsys.readouterr().err.count(f"in use by process {pid}") == 2
        assert evaluate_tool.main([str(run)]) == 0
        assert _snapshot(tmp_path) == before
    assert evaluate_tool.main([str(run), "--write"]) == 0


def _grid(path: Path, *words: str) -> Path:
    grid = {
        "name": "tiny",
        "seeds": [0, 1],
        "settings": [*TINY, "train.epochs=100000", "train.patience=100000", *words],
        "experiments": {"demo": {"config": str(ROOT / "configs" / "demo.yaml")}},
        "rows": {"MIL": {}},
    }
    path.write_text(json.dumps(grid))
    return path


def test_a_grid_whose_run_is_being_trained_says_who_trains_it(tmp_path, capsys):
    grid, runs = _grid(tmp_path / "grid.yaml"), tmp_path / "runs"
    words = [str(grid), "--out", str(tmp_path / "out"), "--runs", str(runs)]
    for busy in (runs / "demo-MIL-1", runs):
        with _holding(busy) as pid:
            assert ablate_tool.main(words) == 2
            assert f"{busy} is in use by process {pid}" in capsys.readouterr().err


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("workers", [0, 1])
def test_trainers_go_with_the_grid_that_started_them_and_keep_their_state(tmp_path, number, workers):
    grid = _grid(tmp_path / "grid.yaml", f"data.workers={workers}")
    runs = tmp_path / "runs"
    parent = _start(
        ROOT / "tools" / "ablate.py", grid, "--out", tmp_path / "out", "--runs", runs, "--jobs", 2,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    trainers: list[int] = []
    folders = [runs / job.name for job in grid_jobs(read_grid(grid), runs)]
    try:
        _wait(lambda: all((folder / "log.jsonl").is_file() for folder in folders), 120)
        trainers = _children(parent.pid)
        assert len(trainers) == 2
        workers_of = [child for trainer in trainers for child in _children(trainer)]
        parent.send_signal(number)
        parent.wait(60)
        _wait(lambda: not any(map(_alive, trainers + workers_of)))
    finally:
        parent.kill()
        parent.wait()
        for pid in trainers:
            if _alive(pid):
                os.kill(pid, signal.SIGKILL)
    for folder in folders:
        log = (folder / "train.log").read_text()
        assert log.count("stopped by") == 1, log
        assert RunFolder(folder).load("last.pt")["state"]["step"] > 0
        if not workers:  # an interruption may come while a loader with workers is being taken down, which says so
            assert "Traceback" not in log
        check_free(folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_trainer_that_is_killed_leaves_no_lock_although_its_workers_are_still_there(tmp_path):
    trainer = _start(
        ROOT / "tools" / "train.py", *TINY, "train.epochs=100000", "train.patience=100000", "data.workers=1",
        "name=t", "--runs", tmp_path, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    workers: list[int] = []
    try:
        _wait(lambda: (tmp_path / "t" / "last.pt").is_file(), 120)
        _wait(lambda: bool(workers.extend(_children(trainer.pid)) or workers))
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)  # it cannot notice that its parent is gone
        with pytest.raises(RunError, match=f"in use by process {trainer.pid}"):
            check_free(tmp_path / "t")
        trainer.kill()
        trainer.wait()
        assert any(map(_alive, workers))
        check_free(tmp_path / "t")
    finally:
        trainer.kill()
        trainer.wait()
        for worker in workers:
            if _alive(worker):
                os.kill(worker, signal.SIGKILL)


def test_a_run_from_before_names_were_names_is_still_read(tmp_path, finished):
    run = _copy(finished, tmp_path)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("name: old", "name: group/old"))
    assert RunFolder(run).read_config().name == "old"
