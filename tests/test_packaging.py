import os
import re
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.training.tiny import TINY

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the files that git tracks: builds leave files beside what they build."""
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs into the packages is not known")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


def build(source: Path, kind: str) -> Path:
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    return source / "dist" / printed.stdout.splitlines()[-1]


def test_the_source_distribution_holds_all_that_git_tracks(source):
    with tarfile.open(build(source, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    built = {name for name in tracked if name.startswith(("dist/", "build/")) or ".egg-info/" in name}
    assert tracked - built - names == {".gitignore"}


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(source):
    with zipfile.ZipFile(build(source, "wheel")) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {str(path.relative_to(source)) for path in (source / "relgrounding").rglob("*") if path.is_file()}
    configs = {f"relgrounding/{path.relative_to(source)}" for path in (source / "configs").rglob("*.yaml")}
    assert names == package | configs
    assert "relgrounding/py.typed" in names


@pytest.mark.parametrize("needed", [">=3.98,<3.99", ">=3.6,<3.9"])
def test_on_another_python_the_first_line_of_pip_says_which_one_is_needed(source, needed, tmp_path):
    """What pip sees on Python 3.9 or 3.13 is seen here by a package that needs another one."""
    for name in ("setup.py", "pyproject.toml"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    text = re.sub("python_requires = .*", f"python_requires = {needed}", (source / "setup.cfg").read_text())
    (tmp_path / "setup.cfg").write_text(text)
    words = [
        "install",
        "-q",
        "--dry-run",
        "-I",
        "--no-index",
        "--no-build-isolation",
        "-c",
        str(source / "constraints.txt"),
    ]
    command = [sys.executable, "-m", "pip", *words, "-e", f"{tmp_path}[test]"]
    failed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    low, high = needed.split(",")
    version = ".".join(map(str, sys.version_info[:3]))
    first_line = failed.stderr.strip().splitlines()[0]
    assert first_line == f"ERROR: Package 'relgrounding' requires a different Python: {version} not in '{high},{low}'"


@pytest.mark.slow
def test_an_installed_wheel_trains_in_an_empty_folder(source, tmp_path):
    """In an environment of its own, which sees what this one has installed, and not the clone."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    own = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    words = ["install", "-q", "--no-deps", "--disable-pip-version-check", str(build(source, "wheel"))]
    subprocess.run([python, "-m", "pip", *words], check=True)
    # As plain paths: an editable install among them has a finder of its own, which is then not asked.
    shared = [path for path in map(Path, site.getsitepackages()) if path.is_dir()]
    (own / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    home = run(str(python), "-c", "import relgrounding; print(relgrounding.__file__)")
    assert Path(home.strip()).is_relative_to(own)
    command = str(python.with_name("relgrounding"))
    assert run(command, "--version").startswith("relgrounding ")
    assert "charades_vgn" in run(command, "configs")
    assert "Acc@0.5" in run(command, "train", *TINY, "train.epochs=1")
    assert (folder / "runs" / "demo" / "results.json").is_file()
    assert "Acc@0.5" in run(str(python), "-m", "relgrounding", "evaluate", "runs/demo")
    assert "charades_vgn" in run(command, "train", "charades_vgn", "--show")
    run(command, "report", "runs/demo")
