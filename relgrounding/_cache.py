"""Cache folders, to which only this user or root may write.

The candidates, in order: the folder in `RELGROUNDING_CACHE`, ``relgrounding`` in the user's cache
(`XDG_CACHE_HOME`, ``~/.cache``), ``relgrounding-USER`` in the folder for temporary files, and one that ends with the
process.
"""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from relgrounding._printing import get_logger
from relgrounding._signals import look

UNUSED_DAYS = 60
_WAIT = 0.2
# Names of the folders that `mark_used` is for: digests.
_KEY = re.compile(r"[0-9a-f]{32}|[0-9a-f]{16}-[0-9a-f]{16}(\.part)?")
_threads = threading.RLock()
_logger = get_logger("relgrounding")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path | None:
    """Return the first writable folder, or None."""
    for folder in cache_folders():
        try:
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def cache_folders() -> Iterator[Path]:
    """Yield the safe folders that exist or can be created; they may not be writable."""
    named, base = os.environ.get("RELGROUNDING_CACHE"), _user_cache()
    if named and (folder := _usable(Path(named))):
        yield folder
    if base and (folder := _usable(base / "relgrounding", own=True)):
        yield folder
    try:
        temporary = Path(tempfile.gettempdir())
        if folder := _usable(temporary / f"relgrounding-{_user()}", own=True):
            yield folder
        yield Path(_of_the_process().name)
    except OSError as error:  # no folder for temporary files, either
        _logger.debug("no temporary folder: %s", error)


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, so that one process makes what is kept in a cache and the others wait for it.

    Args:
        path: of the lock file, which stays.
        what: is made, for the line about waiting.

    Raises:
        Interrupted: a signal came while waiting.
    """
    with _threads, path.open("a") as file:  # threads of a process share its locks
        waiting = False
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    _logger.debug("%s: the file system has no locks (%s)", path, error)
                    break
            if not waiting:
                _logger.warning("waiting for another process, which makes %s", what)
            waiting = True
            look()
            time.sleep(_WAIT)
        yield


def mark_used(folder: Path) -> None:
    """Note that a folder of a cache is in use, and remove those beside it that were not used for 60 days.

    Only folders with a name that this package gives are removed: `RELGROUNDING_CACHE` may hold others, too.
    """
    with contextlib.suppress(OSError):
        os.utime(folder)
        for other in folder.parent.iterdir():
            own = _KEY.fullmatch(other.name) and other.is_dir() and not other.is_symlink()
            if own and time.time() - other.stat().st_mtime > UNUSED_DAYS * 86_400:
                shutil.rmtree(other, ignore_errors=True)


def why_unsafe(path: Path, status: os.stat_result) -> str | None:
    """Return why the files of a folder cannot be trusted; None if only this user or root can write to it."""
    if status.st_uid not in (0, _user()):
        return f"{path} belongs to user {status.st_uid}, not to this one"
    if status.st_mode & _OTHERS_WRITE:
        return f"others can write {path}: 'chmod go-w' it"
    return None


def _user_cache() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base)
    home = os.path.expanduser("~") if os.environ.get("HOME", "~") else ""
    # "~" stays unexpanded for a user without an entry; a missing home, as of a daemon, is not created.
    return Path(home, ".cache") if os.path.isabs(home) and os.path.isdir(home) else None


def _usable(folder: Path, own: bool = False) -> Path | None:
    """Return the folder with links resolved, created if missing; None if it is unsafe or cannot be created."""
    try:
        for missing in reversed([x for x in (folder, *folder.parents) if not x.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        if os.name != "posix":  # no owners and permission bits
            return folder.resolve(strict=True)
        status = folder.lstat()
        if own and status.st_uid == _user() and stat.S_ISDIR(status.st_mode) and status.st_mode & _OTHERS_WRITE:
            folder.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS_WRITE)  # an earlier release left it open
        reason = None if status.st_uid in (0, _user()) else f"it belongs to user {status.st_uid}"
        folder = folder.resolve(strict=True)
        reason = reason or why_unsafe(folder, folder.stat()) or _unsafe_above(folder)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        _say_once(logging.INFO, folder, str(error))
        return None
    if reason:
        _say_once(logging.WARNING, folder, reason)
    return None if reason else folder


def _unsafe_above(folder: Path) -> str | None:
    """Return why another user could replace the folder; None: nobody could."""
    for parent in folder.parents:
        status = parent.stat()
        # In a sticky folder such as /tmp only the owner of a file can move it. With mapped user ids, the folders of
        # root have the owner of the root of the file system.
        if status.st_uid not in (0, _user(), os.stat("/").st_uid):
            return f"{parent}, above it, belongs to user {status.st_uid}"
        # The user's own group is tolerated: systems that let it write by default give it no other member.
        group = stat.S_IWGRP if status.st_gid not in (0, os.getegid()) else 0
        if status.st_mode & (group | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
            return f"others can write {parent}, above it: 'chmod go-w' it"
    return None


@functools.cache
def _say_once(level: int, folder: Path, reason: str) -> None:
    _logger.log(level, "%r does not serve as a cache: %s", str(folder), reason)


@functools.cache
def _of_the_process() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="relgrounding-")


def _user() -> int:
    return os.geteuid() if os.name == "posix" else 0
