"""Files and folders that a URL names, of any file system that fsspec knows, as copies in the cache.

A copy is named by the URL and by what the file system says of the content (ETag, checksum, time of change, size), so
that it is fetched again once that changes. It appears whole or not at all; of a folder that was fetched in part, the
files that are whole stay. One process of several fetches, the others wait.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from relgrounding._cache import cache_folder, exclusive, mark_used
from relgrounding._files import clear_parts, replacing
from relgrounding._printing import get_logger, progress
from relgrounding._settings import ConfigError
from relgrounding._signals import look
from relgrounding._urls import identity, is_url, masked, note_copy
from relgrounding.io._errors import DataError, MissingFile

logger = get_logger("relgrounding.io")

BLOCK = 2**22
SPARE = 2**28
"""Bytes that a copy leaves free."""
LIMIT = "RELGROUNDING_REMOTE_GB"
"""Environment variable: the largest copy, in gigabytes."""
MOST = 500
_MARKS = (
    *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "generation", "version_id", "VersionId"),
    *("blob_id", "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created"),
)
"""What file systems call the facts that change with the content."""
_NO_ENTRY = re.compile("Credential|Authentication|^error_perm$")
"""Names of the errors of a login: those of cloud packages, of sftp, of ftp."""
_CUT_PASSWORD = re.compile(r"://[^\s/?#@:\[]*:(?!\d*(?:[/?#]|$))[^/?#@]*[/?#].*@")
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class Unreachable(DataError):
    """A file system that does not answer, or not as it should."""


def local_path(name: "str | os.PathLike[str]") -> Path:
    """Return a path as it is, and the local copy of what a URL names; see `fetched`."""
    return fetched(name) if isinstance(name, str) and is_url(name) else Path(name)


def fetched(url: str) -> Path:
    """Return the copy of the file or the folder that a URL names, fetched if the cache does not hold it.

    Where the file system does not answer, the last copy is taken, and a warning says so. file:// names a path.

    Args:
        url: such as s3://bucket/features.h5, hf://datasets/USER/NAME/train.jsonl, gs://bucket/folder.

    Raises:
        ConfigError: no file system is known for the URL, or its package is not installed.
        MissingFile: there is nothing at the URL.
        DataError: it may not be read, cannot be reached and was never fetched, is too large, or changed meanwhile.
        OSError: the copy cannot be written.
    """
    shown = masked(url)
    try:
        system, path = _file_system(url, shown)
        if "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol):
            return Path(path)
        members, version = _members(system, path, shown)
    except Unreachable as error:
        return note_copy(_last_copy(url, error), shown)
    folder, key = _place(url)
    copy, name = folder / f"{key}-{version}", _file_name(path)
    if not copy.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / f"{key}.lock", f"the copy of {shown}"):
            if not copy.is_dir():
                _fetch(system, path, members, copy, name, shown)
                if _members(system, path, shown)[1] != version:
                    shutil.rmtree(copy.with_name(f"{copy.name}.part"))
                    raise DataError(f"{shown} changed while it was fetched; give the command again")
                os.replace(copy.with_name(f"{copy.name}.part"), copy)
    mark_used(copy)
    return note_copy(copy / name, shown)


def _place(url: str) -> tuple[Path, str]:
    """Return the folder of copies, and what the names of those of a URL begin with."""
    cache = cache_folder()
    if cache is None:
        raise DataError(f"{url}: no folder for its copy can be written; set RELGROUNDING_CACHE")
    return cache / "remote", hashlib.sha256(identity(url).encode()).hexdigest()[:16]


def _last_copy(url: str, error: Unreachable) -> Path:
    """Return the last copy of what a URL names, where the file system does not answer; without one, raise the error."""
    folder, key = _place(url)
    copies = [copy for copy in folder.glob(f"{key}-*/*") if copy.parent.suffix != ".part"]
    if not copies:
        raise error
    last = max(copies, key=lambda copy: copy.stat().st_mtime)
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(last.stat().st_mtime))
    logger.warning("%s; its copy of %s is used", error, since)
    mark_used(last.parent)
    return last


def _file_name(path: str) -> str:
    """Return the name of a copy; http keeps what follows "?" in its paths, which may be a secret."""
    plain = re.split("[?#]", path)[0] if "://" in path else path
    return PurePosixPath(plain.rstrip("/")).name or "data"


def _file_system(url: str, shown: str) -> tuple[Any, str]:
    """Return the file system of a URL, connected where it is of a kind that connects at once, and the path in it."""
    from fsspec.core import url_to_fs  # takes its time, and most runs read files of their own

    if _CUT_PASSWORD.search(url):
        raise ConfigError(
            f"{shown} holds '/', '?' or '#' in its password, which ends the name of the host; give the password in "
            "fsspec's configuration, or log in as the file system's package documents"
        )
    with _in_words(shown):
        try:
            return url_to_fs(url)
        except ImportError as error:
            package = re.search(r"[Ii]nstall (?:the )?['`\"]?([\w.-]+)", str(error))
            remedy = f"; pip install {package[1]}" if package else ""
            raise ConfigError(f"{shown}: {_brief(error)}{remedy}") from None
        except (ValueError, TypeError, LookupError, AttributeError, FileNotFoundError) as error:
            raise ConfigError(
                f"{shown} cannot be used: {_brief(error)}; see fsspec's list of file systems, or give a local path"
            ) from None


@contextlib.contextmanager
def _in_words(shown: str) -> Iterator[None]:
    """Turn the errors of file systems into those of data."""
    try:
        yield
    except (DataError, ConfigError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        cause = error.__cause__
        if isinstance(cause, (OSError, TimeoutError)) and not isinstance(cause, FileNotFoundError):
            # What fsspec's http makes of a refused connection, or of a name without an address.
            raise Unreachable(f"{shown} cannot be reached ({type(cause).__name__}: {_brief(cause)})") from None
        raise MissingFile(f"{shown} does not exist; is it spelt right, and visible to this user?") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        if isinstance(error, PermissionError) or _NO_ENTRY.search(type(error).__name__):
            raise DataError(
                f"{shown} may not be read ({_brief(error)}); log in as its file system's package documents, such as "
                "with environment variables or its own configuration file"
            ) from None
        raise Unreachable(f"{shown} cannot be reached ({type(error).__name__}: {_brief(error)})") from None


def _members(system: Any, path: str, shown: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Return what the file system says of a file, under the name "", or of the files below a folder; and a digest."""
    with _in_words(shown):
        system.invalidate_cache()
        about = system.info(path)
        members: dict[str, dict[str, Any]] = {"": about}
        marks: list[Any] = []
        if about["type"] == "directory":
            found = system.find(path, detail=True)
            root = about["name"].rstrip("/") + "/"
            members = {name.removeprefix(root).lstrip("/"): about for name, about in sorted(found.items())}
            if not members:
                raise FileNotFoundError(path)
        elif "://" not in path:  # http makes a key of the URL, whose signature may be another one tomorrow
            with contextlib.suppress(Exception):  # not every file system has it
                marks.append(system.ukey(path))
    for name in members:
        if ".." in PurePosixPath(name).parts or "\\" in name:
            raise DataError(f"{shown} holds the name {name!r}, which leaves its folder")
    marks += [[name, facts.get("size"), *(str(facts.get(mark)) for mark in _MARKS)] for name, facts in members.items()]
    return members, hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]


def _fetch(system: Any, path: str, members: dict[str, dict[str, Any]], copy: Path, name: str, shown: str) -> None:
    """Copy files into a folder of its own, which is not yet that of the copy."""
    unfinished = copy.with_name(f"{copy.name}.part")
    targets = {member: unfinished / name / member if member else unfinished / name for member in members}
    for folder in {target.parent for target in targets.values()}:
        folder.mkdir(parents=True, exist_ok=True)
        clear_parts(folder)
    missing = [member for member, target in targets.items() if not target.is_file()]
    total = sum(members[member].get("size") or 0 for member in missing)
    limit = _limit()
    _check_room(total, limit, unfinished, shown)
    bar: Any = progress(desc=f"fetching {name}", unit="B", total=total or None)
    with bar:
        for member in missing:
            facts = members[member]
            with _in_words(shown), replacing(targets[member]) as beside, beside.open("wb") as file:
                with system.open(facts["name"] if member else path, "rb") as source:
                    while block := source.read(BLOCK):
                        look()
                        file.write(block)
                        bar.update(len(block))
                        if bar.n > limit:
                            _check_room(bar.n, limit, unfinished, shown)
                if facts.get("size") is not None and file.tell() != facts["size"]:
                    raise Unreachable(
                        f"{shown}: {file.tell():,} of {facts['size']:,} bytes came of {member or name}; "
                        "give the command again"
                    )


def _limit() -> float:
    given = os.environ.get(LIMIT, "")
    try:
        return (float(given) if given else MOST) * 1e9
    except ValueError:
        raise ConfigError(f"{LIMIT} is {given[:40]!r}; give a number of gigabytes") from None


def _check_room(size: int, limit: float, folder: Path, shown: str) -> None:
    if size > limit:
        raise DataError(f"{shown} has {size / 1e9:,.1f} GB or more, above {limit / 1e9:,.0f} GB; raise {LIMIT}")
    free = shutil.disk_usage(folder).free
    if size + SPARE > free:
        raise DataError(
            f"{shown} has {size / 1e9:,.1f} GB, and {folder.parent} has {free / 1e9:,.1f} GB free; name another "
            "folder in RELGROUNDING_CACHE"
        )


def _brief(error: Exception) -> str:
    return masked((str(error).splitlines() or [""])[0])[:200]
