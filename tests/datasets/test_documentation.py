import re
from pathlib import Path

from relgrounding import io
from relgrounding.features.convert import FORMATS
from tools import prepare

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text()


def test_the_worked_example_of_own_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(example, {})
    assert prepare.main(["features", "own/npy", "own/features.h5"]) == 0
    assert "own/features.h5: 12 videos, 192 clips x 64, " in capsys.readouterr().out
    assert prepare.main(["verify", "own/own.yaml"]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "\n".join(printed).strip() in TEXT


def test_every_error_and_format_is_documented():
    errors = [name for name in io.__all__ if isinstance(getattr(io, name), type)]
    errors = [name for name in errors if issubclass(getattr(io, name), io.DataError)]
    assert len(errors) == 6
    assert all(f"`{name}`" in TEXT or f".{name}`" in TEXT for name in errors)
    assert all(f"`{name}`" in TEXT for name in FORMATS)
    stems = (path.stem for path in (ROOT / "configs").glob("*.yaml") if path.stem != "demo")
    configs = {stem.removesuffix("_ccl").removesuffix("_paper") for stem in stems}
    assert all(f"{name}.yaml" in TEXT or f"`{name}`" in TEXT for name in configs)
