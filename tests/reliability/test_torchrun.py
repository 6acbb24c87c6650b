"""What happens to a job of torchrun when one of its processes dies, fails or is asked to stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relgrounding import _ranks
from relgrounding.objectives import MIL
from relgrounding.runs import RunError, RunFolder
from tests.reliability.forked import Child, ranks, torchrun
from tests.reliability.outcome import differences, outcome
from tests.training.stopping import at, config_file

ROOT = Path(__file__).parents[2]
TWO = ("--standalone", "--nproc-per-node", "2")
SHORT = ("train.epochs=3", "train.timeout=1")


def job(folder: Path, *words: str, options: tuple[str, ...] = TWO) -> Child:
    folder.mkdir(exist_ok=True)
    config = str(config_file(folder))
    return torchrun(options, ["--runs", str(folder), "--config", config, *SHORT, *words], folder)


def logged(folder: Path, lines: int) -> None:
    """Wait until the log of a run has so many lines."""
    log = folder / "run" / "log.jsonl"
    while not log.is_file() or log.read_bytes().count(b"\n") < lines:
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert job(folder).wait(100) == 0, (folder / "said").read_text()
    said = (folder / "said").read_text()
    assert said.count("epoch 3: ") == said.count("kept in ") == said.count("oracle ") == 1  # one process prints
    return outcome(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGKILL), (0, signal.SIGTERM)])
def test_torchrun_restarts_a_job_that_lost_a_process(whole, tmp_path, rank, number):
    agent = job(tmp_path, "--resume", "auto", options=(*TWO, "--max-restarts", "1"))
    logged(tmp_path, 4)
    first = ranks(agent, tmp_path)
    os.kill(first[rank], number)
    assert agent.wait(100) == 0, (tmp_path / "said").read_text()
    assert not {*first.values()} & {*ranks(agent, tmp_path).values()}
    assert differences(whole, outcome(tmp_path / "run")) == []


@pytest.mark.slow
def test_a_job_that_is_asked_to_stop_keeps_the_last_step(whole, tmp_path):
    agent = job(tmp_path)
    logged(tmp_path, 4)
    os.kill(agent.pid, signal.SIGTERM)
    assert agent.wait(100) != 0
    said = (tmp_path / "said").read_text()
    assert said.count("stopped by SIGTERM; the same command with --resume continues from step") == 1
    assert "error:" not in said
    state = RunFolder(tmp_path / "run").load("last.pt")["state"]
    assert f"from step {state['step']}, " in said
    assert job(tmp_path, "--resume").wait(100) == 0
    assert differences(whole, outcome(tmp_path / "run")) == []


def fail() -> None:
    if _ranks.rank() == 1:
        raise RunError("no more of this")


def test_the_error_of_a_process_names_its_rank_and_ends_the_job(tmp_path, monkeypatch):
    monkeypatch.setattr(MIL, "__call__", at(MIL.__call__, 13, fail))
    begun = time.monotonic()
    assert job(tmp_path).wait(100) == 1
    assert time.monotonic() - begun < 60  # train.timeout
    said = (tmp_path / "said").read_text()
    assert "[rank 1] error: no more of this\n" in said
    assert "[rank 0] error: another process of the job ended" in said
    assert RunFolder(tmp_path / "run").load("last.pt")["state"]["step"] == 8


def test_an_error_of_all_processes_is_said_once_and_ends_the_job_at_once(tmp_path):
    begun = time.monotonic()
    assert job(tmp_path, "model.hiden=3").wait(100) == 1
    assert time.monotonic() - begun < 60  # train.timeout
    said = (tmp_path / "said").read_text()
    assert (
        said.count("there is no key 'model.hiden'") == said.count("[ranks 0, 1] error: ") == said.count("] error:") == 1
    )


@pytest.mark.slow
def test_the_command_as_a_user_gives_it(whole, tmp_path):
    """A real torchrun, whose processes are found in what it starts."""
    command = [sys.executable, "-m", "torch.distributed.run", *TWO, "--max-restarts", "1"]
    command += ["--log-dir", str(tmp_path / "log"), "tools/train.py"]
    command += ["--runs", str(tmp_path), "--config", str(config_file(tmp_path)), "--resume", "auto", *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    logged(tmp_path, 4)
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    said = agent.communicate(timeout=300)[1]
    assert agent.returncode == 0, said
    assert list(tmp_path.glob("log/*/attempt_1")), said  # it was started again
    assert differences(whole, outcome(tmp_path / "run")) == []
