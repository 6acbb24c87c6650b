"""The C++ kernels: what may be loaded, what a compiler may do wrong, and where its work is kept."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import relgrounding
from relgrounding.ops import _cpp

OTHER = 23456
needs_compiler = pytest.mark.skipif(bool(_cpp.cpp_reason()), reason="there is no C++ compiler")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away and mounts")


@pytest.fixture(autouse=True)
def _small_library(tmp_path, monkeypatch):
    """One function in the place of the kernels, so that compiling takes no time; a home that ends with the test."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "answer.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(_cpp, "_SOURCES", sources)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "cache"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def compiled(monkeypatch):
    """Folders in which something was compiled."""
    folders, compile_ = [], _cpp._compile
    monkeypatch.setattr(_cpp, "_compile", lambda command, path: folders.append(path.parent) or compile_(command, path))
    return folders


def fake(tmp_path, script):
    """A compiler that is a shell script."""
    path = tmp_path / "fake"
    path.write_bytes(b"#!/bin/sh\n" + script)
    path.chmod(0o755)
    return [str(path)]


def answer(folder, *others):
    return _cpp.load(_cpp.compiler(), [folder, *others]).answer()


def only(folder, pattern="*.so"):
    (path,) = folder.glob(pattern)
    return path


def spoil(path, how):
    data = path.read_bytes()
    path.unlink()  # what is loaded stays loaded
    if how == "missing":
        return
    if how == "folder":
        path.mkdir()
    elif how == "link":
        elsewhere = path.with_name("elsewhere")
        elsewhere.write_bytes(data)
        path.symlink_to(elsewhere)
    else:
        changed = {"empty": b"", "cut": data[: len(data) // 2], "other": data[:18] + b"\xf3\x00" + data[20:]}
        path.write_bytes(changed.get(how, data))
        path.chmod({"group writes": 0o775, "others write": 0o707}.get(how, 0o755))
        if how == "another's":
            os.chown(path, OTHER, OTHER)


@needs_compiler
@pytest.mark.parametrize(
    "how",
    [
        *("missing", "empty", "cut", "other", "link", "group writes", "others write"),
        pytest.param("another's", marks=needs_root),
    ],
)
def test_a_library_that_is_damaged_or_that_others_could_change_is_made_again(how, folder, compiled):
    assert answer(folder) == answer(folder) == 42
    assert len(compiled) == 1
    spoil(only(folder), how)
    assert answer(folder) == 42
    assert len(compiled) == 2
    path = only(folder)
    assert not path.is_symlink()
    assert (path.stat().st_uid, path.stat().st_mode & 0o022) == (os.geteuid(), 0)
    assert answer(folder) == 42
    assert len(compiled) == 2


@needs_compiler
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "other"])
def test_so_is_one_with_a_damaged_seal(how, folder, compiled):
    answer(folder)
    spoil(only(folder, "*.sha256"), how)
    assert answer(folder) == answer(folder) == 42
    assert len(compiled) == 2


@needs_compiler
def test_a_name_that_is_taken_by_a_folder_sends_it_to_another_place(folder, tmp_path):
    answer(folder)
    spoil(only(folder), "folder")
    other = tmp_path / "other"
    other.mkdir()
    assert answer(folder, other) == 42
    assert only(other).is_file()


@needs_compiler
def test_the_mask_of_the_user_does_not_open_it_to_others(folder, compiled):
    before = os.umask(0)
    try:
        assert answer(folder) == answer(folder) == 42
    finally:
        os.umask(before)
    assert len(compiled) == 1
    assert [p.stat().st_mode & 0o022 for p in folder.glob("*.so")] == [0]


@needs_compiler
@needs_root
def test_a_place_without_the_right_to_run_programs_is_passed_over(folder, tmp_path, compiled):
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "noexec,size=9m", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        other = tmp_path / "other"
        other.mkdir()
        assert answer(folder, other) == 42
        assert compiled == [other]
        with pytest.raises(
            _cpp.NoKernelsError, match=rf"{folder} \(it is mounted without the right to run programs\); name"
        ):
            answer(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_compiler
def test_a_place_where_nothing_can_be_loaded_is_passed_over(folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    load = ctypes.CDLL

    def refuse(path):
        if str(path).startswith(str(folder)):
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert answer(folder, other) == 42
    assert not any(folder.iterdir()), "nothing that cannot be loaded is kept"
    with pytest.raises(
        _cpp.NoKernelsError, match=r"cache \(failed to map segment from shared object\); name one in REL"
    ):
        answer(folder)
    with pytest.raises(_cpp.NoKernelsError, match="there is none that only this user can write; name one"):
        _cpp.load(_cpp.compiler(), [])


@needs_compiler
@needs_root
def test_a_place_of_root_that_cannot_be_written_is_used_where_it_has_the_library(compiled, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as work:  # pytest's own folders are closed to others
        os.chmod(work, 0o755)
        folder, other = Path(work, "cache"), Path(work, "other")
        folder.mkdir(mode=0o755)
        other.mkdir()
        os.chown(other, OTHER, OTHER)
        monkeypatch.setattr(_cpp, "_SOURCES", shutil.copytree(_cpp._SOURCES, Path(work, "sources")))
        answer(folder)
        for places in ([folder], [folder, other]):
            os.setresuid(OTHER, OTHER, 0)
            try:
                assert answer(folder, other) == 42
            finally:
                os.setresuid(0, 0, 0)
            assert list(dict.fromkeys(compiled)) == places
            spoil(only(folder), "missing") if places == [folder] else None


@needs_compiler
def test_many_at_once_all_get_it(folder):
    results = []
    threads = [threading.Thread(target=lambda: results.append(answer(folder))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [42] * 6
    assert sorted(p.suffix for p in folder.iterdir()) == [".sha256", ".so"]


@needs_compiler
def test_a_killed_compilation_leaves_nothing_that_is_used(folder, tmp_path, compiled):
    code = "import sys; from relgrounding.ops import _cpp; from pathlib import Path;"
    code += "_cpp.load([sys.argv[1]], [Path(sys.argv[2])])"
    slow = fake(
        tmp_path,
        b'[ "$1" = --version ] && exit\nprev=; for a; do [ "$prev" = -o ] && echo half > "$a"; prev=$a; done\nsleep 60',
    )
    process = subprocess.Popen([sys.executable, "-c", code, *slow, str(folder)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(folder.glob("*/*.so")) and time.monotonic() < until:
        time.sleep(0.05)
    assert list(folder.glob("*/*.so"))
    process.kill()
    process.wait()
    assert not list(folder.glob("*.so"))
    assert answer(folder) == 42


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (b"exec sleep 60", "fake' did not end within 0.5 s; set CXX to another, or RELGROUNDING_CPP=0"),
        (b"sleep 60 &\nsleep 60", "fake' did not end within 0.5 s"),
        (b"exec 1>&- 2>&-\nsleep 60", "fake' did not end within 0.5 s"),
        (b"while :; do echo line; done", "fake' did not end within 0.5 s"),
        (b"sleep 60 &\nexit 1", "fake' cannot compile its kernels: it says nothing"),
        (b"exit 0", "fake' cannot compile its kernels: it says nothing"),
        (
            b"printf 'err\\377 \\033[31m error: \\200x' >&2; exit 1",
            "kernels: err\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}",
        ),
        (b"kill -SEGV $$", "fake' cannot compile its kernels: it says nothing"),
        (b'prev=; for a; do [ "$prev" = -o ] && echo junk > "$a"; prev=$a; done', "file too short|invalid ELF header"),
    ],
)
@pytest.mark.parametrize("version", [b"exit", b""])
def test_a_compiler_that_hangs_or_is_broken_has_a_limit_and_a_reason(
    script, said, version, folder, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(_cpp, "LIMIT", 0.5)
    monkeypatch.setattr(_cpp, "VERSION_LIMIT", 0.5)
    command = fake(tmp_path, b'[ "$1" = --version ] && ' + version + b"\n" + script if version else script)
    start = time.monotonic()
    with pytest.raises(_cpp.NoKernelsError) as caught:
        _cpp.load(command, [folder])
    assert any(part in str(caught.value) for part in said.split("|")), str(caught.value)
    assert time.monotonic() - start < 5
    assert not any(folder.iterdir())
    if "compiling" in caplog.text and "invalid" not in said:
        assert f"{caught.value}; going on with slower kernels" in caplog.text


def test_a_compiler_that_writes_without_end_is_not_ended_by_its_pipe_before_it_is_asked(monkeypatch):
    def late(process, timeout=None, wait=subprocess.Popen.wait):
        time.sleep(0.3)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", late)
    with pytest.raises(_cpp.NoKernelsError, match="did not end within"):
        _cpp.run_bounded(["sh", "-c", "while :; do echo line; done"], 0.1)


def test_nothing_that_a_compiler_started_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(_cpp, "VERSION_LIMIT", 0.5)
    sign = tmp_path / "sign"
    for script in (b"(sleep 1; touch %s) & wait", b"(sleep 1; touch %s) & exit 1"):
        with pytest.raises(_cpp.NoKernelsError):
            _cpp.load(fake(tmp_path, script % os.fsencode(sign)), [folder])
    time.sleep(1.2)
    assert not sign.exists()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("\udcff\udcfe", "the PATH does not have the compiler '\\udcff\\udcfe' that CXX names; install one"),
        (" ", "the PATH does not have the compiler ' ' that CXX names"),
        ("/dev/null", "the PATH does not have the compiler '/dev/null' that CXX names"),
        ("/bin/false \udcff", "'/bin/false '\N{REPLACEMENT CHARACTER}'' cannot compile its kernels: it says nothing"),
    ],
)
def test_the_reason_can_be_printed(wanted, said, folder, monkeypatch):
    monkeypatch.setenv("CXX", wanted)
    monkeypatch.setenv("RELGROUNDING_CACHE", str(folder))
    library, reason = _cpp._library.__wrapped__()
    assert library is None
    assert said in reason
    reason.encode()


def test_the_environment_report_says_why_and_auto_goes_on():
    code = "import torch, relgrounding.env as e; from relgrounding.nn import GraphAttention; print(e.report());"
    code += "from relgrounding.graphs import GraphStructure as S; one = torch.tensor([0]);"
    code += "s = S.from_edges(one, one, one, ['a'], torch.tensor([2])); GraphAttention(3, 4, 2)(s, torch.ones(2, 3))"
    environment = os.environ | {"PYTHONPATH": str(Path(relgrounding.__file__).parents[1]), "CXX": 'g++ "-O1'}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    said = "not usable: CXX is 'g++ \"-O1', which is not a command (No closing quotation); correct it, or unset it"
    assert next(line for line in done.stdout.splitlines() if line.split()[:1] == ["cpp"]).endswith(said)
