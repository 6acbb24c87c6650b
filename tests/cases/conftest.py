from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], Path]:
    """Makes a case of `tests.cases.inputs` in a new folder, the working directory from then on."""

    def make(write: Callable[[Path], None]) -> Path:
        write(tmp_path)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make
