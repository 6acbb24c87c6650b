import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

# Two processes run the tests, each with one thread of its own; tests of threads ask for more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _cpp_needs_a_compiler(request) -> None:
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("backend") == "cpp":
        from relgrounding.ops._cpp import cpp_reason

        if reason := cpp_reason("cpu"):
            pytest.skip(f"the C++ kernels were not tested: {reason}")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real annotations; tests that ask for it skip without one."""
    name = os.environ.get("RELGROUNDING_DATA")
    if not name:
        pytest.skip("RELGROUNDING_DATA is not set: the tests on real annotations did not run")
    root = Path(name)
    if not root.is_dir():
        pytest.fail(f"RELGROUNDING_DATA names {root}, which is not a directory")
    return root


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], Path]:
    """Makes a case of `tests.cases` in a new folder, the working directory from then on."""

    def make(write: Callable[[Path], None]) -> Path:
        write(tmp_path)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


@pytest.fixture
def _unchecked_types() -> Iterator[None]:
    """As outside these tests, where only the library itself checks what it is given."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
