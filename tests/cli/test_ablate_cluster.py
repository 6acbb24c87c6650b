"""Runs of a grid as jobs of a cluster."""

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from relgrounding.cli.ablate import _cluster
from relgrounding.cli.ablate._cluster import Cluster, Resources, Task, submitted
from relgrounding.cli.ablate._runs import Local
from relgrounding.cli.ablate._states import states_text
from relgrounding.cli.ablate._training import Training, Work
from relgrounding.config import ConfigError
from relgrounding.training import grid_jobs, read_grid
from tests.training.tiny import TINY, tool

submitit = pytest.importorskip("submitit", reason="clusters need the extra `cluster`")
ROOT = Path(__file__).parents[2]


def _grid(path: Path, **changes) -> Path:
    grid = {
        "name": "tiny",
        "seeds": [0],
        "settings": [*TINY, "train.epochs=1"],
        "experiments": {
            "demo": {
                "config": str(ROOT / "configs" / "demo.yaml"),
                "columns": [{"split": "test", "protocol": "single", "metric": "Acc@0.5"}],
            }
        },
        "rows": {"MIL": {}},
    }
    path.write_text(json.dumps(grid | changes))
    return path


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with the commands of Slurm: `sbatch` keeps each script, and `sacct` says what `states` holds."""
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "states").write_text("")
    commands = {
        "srun": "exit 0",
        "sbatch": 'n=$(($(ls | grep -c script) + 1)); cp "$1" $n.script; echo "Submitted batch job $n"',
        "sacct": "echo 'JobID|State|NodeList'; cat states",
    }
    for name, what in commands.items():
        (folder / name).write_text(f"#!/bin/sh\ncd {folder}\n{what}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(SlurmJob, "watcher", SlurmInfoWatcher(delay_s=0))
    monkeypatch.setattr(_cluster, "LATE", 0)
    return folder


def test_a_job_asks_slurm_for_what_was_asked_for_and_is_found_again_until_it_is_over(tmp_path, slurm, capsys):
    runs = tmp_path / "runs"
    job = grid_jobs(read_grid(_grid(tmp_path / "grid.yaml")), runs)[0]
    wanted = Resources(
        minutes=90, processes=2, cpus=3, gpus=2, memory=16.0, partition="gpu", sbatch={"account": "vision"}
    )
    assert Cluster(runs, wanted).start(job).poll() is None
    script = (slurm / "1.script").read_text()
    lines = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"time=90", "cpus-per-task=6", "gpus-per-node=2", "mem=16GB", "partition=gpu", "account=vision", "nodes=1",
            "ntasks-per-node=1", f"job-name={job.name}", "signal=USR2@120"} <= lines  # fmt: skip
    assert "submitit.core._submit" in script
    work = submitit.SlurmJob(runs / ".jobs" / job.address, "1").submission().function.work
    assert work == Work(job.name, str(runs), job.file, job.words, threads=3, processes=2)

    # Another command finds it, whatever its state is.
    for state in ("", "1|PENDING|", "1|RUNNING|node1"):
        (slurm / "states").write_text(state)
        later = Cluster(runs, Resources())
        assert later.find(job).facts["id"] == "1"
        assert later.left().startswith("1 job goes on, and the same command waits")
    with pytest.raises(ConfigError, match=r"was submitted \(slurm\) as job 1, which is not over; wait for it with"):
        Local(runs, 1).find(job)
    assert f"{job.address}  submitted" in states_text([job], runs)
    # It is gone without a result: it is named, and submitted again.
    (slurm / "states").write_text("1|CANCELLED|node1")
    folder = runs / ".jobs" / job.address
    (folder / "1_0_log.err").write_text("first line\nslurmstepd: error: *** STEP 1.0 CANCELLED ***\n")
    reason = [
        f"job 1 ended without a result (CANCELLED): slurmstepd: error: *** STEP 1.0 CANCELLED ***; all of it is in "
        f"{folder / '1_0_log.err'}",
        "first line",
    ]
    assert submitted(job, runs).poll() == reason
    assert Cluster(runs, Resources()).find(job) is None
    assert "job 1 ended without results; it is submitted again" in capsys.readouterr().out
    again = Cluster(runs, Resources()).start(job)
    assert submitted(job, runs).facts["id"] == "2"
    # What its process says counts: how the training ended, or an exception.
    for result, said in ((("success", []), []), (("success", ["exit status 2: no"]), ["exit status 2: no"])):
        (folder / "2_0_result.pkl").write_bytes(pickle.dumps(result))
        assert again.poll() == said
    (folder / "2_0_result.pkl").write_bytes(pickle.dumps(("error", "a traceback")))
    (folder / "2_0_log.err").write_text("Traceback\nRuntimeError: no\n")
    assert again.poll()[0].startswith("job 2 failed: RuntimeError: no; all of it is in ")


def test_a_cluster_that_is_not_here_and_options_that_do_not_fit_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = [str(_grid(tmp_path / "grid.yaml")), "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    for more, message in {
        ("--launcher", "submitit"): "--cluster slurm: there is no Slurm here (no srun); --cluster local needs none",
        ("--time", "10"): "--time is for jobs of a cluster; give --launcher submitit, too",
        ("--sbatch", "qos=long"): "--sbatch is for jobs of a cluster; give --launcher submitit, too",
        ("--launcher", "submitit", "--sbatch", "long"): "--sbatch: 'long' is not an option with a value",
    }.items():
        assert tool("ablate").main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@dataclass(frozen=True)
class _Other(Work):
    """Something else that is run like a training."""

    code: str = ""

    def command(self, logs: str) -> list[str]:
        return [sys.executable, "-c", self.code, logs]


def _other(folder: Path, code: str) -> _Other:
    return _Other("run", str(folder), "", (), 1, 1, code)


def test_a_job_that_is_about_to_end_keeps_the_state_of_its_run_and_is_submitted_again(tmp_path):
    code = "import sys; print('up', flush=True); sys.stdin.read(); print('kept', flush=True); sys.exit(130)"
    task, log, again = Task(_other(tmp_path, code)), tmp_path / "run" / "train.log", []

    def preempt(*_: object) -> None:
        again.append(task.checkpoint())
        again.append(log.read_text())
        raise SystemExit

    def signal_later() -> None:
        while not (log.is_file() and "up" in log.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, preempt)
    try:
        threading.Thread(target=signal_later).start()
        with pytest.raises(SystemExit):
            task()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert task._training.poll()[0].startswith("exit status 130: kept; all of it is in ")
    submission, text = again
    assert text == "up\nkept\n"
    assert submission.function.work == task.work
    pickle.dumps(submission)


def test_a_training_that_fails_says_how_with_the_end_of_its_log(tmp_path):
    code = "import sys; print('one\\n\\nbar 1\\rbar 2\\nthree'); sys.exit(3)"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").write_text("of an earlier start\n")
    training = Training(_other(tmp_path, code))
    training.wait(60.0)
    reason = f"exit status 3: three; all of it is in {tmp_path / 'run' / 'train.log'}"
    assert training.poll() == [reason, "one", "bar 2"]
    # Of several processes, what one of them said, and not torchrun's report below it.
    code = "import sys; print('up\\n[rank 1] error: no metric', *range(20), sep='\\n'); sys.exit(1)"
    training = Training(dataclasses.replace(_other(tmp_path, code), processes=2))
    training.wait(60.0)
    log = tmp_path / "run" / "train.log"
    assert training.poll() == [f"exit status 1: [rank 1] error: no metric; all of it is in {log}", "up"]


def test_logs_of_torchrun_do_not_outlive_a_training(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "temporary").mkdir()
    code = "import sys; from pathlib import Path; Path(sys.argv[1], 'rank').mkdir(); print(sys.argv[1])"
    training = Training(_other(tmp_path, code))
    training.wait(60.0)
    assert training.poll() == []
    assert Path((tmp_path / "run" / "train.log").read_text().strip()).parent == tmp_path / "temporary"
    assert not any((tmp_path / "temporary").iterdir())
    command = Work("run", "runs", "demo", (), threads=1, processes=2).command("logs")
    assert command[command.index("--log-dir") + 1] == "logs"


def _wait(true, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_jobs_outlive_the_command_that_submitted_them_and_the_next_one_waits_for_them(tmp_path, capsys):
    rows = {
        "MIL": {},
        "next": {"start": "MIL", "settings": ["ccl.epochs=1"]},
        "same as MIL": {},
        "bad": {"settings": ["train.ema=0.5", "device=cuda:99"]},
    }
    path, runs, out = _grid(tmp_path / "grid.yaml", rows=rows), tmp_path / "runs", tmp_path / "out"
    words = [str(path), "--out", str(out), "--runs", str(runs), "--launcher", "submitit", "--cluster", "local"]
    words += ["--cpus", "1", "--jobs", "2"]
    first, _, bad, second = grid_jobs(read_grid(path), runs)
    folder = runs / ".jobs" / first.address
    with (tmp_path / "error").open("w") as stream:  # a pipe would end with the jobs, which inherit it
        command = subprocess.Popen(
            [sys.executable, ROOT / "tools" / "ablate.py", *words],
            stderr=stream,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            _wait((folder / "job.json").is_file)
            os.killpg(command.pid, signal.SIGINT)  # as Ctrl-C in a terminal
            command.wait(60)
        finally:
            command.kill()
            command.wait()
    assert command.returncode == 128 + signal.SIGINT
    error = (tmp_path / "error").read_text()
    assert "and the same command waits for what was submitted and submits the rest" in error
    number = submitted(first, runs).facts["id"]
    assert not submitted(first, runs).over()

    assert tool("ablate").main(words) == 1
    assert submitted(first, runs).facts["id"] == number
    assert len(list(folder.glob("*_submitted.pkl"))) == 1
    error = capsys.readouterr().err
    assert f"failed: {bad.name}: exit status 2: error: device is cuda:99, which is not available here" in error
    assert error.count("failed: ") == 1
    assert "3 of 4 runs, 1 failed" in (out / "table.md").read_text()
    assert {p.name for p in runs.iterdir() if not p.name.startswith(".")} == {first.name, second.name, bad.name}
    assert "stopped" not in (runs / first.name / "train.log").read_text()

    # The same command runs again what failed, and nothing else.
    before, times = (
        submitted(bad, runs).facts["id"],
        {j.name: (runs / j.name / "last.pt").stat().st_mtime_ns for j in (first, second)},
    )
    assert tool("ablate").main(words) == 1
    assert submitted(bad, runs).facts["id"] != before
    assert {name: (runs / name / "last.pt").stat().st_mtime_ns for name in times} == times


def test_runs_here_have_the_threads_of_the_environment_or_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for given, threads in (("3", 3), ("0", 1), ("", 2), ("all", 2)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert Local(tmp_path, 2, processes=2).threads == threads
