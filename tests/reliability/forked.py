"""A torchrun whose processes are forked from this one, which has imported everything, instead of started anew.

Its agent is PyTorch's own; a process that it starts is this library's command `train`, in a session of its own as
always. What is saved is the seconds that each process takes to import PyTorch and DGL.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed.run
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from relgrounding._signals import STOPPING, run_command
from relgrounding.cli import tool

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Of the environment: a process with threads cannot be forked safely."""
SCRIPT = "train"
"""Stands in torchrun's words where the name of a program is."""


class Child:
    """A forked process, with what torchrun and the caller use of `subprocess.Popen`.

    Args:
        work: what it does; returns its exit status.
        output: file that its output is appended to; None: that of this process.
    """

    def __init__(self, work: Callable[[], Any], output: Path | None = None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            end_with(lambda: _run(work, output))

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None: it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            time.sleep(0.02)
        return status


def _run(work: Callable[[], Any], output: Path | None) -> Any:
    """Be the child, in a session of its own."""
    os.setsid()
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    return work()


def end_with(work: Callable[[], Any]) -> NoReturn:
    """Do what a forked process is for, and end it with the exit status that this returns."""
    status = 1
    try:
        status = int(work() or 0)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def torchrun(options: Sequence[str], words: Sequence[str], folder: Path) -> Child:
    """Start ``torchrun OPTIONS tools/train.py WORDS``; its output is appended to FOLDER/said."""

    def popen(_: SubprocessHandler, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
        own = list(arguments[arguments.index(SCRIPT) + 1 :])

        def work() -> None:
            os.environ.clear()
            os.environ.update(environment)
            (folder / f"rank{environment['RANK']}").write_text(str(os.getpid()))
            sys.argv = [SCRIPT, *own]
            run_command(tool("train"))

        return Child(work)

    def agent() -> None:
        SubprocessHandler._popen = popen  # type: ignore[method-assign, assignment]
        torch.distributed.run.main([*options, "--log-dir", str(folder / "log"), SCRIPT, *words])

    folder.mkdir(exist_ok=True)
    return Child(agent, folder / "said")


def ranks(agent: Child, folder: Path) -> dict[int, int]:
    """Return the process id of each rank that a torchrun runs now."""
    found = {}
    for file in folder.glob("rank*"):
        with contextlib.suppress(OSError, ValueError):  # it is not written yet, or the process has ended
            pid = int(file.read_text())
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and int(parent) == agent.pid:
                found[int(file.name[4:])] = pid
    return found
