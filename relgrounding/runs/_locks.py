"""Who may write a run folder, and how one is replaced.

A POSIX record lock (`fcntl.lockf`) belongs to a process: it goes when the process dies, however that happens, is not
inherited by forked workers, as `flock`'s is, and works over NFS where the server's lock service runs. Such a lock
knows nothing of threads, and closing any descriptor of the file frees it: a table of what this process holds comes
before.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shlex
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from relgrounding._printing import get_logger
from relgrounding._settings import ConfigError, read_yaml
from relgrounding.runs._folder import RunError, RunFolder

logger = get_logger("relgrounding.training")

LOCK = ".lock"
BUSY = (errno.EACCES, errno.EAGAIN)
HELD: set[tuple[int, int]] = set()
"""Device and number of each lock file that this process holds."""


@contextlib.contextmanager
def hold_run(folder: RunFolder, overwrite: bool = False) -> Iterator[Callable[[], None]]:
    """Hold the lock of a run while it is written.

    Args:
        folder: of the run; made where there is none, and left behind only if something was written into it.
        overwrite: replace the run. What is written goes to a hidden folder beside it, which `folder` names until the
            function that is yielded is called: it puts the new folder in the old one's place and deletes the old one.
            An exception before that leaves the old run as it was.

    Raises:
        RunError: another process holds the lock (the message says who), the folder cannot be written, or what is to be
            replaced is no run.
    """
    path, staged = folder.path, None
    with contextlib.ExitStack() as stack:
        try:
            if overwrite and os.path.lexists(path) and _must_be_run(path):
                stack.enter_context(_locked(path))
                staged = _beside(path, "new")
            stack.enter_context(_locked(staged or path))
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror or error}; choose another --runs") from None
        folder.path = staged or path

        def settle() -> None:
            if staged is not None and folder.path == staged:
                _replace(path, staged)
                folder.path = path

        try:
            yield settle
        finally:
            _remove_unused(folder.path)
            folder.path = path


def run_files(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Return what run folders hold and a command must not write over with something of its own."""
    kinds = (".yaml", ".json", ".jsonl", ".pt")
    return [file for path in map(Path, paths) if os.path.isdir(path) for file in path.iterdir() if file.suffix in kinds]


def check_free(path: Path) -> None:
    """Raise RunError where another process holds the lock of a run."""
    if os.path.lexists(path / LOCK):
        with _locked(path):
            pass


def _must_be_run(path: Path) -> bool:
    """Return whether there is a run to be replaced: a folder of nothing but what locks it is none."""
    if path.is_symlink() or not path.is_dir():
        raise RunError(f"{path} is a link or a file; --overwrite deletes only the folder of a run: remove it yourself")
    if os.listdir(path) in ([], [LOCK]):
        return False
    config = path / "config.yaml"
    with contextlib.suppress(ConfigError):
        settings = {} if config.is_symlink() or not config.is_file() else read_yaml(config)
        versions = settings.get("versions")
        if isinstance(versions, dict) and "relgrounding" in versions:
            return True
    raise RunError(
        f"{path} is not known to be a run: it has no config.yaml that ends with the versions of a run; --overwrite "
        "deletes nothing else: remove it yourself, or choose another name"
    )


def _replace(path: Path, staged: Path) -> None:
    """Put a folder in the place of an old run, and delete that."""
    old = _beside(path, "old")
    try:
        os.rename(path, old)
        try:
            os.rename(staged, path)
        except OSError:
            os.rename(old, path)
            raise
    except OSError as error:
        raise RunError(f"{path} cannot be replaced: {error.strerror or error}; it is as it was") from None
    try:
        shutil.rmtree(old)
    except OSError as error:
        logger.warning("what is left of the old run could not be deleted: %s", error)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{what}")


def _remove_unused(path: Path) -> None:
    """Remove a folder that holds nothing but the lock."""
    with contextlib.suppress(OSError):
        if os.listdir(path) == [LOCK]:
            os.unlink(path / LOCK)
            os.rmdir(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file of a folder, which is made.

    Raises:
        RunError: it is held; or it is no plain file.
        OSError: it cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    file = path / LOCK
    with contextlib.suppress(FileNotFoundError):
        facts = os.lstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise RunError(f"{file} is not a plain file; remove it")
        if (facts.st_dev, facts.st_ino) in HELD:  # and opening it here, and closing it, would free it
            raise RunError(f"{path} is in use by this process, {os.getpid()}")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    facts = os.fstat(descriptor)
    key = facts.st_dev, facts.st_ino
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                raise RunError(f"{path} is in use by {_read_holder(descriptor)}; wait for it, or stop it") from None
            logger.warning("%s: no locks here (%s); see to it that one command at a time writes it", path, error)
        if not os.path.lexists(file) or os.lstat(file).st_ino != facts.st_ino:
            raise RunError(f"{path} was replaced by another process just now; try again")
        HELD.add(key)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": shlex.join(sys.argv)[:500],
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)
        yield
    finally:
        HELD.discard(key)
        os.close(descriptor)


def _read_holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return "process {pid} on {host} since {since} ({command!a})".format(**holder)
    except (ValueError, TypeError, KeyError, OSError):
        return "another process"
