"""Processes of a job: what they tell one another, what they print, and how they end."""

import os
import signal
import time

import pytest

from relgrounding import _ranks, cli
from relgrounding._printing import note, show, show_error
from relgrounding._settings import ConfigError
from relgrounding._signals import Interrupted, caught, look_together
from tests.ranks import Died, together


def test_a_process_alone_is_rank_0_of_1(monkeypatch):
    assert (_ranks.rank(), _ranks.world_size(), _ranks.is_main(), _ranks.tag()) == (0, 1, True, "")
    with _ranks.joined("cpu"):
        assert not _ranks.is_joined()
        assert (_ranks.share([1, 2]), _ranks.gather(3), _ranks.to_main(3)) == ([1, 2], [3], [3])
        assert (_ranks.from_main(3), _ranks.on_main(str, 3), _ranks.in_all(str, 3)) == (3, "3", "3")
        assert (_ranks.any_rank(True), _ranks.any_rank(False), _ranks.summed([2.0])) == (True, False, [2.0])
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert _ranks.world_size() == 1  # without an address there is no job
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert (_ranks.rank(), _ranks.world_size(), _ranks.is_main(), _ranks.tag()) == (3, 4, False, "[rank 3] ")
    assert _ranks.share([1, 2]) == [1, 2]  # not joined
    assert _ranks.gather(1) == [1]


def fail(rank):
    if _ranks.rank() == rank:
        raise ValueError(f"rank {rank}")
    return "fine"


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}", _ranks.is_told(error)


def speak():
    rank = _ranks.rank()
    found = {
        "share": _ranks.share(range(7)),
        "gather": _ranks.gather({"rank": rank}),
        "to_main": _ranks.to_main(rank),
        "from_main": _ranks.from_main([rank] if rank == 0 else None),
        "any": (_ranks.any_rank(rank == 2), _ranks.any_rank(False)),
        "summed": _ranks.summed([1.0, 0.1 * rank]),
        "on_main": (outcome(_ranks.on_main, _ranks.rank), outcome(_ranks.on_main, fail, 0)),
        "in_all": (outcome(_ranks.in_all, fail, 1), outcome(_ranks.in_all, lambda: 1 / 0)),
    }
    show("shown")
    note("noted")
    show_error("shown")
    with caught():
        look_together()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        try:
            look_together()
        except Interrupted as stop:
            found["signal"] = stop.number
    return found


def test_three_processes_tell_one_another(capfd):
    found = together(3, speak)
    for rank, one in enumerate(found):
        assert list(one["share"]) == list(range(7))[rank::3]
        assert one["gather"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert one["to_main"] == ([0, 1, 2] if rank == 0 else [])
        assert one["from_main"] == [0]
        assert one["any"] == (True, False)
        assert one["summed"] == found[0]["summed"] == [3.0, pytest.approx(0.3)]
        assert one["on_main"] == (0, ("ValueError: rank 0", rank != 0))
        failed = "ValueError: rank 1" if rank == 1 else "RankError: another process of the job failed, and says why"
        assert one["in_all"] == ((failed, rank != 1), ("ZeroDivisionError: division by zero", rank != 0))
        assert one["signal"] == signal.SIGUSR1
    said = capfd.readouterr()
    assert said.out == "shown\nnoted\n"
    assert sorted(said.err.splitlines()) == [f"[rank {rank}] error: shown" for rank in range(3)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"RANK": "x"}, r"^RANK is 'x' in the environment, not a whole number; torchrun sets RANK, WORLD_SIZE"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ({"RANK": "٣", "WORLD_SIZE": "4"}, "RANK is '٣'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"LOCAL_RANK": "a"}, "LOCAL_RANK is 'a'"),
        ({"RANK": "1"}, "RANK is 1 in the environment, and WORLD_SIZE, MASTER_ADDR, MASTER_PORT missing"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "9"}, "RANK is 1 in the environment, and MASTER_ADDR missing"),
        (
            {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "9"},
            "and WORLD_SIZE 2: ranks count from 0",
        ),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "70000"}, "MASTER_PORT is 70000"),
        ({"RANK": "0", "WORLD_SIZE": "0", "MASTER_ADDR": "h", "MASTER_PORT": "9"}, "and WORLD_SIZE 0"),
    ],
)
def test_an_environment_that_names_no_job_is_refused(monkeypatch, capsys, given, message):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for use in (_ranks.check_job, lambda: _ranks.before_joining(str)):
        with pytest.raises(ConfigError, match=message):
            use()
    assert cli.main(["configs"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("given", [{}, {"WORLD_SIZE": "8"}, {"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_an_environment_of_a_process_alone_is_one(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    _ranks.check_job()
    assert (_ranks.world_size(), _ranks.before_joining(str, 3)) == (1, "3")


def agree():
    """Before the processes join, then within, and once more."""

    def ask(*failing):
        def load():
            if _ranks.rank() in failing:
                raise ConfigError("a setting" if _ranks.rank() != 1 else "another")
            return _ranks.rank()

        try:
            return _ranks.before_joining(load)
        except Exception as error:
            return str(error), _ranks.is_told(error), _ranks.tag(error)

    found = [ask(), ask(0, 2), ask(0, 1, 2), ask()]
    for _ in range(2):
        with _ranks.joined("cpu", 1.0):
            found.append(_ranks.gather(_ranks.rank()))
    return [*found, ask(2)]


def test_processes_that_cannot_begin_end_together_and_one_says_why():
    lost = "another process of the job failed, and says why"
    found = together(3, agree, join=False)
    for rank, (fine, two, all_of_them, again, first, second, one) in enumerate(found):
        assert (fine, again, first, second) == (rank, rank, [0, 1, 2], [0, 1, 2])
        both = ("a setting", rank == 2, "[ranks 0, 2] ")
        assert two == ((lost, True, f"[rank {rank}] ") if rank == 1 else both)
        assert all_of_them == (("another", False, "[rank 1] ") if rank == 1 else both)
        assert one == (("a setting", False, "[rank 2] ") if rank == 2 else (lost, True, f"[rank {rank}] "))


def late():
    if _ranks.rank() == 1:
        raise ValueError("never there")
    return _ranks.before_joining(str, minutes=lambda _: 0.02)


def test_a_process_that_is_not_there_is_not_waited_for_longer_than_agreed():
    found = together(2, late, join=False)
    assert isinstance(found[0], _ranks.RankError)
    assert "did not answer within train.timeout" in str(found[0])


def die():
    if _ranks.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return _ranks.gather(1)


def hang():
    if _ranks.rank() == 1:
        time.sleep(3)
    return _ranks.gather(1)


@pytest.mark.parametrize(("end", "timeout"), [(die, 1.0), (hang, 0.02)])
def test_a_process_that_is_lost_ends_the_others_in_time(end, timeout):
    begun = time.monotonic()
    found = together(2, end, timeout=timeout)
    assert time.monotonic() - begun < 20
    assert isinstance(found[0], _ranks.RankError)
    assert "another process of the job ended, or did not answer" in str(found[0])
    assert isinstance(found[1], Died if end is die else _ranks.RankError)


def test_processes_of_one_machine_take_a_cuda_device_each(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _ranks._own_cuda_device("cuda", 2) == 1
    with pytest.raises(_ranks.ConfigError, match=r"there are 1; start that many \(torchrun --nproc-per-node\)"):
        _ranks._own_cuda_device("auto", 1)
    with pytest.raises(_ranks.ConfigError, match="use device=cuda: each takes one"):
        _ranks._own_cuda_device("cuda:0", 2)
