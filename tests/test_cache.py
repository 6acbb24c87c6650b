"""Where things are kept that are made once: never where others can write, and somewhere without a home folder, too."""

import logging
import os
import stat
import tempfile
from pathlib import Path

import pytest

from relgrounding import _cache

OTHER = 23456
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")


@pytest.fixture(autouse=True)
def _throw_away(tmp_path, monkeypatch):
    """A home and a folder for temporary files that end with the test."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RELGROUNDING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    _cache._of_the_process.cache_clear()
    _cache._say_once.cache_clear()
    before = os.umask(0o002)  # as some systems have it by default
    yield
    os.umask(before)
    if _cache._of_the_process.cache_info().currsize:
        _cache._of_the_process().cleanup()
        _cache._of_the_process.cache_clear()


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "home" / ".cache" / "relgrounding"


@pytest.fixture
def temporary(tmp_path):
    return tmp_path / "tmp" / f"relgrounding-{os.geteuid()}"


def test_all_candidates_in_their_order_and_private(tmp_path, monkeypatch, kept, temporary):
    named = tmp_path / "new" / "deep"
    monkeypatch.setenv("RELGROUNDING_CACHE", str(named))
    *folders, last = _cache.cache_folders()
    assert folders == [named, kept, temporary]
    assert [stat.S_IMODE(f.stat().st_mode) for f in (*folders, last, named.parent, kept.parent)] == [0o700] * 6
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert next(iter(list(_cache.cache_folders())[1:])) == tmp_path / "xdg" / "relgrounding"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # is to be ignored
    assert list(_cache.cache_folders())[1] == kept
    assert _cache.cache_folder() == named


@pytest.mark.parametrize("home", ["", "no/absolute/path", "/nonexistent-home-of-a-daemon", None])
def test_without_a_home_folder_nothing_is_made_for_one(home, monkeypatch, tmp_path, temporary):
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    else:
        monkeypatch.setenv("HOME", home)
    monkeypatch.chdir(tmp_path)
    assert _cache.cache_folder() == temporary
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "tmp"]
    assert not Path("/nonexistent-home-of-a-daemon").exists()


def test_a_folder_that_cannot_be_one_is_passed_over(tmp_path, monkeypatch, kept):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("file", "file/below", "circle", "circle/below", "x" * 300, "nul\0"):
        if "\0" in name:
            assert _cache._usable(tmp_path / name) is None
            continue
        monkeypatch.setenv("RELGROUNDING_CACHE", str(tmp_path / name))
        assert next(_cache.cache_folders()) == kept


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o1777])
def test_a_named_folder_that_others_can_write_is_refused_and_the_remedy_said(mode, tmp_path, monkeypatch, kept, caplog):
    named = tmp_path / "named"
    named.mkdir()
    named.chmod(mode)
    monkeypatch.setenv("RELGROUNDING_CACHE", str(named))
    for _ in range(2):
        assert next(_cache.cache_folders()) == kept
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"'{named}' does not serve as a cache: others can write {named}: 'chmod go-w' it"
    ]
    assert stat.S_IMODE(named.stat().st_mode) == mode, "what the user named stays as it is"


def test_our_own_that_an_earlier_release_left_open_is_shut(kept):
    kept.mkdir(parents=True)
    kept.chmod(0o775)
    assert next(_cache.cache_folders()) == kept
    assert stat.S_IMODE(kept.stat().st_mode) == 0o755


def test_a_folder_above_that_others_can_write_is_refused_unless_it_is_sticky(tmp_path, monkeypatch, kept):
    above = tmp_path / "above"
    monkeypatch.setenv("RELGROUNDING_CACHE", str(above / "named"))
    above.mkdir()
    for mode, safe in ((0o777, False), (0o707, False), (0o1777, True), (0o755, True), (0o775, True)):
        above.chmod(mode)
        assert (next(_cache.cache_folders()) == above / "named") == safe, oct(mode)


@needs_root
@pytest.mark.parametrize("which", ["folder", "above", "link", "group above"])
def test_what_belongs_to_somebody_else_is_refused(which, tmp_path, monkeypatch, kept, caplog):
    above, named = tmp_path / "above", tmp_path / "above" / "named"
    named.mkdir(parents=True)
    named.chmod(0o755)
    if which == "link":
        (tmp_path / "link").symlink_to(named)
        os.chown(tmp_path / "link", OTHER, OTHER, follow_symlinks=False)
        named = tmp_path / "link"
    elif which == "group above":
        os.chown(above, 0, OTHER)
        above.chmod(0o775)
    else:
        os.chown(named if which == "folder" else above, OTHER, OTHER)
    monkeypatch.setenv("RELGROUNDING_CACHE", str(named))
    assert next(_cache.cache_folders()) == kept
    (said,) = (r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)
    assert f"belongs to user {OTHER}" in said or f"others can write {above}, above it" in said


@needs_root
def test_a_trap_in_the_temporary_folder_is_passed_over(tmp_path, monkeypatch, temporary):
    monkeypatch.setenv("HOME", "")
    (tmp_path / "tmp").chmod(0o1777)
    temporary.mkdir()
    os.chown(temporary, OTHER, OTHER)
    found = _cache.cache_folder()
    assert found.parent == tmp_path / "tmp"
    assert found != temporary
    assert found.stat().st_uid == 0


def test_with_no_folder_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert list(_cache.cache_folders()) == []
    assert _cache.cache_folder() is None


@needs_root
@pytest.mark.parametrize("home", ["/root", None])
def test_a_user_without_an_entry_or_a_home_that_opens_has_a_folder(home, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o1777)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HOME", home) if home else monkeypatch.delenv("HOME")
        os.setresuid(OTHER, OTHER, 0)
        try:
            found = _cache.cache_folder()
        finally:
            os.setresuid(0, 0, 0)
        assert found == Path(folder, f"relgrounding-{OTHER}")
        assert os.listdir(folder) == [found.name]


def test_only_folders_with_names_of_our_own_are_cleared_away(tmp_path):
    """The cache may be a folder that holds others: those stay, however old they are."""
    names = ["a" * 32, f"{'b' * 16}-{'0' * 16}", f"{'c' * 16}-{'0' * 16}.part", "photos", "deadbeef", "2019", "d" * 32]
    for name in names:
        (tmp_path / "remote" / name / "inner").mkdir(parents=True)
        os.utime(tmp_path / "remote" / name, (0, 0))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "remote" / ("e" * 32)).symlink_to(tmp_path / "elsewhere")
    _cache.mark_used(tmp_path / "remote" / ("d" * 32))
    left = sorted(path.name for path in (tmp_path / "remote").iterdir())
    assert left == ["2019", "d" * 32, "deadbeef", "e" * 32, "photos"]
    assert (tmp_path / "elsewhere").is_dir()
