"""Files that URLs name: what is fetched, when it is fetched again, and what is said where it cannot be."""

import http.server
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from relgrounding._settings import ConfigError
from relgrounding.io import DataError, MissingFile, _remote
from relgrounding.io._remote import Unreachable, fetched, local_path


class Shelf(LocalFileSystem):
    """Local files as if they were far away; `down` and `short` are what may go wrong there."""

    protocol = "shelf"
    down: Exception | None = None
    short = False
    opened: ClassVar[list[str]] = []

    def info(self, path, **options):
        if Shelf.down:
            raise Shelf.down
        return super().info(path, **options)

    def open(self, path, *rest, **options):
        Shelf.opened.append(os.path.basename(path))
        file = super().open(path, *rest, **options)
        if Shelf.short:
            file.seek(3)
        return file


fsspec.register_implementation("shelf", Shelf, clobber=True)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RELGROUNDING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Shelf, "down", None)
    monkeypatch.setattr(Shelf, "short", False)
    Shelf.opened.clear()


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "far" / "a.txt").write_text("first")
    (tmp_path / "far" / "inner" / "b.txt").write_text("second")
    return f"shelf://{tmp_path}/far"


def copies(tmp_path):
    return sorted(p for p in (tmp_path / "cache" / "remote").iterdir() if p.is_dir())


def test_memory_and_local_files():
    fsspec.filesystem("memory").pipe("/bucket/q.jsonl", b"{}\n")
    copy = fetched("memory://bucket/q.jsonl")
    assert (copy.name, copy.read_bytes()) == ("q.jsonl", b"{}\n")
    fsspec.filesystem("memory").pipe("/bucket/q.jsonl", b"[]\n")
    assert fetched("memory://bucket/q.jsonl").read_bytes() == b"[]\n"
    assert fetched(copy.as_uri()) == copy  # in place
    assert local_path(str(copy)) == copy


def test_a_file_is_fetched_once_and_again_when_it_changes(shelf, tmp_path):
    first = fetched(f"{shelf}/a.txt")
    assert fetched(f"{shelf}/a.txt") == first
    assert Shelf.opened == ["a.txt"]
    (tmp_path / "far" / "a.txt").write_text("other")  # of the same length
    os.utime(tmp_path / "far" / "a.txt", (1, 1))
    second = fetched(f"{shelf}/a.txt")
    assert (first.read_text(), second.read_text()) == ("first", "other")  # who reads the old one may go on


def test_a_folder_is_fetched_whole_and_goes_on_after_an_interruption(shelf, tmp_path, monkeypatch):
    def stop():
        if len(Shelf.opened) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_remote, "look", stop)
    with pytest.raises(KeyboardInterrupt):
        fetched(shelf)
    assert [p.suffix for p in copies(tmp_path)] == [".part"]
    monkeypatch.undo()
    monkeypatch.setenv("RELGROUNDING_CACHE", str(tmp_path / "cache"))
    folder = fetched(shelf)
    assert {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.txt")} == {
        "a.txt": "first",
        "inner/b.txt": "second",
    }
    assert Shelf.opened == ["a.txt", "b.txt", "b.txt"]
    assert not [p for p in (tmp_path / "cache").rglob("*.part")]


def test_a_file_that_comes_short_is_not_kept(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(Shelf, "short", True)
    with pytest.raises(Unreachable, match=r"2 of 5 bytes came of a\.txt; give the command again"):
        fetched(f"{shelf}/a.txt")
    assert [list(p.iterdir()) for p in copies(tmp_path)] == [[]]
    monkeypatch.setattr(Shelf, "short", False)
    assert fetched(f"{shelf}/a.txt").read_text() == "first"


def test_without_a_network_the_last_copy_serves(shelf, monkeypatch, caplog):
    monkeypatch.setattr(Shelf, "down", ConnectionError("no route to shelf://me:secret@host"))
    with pytest.raises(DataError, match=r"cannot be reached \(ConnectionError: no route to shelf://\*\*\*@host\)"):
        fetched(f"{shelf}/a.txt")
    monkeypatch.setattr(Shelf, "down", None)
    copy = fetched(f"{shelf}/a.txt")
    monkeypatch.setattr(Shelf, "down", ConnectionError("no route"))
    assert fetched(f"{shelf}/a.txt") == copy
    assert "its copy of 20" in caplog.text
    monkeypatch.setattr(Shelf, "down", PermissionError("403"))  # an answer: what may not be read is not
    with pytest.raises(DataError, match=r"may not be read \(403\); log in as"):
        fetched(f"{shelf}/a.txt")
    monkeypatch.setattr(Shelf, "down", FileNotFoundError())
    with pytest.raises(MissingFile, match=r"a\.txt does not exist; is it spelt right"):
        fetched(f"{shelf}/a.txt")


def test_a_refused_connection_that_http_reports_as_a_missing_file_is_no_missing_file(shelf, caplog):
    copy = fetched(f"{shelf}/a.txt")
    Shelf.down = FileNotFoundError(f"{shelf}/a.txt")
    Shelf.down.__cause__ = ConnectionRefusedError("refused")
    assert fetched(f"{shelf}/a.txt") == copy
    assert "cannot be reached (ConnectionRefusedError: refused); its copy of" in caplog.text
    Shelf.down.__cause__ = None
    with pytest.raises(MissingFile):
        fetched(f"{shelf}/a.txt")


class Cable(Shelf):
    """A file system that connects as soon as it is made, as those of ftp and sftp do."""

    protocol = "cable"
    cachable = False

    def __init__(self, **options):
        super().__init__(**options)
        if Shelf.down:
            raise Shelf.down


fsspec.register_implementation("cable", Cable, clobber=True)


class OtherLogin(Exception):
    pass


OtherLogin.__name__ = "AuthenticationException"


def test_a_connection_that_cannot_be_made_leaves_the_last_copy(shelf, caplog):
    url = f"{shelf}/a.txt".replace("shelf://", "cable://")
    copy = fetched(url)
    os.utime(copy, (0, 86_400 * 365))  # fetched in 1971, used today
    for reason in (ConnectionRefusedError("refused"), TimeoutError("timed out"), EOFError("gone")):
        Shelf.down = reason
        assert fetched(url) == copy
        assert f"cannot be reached ({type(reason).__name__}: {reason}); its copy of 1971-01-01" in caplog.text
    with pytest.raises(Unreachable, match="cannot be reached"):
        fetched(url.replace("a.txt", "inner"))
    for reason in (OtherLogin("no"), PermissionError("no")):
        Shelf.down = reason
        with pytest.raises(DataError, match=r"may not be read \(no\); log in as"):
            fetched(url)
    Shelf.down = TypeError("missing 1 required argument: 'host'")
    with pytest.raises(ConfigError, match="cannot be used: missing 1 required"):
        fetched(url)


def test_nothing_listens_where_ftp_is_asked():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ftp://me:sec@ret@127.0.0.1:{free.getsockname()[1]}/a.h5"
        with pytest.raises(Unreachable, match=r"^ftp://\*\*\*@127\.0\.0\.1:\d+/a\.h5 cannot be reached \(Conn"):
            fetched(url)


@pytest.mark.parametrize("password", ["pa/ss", "pa#s@s", "1/?"])
def test_a_password_that_ends_the_name_of_the_host_is_refused(password):
    with pytest.raises(ConfigError, match=r"^ftp://\*\*\*@127\.0\.0\.1/a holds '/', '\?' or '#' in its password"):
        fetched(f"ftp://me:x{password}@127.0.0.1/a")


@pytest.fixture
def site(tmp_path):
    """A web server of a folder; and what was asked of it."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *rest):
            super().__init__(*rest, directory=tmp_path / "far")

        def log_message(self, *rest):
            asked.append((self.command, self.path))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_url_that_is_signed_anew_has_the_same_copy(shelf, site, tmp_path):
    """With fsspec's own http."""
    at, asked = site
    first = fetched(f"{at}/a.txt?X-Amz-Date=1&X-Amz-Signature=secret1&part=2")
    for again in ("X-Amz-Date=2&X-Amz-Signature=secret2&part=2", "part=2", "part=2&token=3"):
        assert fetched(f"{at}/a.txt?{again}") == first
    assert first.read_text() == "first"
    assert [command for command, _ in asked].count("GET") == 1
    others = {fetched(f"{at}/a.txt?{other}") for other in ("part=3", "key=secret4&part=2", "author=5&part=2")}
    assert len(others | {first}) == 4
    (tmp_path / "far" / "a.txt").write_text("other")
    os.utime(tmp_path / "far" / "a.txt", (1, 1))
    assert fetched(f"{at}/a.txt?part=2").read_text() == "other"
    assert not [path for path in (tmp_path / "cache").rglob("*") if "secret" in path.name]


def test_what_follows_the_name_in_a_url_is_no_part_of_it():
    assert _remote._file_name("http://host/a.h5?token=secret") == "a.h5"
    assert _remote._file_name("bucket/what?.h5") == "what?.h5"
    assert _remote._file_name("http://host/") == "host"


def test_what_is_too_large_is_not_begun(shelf, monkeypatch):
    monkeypatch.setenv("RELGROUNDING_REMOTE_GB", "0.000000001")
    with pytest.raises(DataError, match="above 0 GB; raise RELGROUNDING_REMOTE_GB"):
        fetched(shelf)
    monkeypatch.setenv("RELGROUNDING_REMOTE_GB", "1")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(DataError, match=r"0\.0 GB free; name another folder in RELGROUNDING_CACHE"):
        fetched(shelf)
    assert Shelf.opened == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://me:secret@host/a.h5", r"nowhere://\*\*\*@host/a.h5 cannot be used: Protocol not known: nowhere"),
        ("lost://bucket/a.h5", r"lost://bucket/a.h5: Install lostfs to access it; pip install lostfs"),
    ],
)
def test_file_systems_that_are_not_there(url, message):
    fsspec.register_implementation("lost", "lostfs.Lost", clobber=True, errtxt="Install lostfs to access it")
    with pytest.raises(ConfigError, match=message) as caught:
        fetched(url)
    assert "secret" not in str(caught.value)


def test_names_that_leave_their_folder_are_refused(shelf, monkeypatch):
    monkeypatch.setattr(Shelf, "find", lambda self, path, **_: {f"{path}/../x": {"size": 1, "name": "x"}})
    with pytest.raises(DataError, match="which leaves its folder"):
        fetched(shelf)


def test_of_several_processes_one_fetches(shelf, tmp_path):
    """In processes of their own, which import no more than the module needs."""
    code = textwrap.dedent(
        """
        import sys, time, fsspec
        from fsspec.implementations.local import LocalFileSystem
        class Shelf(LocalFileSystem):
            protocol = "shelf"
            def open(self, *rest, **options):
                time.sleep(0.5)
                print("opened", flush=True)
                return super().open(*rest, **options)
        fsspec.register_implementation("shelf", Shelf)
        from relgrounding.io._remote import fetched
        print(fetched(sys.argv[1]).read_text())
        """
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, f"{shelf}/a.txt"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0].split() for process in started]
    assert sorted(map(len, said)) == [1, 2]
    assert [words[-1] for words in said] == ["first"] * 2
