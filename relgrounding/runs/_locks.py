"""Locks on run folders, and their replacement.

A POSIX record lock (`fcntl.lockf`) belongs to a process: it is released whenever the process dies, is not inherited by
forked workers, unlike that of `flock`, and works over NFS if the lock service of the server runs. It does not exclude
threads of the same process, and closing any descriptor of the file releases it; therefore a table of the locks that
this process holds is consulted first.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from relgrounding._files import no_empty_folders
from relgrounding._printing import get_logger
from relgrounding._urls import masked
from relgrounding.runs._folder import RunError, RunFolder, is_run

logger = get_logger("relgrounding.training")

LOCK = ".lock"
BUSY = (errno.EACCES, errno.EAGAIN)
HELD: set[tuple[int, int]] = set()
"""Device and inode of each lock file that this process holds."""


class RunInUse(RunError):
    """A process holds the lock of a run; the message names it."""


@contextlib.contextmanager
def hold_run(
    folder: RunFolder, overwrite: bool = False, read: Mapping[str, Path] | None = None
) -> Iterator[Callable[[], None]]:
    """Hold the lock of a run while it is written.

    Args:
        folder: of the run; it and those above it are created if missing, and removed again if nothing was written.
        overwrite: replace the run. Files are written to a hidden folder next to it, which `folder` refers to until the
            yielded function is called: it replaces the old folder by the new one and deletes the old one. An exception
            before that leaves the old run unchanged.
        read: what the new run reads, by setting; it is not deleted.

    Raises:
        RunError: another process holds the lock (the message names it), the folder cannot be written, or what is to be
            replaced is not a run, holds another one or what the new one reads.
    """
    path, staged, before = folder.path, None, None
    with no_empty_folders(path), contextlib.ExitStack() as stack:
        try:
            before = os.listdir(path) if path.is_dir() else None
            if overwrite and os.path.lexists(path) and _must_be_run(path):
                _check_kept(path, read or {})
                stack.enter_context(_locked(path))
                staged = _beside(path, "new")
            stack.enter_context(_locked(staged or path))
        except OSError as error:
            if staged is not None:
                _remove_unused(staged)
            raise RunError(f"{path} cannot be written: {error.strerror or error}; choose another --runs") from None
        folder.path = staged or path

        def settle() -> None:
            if staged is not None and folder.path == staged:
                _replace(path, staged)
                folder.path = path

        try:
            yield settle
        finally:
            _remove_unused(folder.path, before if folder.path == path else None)
            folder.path = path


def run_files(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Return the files of run folders that a command must not overwrite with its own output."""
    kinds = (".yaml", ".json", ".jsonl", ".pt")
    return [file for path in map(Path, paths) if os.path.isdir(path) for file in path.iterdir() if file.suffix in kinds]


def check_free(path: Path) -> None:
    """Raise RunInUse if another process holds the lock of a run, and RunError if its lock file is not one."""
    if os.path.lexists(path / LOCK):
        with _locked(path, sign=False):
            pass


def _must_be_run(path: Path) -> bool:
    """Return whether there is a run to replace; a folder with nothing but a lock file is not a run."""
    if path.is_symlink() or not path.is_dir():
        raise RunError(f"{path} is a link or a file; --overwrite deletes only run folders: remove it yourself")
    if os.listdir(path) in ([], [LOCK]):
        return False
    if is_run(path):
        return True
    raise RunError(
        f"{path} is not a run folder: it has no config.yaml with the section 'versions' of a run; --overwrite deletes "
        "nothing else: remove it yourself, or choose another name"
    )


def _check_kept(path: Path, read: Mapping[str, Path]) -> None:
    """Raise RunError if other runs, or what the new run reads, would be deleted with the folder of a run."""
    for inner in path.rglob("config.yaml"):
        if inner.parent != path and is_run(inner.parent):
            raise RunError(f"{path} holds another run, {inner.parent}, which --overwrite would delete; move it away")
    for key, source in read.items():
        there = source.resolve()
        if path.resolve() in (there, *there.parents):
            raise RunError(
                f"{key} is {source}, which --overwrite would delete with {path}; move it away, or give this run "
                "another name with name=..."
            )


def _replace(path: Path, staged: Path) -> None:
    """Replace the folder of an old run by another folder, and delete the old one."""
    old = _beside(path, "old")
    try:
        os.rename(path, old)
        try:
            os.rename(staged, path)
        except OSError:
            os.rename(old, path)
            raise
    except OSError as error:
        raise RunError(f"{path} cannot be replaced: {error.strerror or error}; it is unchanged") from None
    try:
        shutil.rmtree(old)
    except OSError as error:
        logger.warning("the rest of the old run could not be deleted: %s", error)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{what}")


def _remove_unused(path: Path, before: Sequence[str] | None = None) -> None:
    """Remove a folder that is new and holds nothing but the lock file, or the lock file that another folder got.

    Args:
        path: of the folder.
        before: what it held before it was locked; None: it was not there.
    """
    with contextlib.suppress(OSError):
        if before is None and os.listdir(path) in ([], [LOCK]):
            (path / LOCK).unlink(missing_ok=True)
            os.rmdir(path)
        elif LOCK not in (before or ()) and not is_run(path):
            (path / LOCK).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path, sign: bool = True) -> Iterator[None]:
    """Create a folder if it is missing and hold its lock file.

    Args:
        path: of the folder.
        sign: write who holds it.

    Raises:
        RunError: it is already held, or not the lock file of a run.
        OSError: it cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    file = path / LOCK
    made = True
    with contextlib.suppress(FileNotFoundError):
        facts = os.lstat(file)
        made = False
        if not stat.S_ISREG(facts.st_mode):
            raise RunError(f"{file} is not a plain file; move it away, or choose another folder")
        if (facts.st_dev, facts.st_ino) in HELD:  # opening and closing it here would release it
            raise RunInUse(f"{path} is in use by this process, {os.getpid()}")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    facts = os.fstat(descriptor)
    key = facts.st_dev, facts.st_ino
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                other = _read_holder(descriptor) or "another process"
                raise RunInUse(f"{path} is in use by {other}; wait for it, or stop it") from None
            logger.warning("%s: the file system has no locks (%s); let only one command write to it", path, error)
        if not os.path.lexists(file) or os.lstat(file).st_ino != facts.st_ino:
            raise RunError(f"{path} was just replaced by another process; try again")
        # One that is empty was left by a process that died before it wrote, or belongs to another program.
        ours = _read_holder(descriptor) or (not facts.st_size and (made or os.listdir(path) == [LOCK] or is_run(path)))
        if not ours:
            raise RunError(f"{file} was not written by this program; move it away, or choose another folder")
        HELD.add(key)
        if sign:
            _sign(descriptor)
        yield
    finally:
        HELD.discard(key)
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    """Write who holds a lock file."""
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join(map(masked, sys.argv))[:500],
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)


def _read_holder(descriptor: int) -> str:
    """Return who wrote a lock file; empty if it is not one of this program, or cannot be read."""
    try:
        holder = json.loads(os.pread(descriptor, 1 << 14, 0))
        return "process {pid} on {host} since {since} ({command!a})".format(**holder)
    except (ValueError, TypeError, KeyError, OSError, RecursionError):
        return ""
