"""The process, or processes, that train one run of a grid."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import relgrounding

if TYPE_CHECKING:
    from relgrounding.training import Job

LINES = 8
"""Of a log, that are shown of a run that failed."""


@dataclass(frozen=True)
class Work:
    """A run that is to be trained; it travels to the machine that trains it.

    Attributes:
        name: of the run.
        runs: folder of the runs.
        file: the configuration.
        words: its settings.
        threads: CPU threads of each process.
        processes: that train it together.
    """

    name: str
    runs: str
    file: str
    words: tuple[str, ...]
    threads: int
    processes: int = 1

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.runs) / self.name

    def command(self, logs: str) -> list[str]:
        """Return the command that trains it, or goes on with it; of several processes, with a folder for their logs."""
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes)]
        several += ["--log-dir", logs]
        command = [sys.executable, *(several if self.processes > 1 else []), "-m", "relgrounding", "train"]
        command += ["--config", self.file, "--runs", self.runs, "--stop-with-stdin", "--threads", str(self.threads)]
        return [*command, *self.words, *(["--resume"] if (self.folder / "last.pt").is_file() else [])]


def work_of(job: "Job", runs: Path, threads: int, processes: int) -> Work:
    """Return what is to be trained for a job."""
    return Work(job.name, str(runs), job.file, job.words, threads, processes)


class Training:
    """A run that is being trained.

    Its processes are a session of their own: Ctrl-C reaches them once, from `stop`, and not a second time from the
    terminal. Their standard input ends when this process does, however it ends, and they stop then, too.
    """

    def __init__(self, work: Work) -> None:
        work.folder.mkdir(parents=True, exist_ok=True)
        self.log, self._together = work.folder / "train.log", work.processes > 1
        # torchrun makes folders below it, and leaves them.
        self._logs = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(work.threads), "PYTHONPATH": search_path()}
        with self.log.open("ab") as log:
            self._begun = log.tell()
            self._process = subprocess.Popen(
                work.command(self._logs.name),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def poll(self) -> list[str] | None:
        """Return None while it runs, then the reason why it failed, with the end of its log; nothing if it did not."""
        code = self._process.poll()
        if code is None:
            return None
        self._logs.cleanup()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if code == 0:
            return []
        lines = last_lines(self.log, self._begun, LINES if not self._together else 1000)
        # torchrun ends with a report of its own, below what a process said.
        said = max((number for number, line in enumerate(lines) if "error: " in line), default=len(lines) - 1)
        *before, last = lines[max(0, said - LINES + 1) : said + 1] or ["no output"]
        return [f"exit status {code}: {last}; all of it is in {self.log}", *before]

    @property
    def signalled(self) -> bool:
        """Whether it may have been ended by a signal."""
        code = self._process.returncode or 0
        return code < 0 or code > 128 or (code != 0 and self._together)

    def stop(self) -> None:
        """Interrupt it; it keeps its state."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def wait(self, most: float) -> None:
        """Wait until it is over, for some seconds at most; also within a handler of signals."""
        until = time.monotonic() + most
        while time.monotonic() < until and not self._over():
            time.sleep(0.1)

    def _over(self) -> bool:
        # Not `poll`, whose lock the interrupted code may hold.
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True


def last_lines(log: Path, start: int = 0, most: int = LINES) -> list[str]:
    """Return the last lines of a log; of bars, as they were drawn last.

    Args:
        log: the file; it may be missing.
        start: byte at which to begin.
        most: number of lines.
    """
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 16384))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return list(filter(None, lines))[-most:]


def search_path() -> str:
    """Return PYTHONPATH for processes that import this package, also from a clone that is not installed."""
    found = [str(Path(relgrounding.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.pathsep.join(dict.fromkeys(found))
