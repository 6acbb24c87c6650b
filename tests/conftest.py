import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real annotations; tests that ask for it skip without one."""
    name = os.environ.get("RELGROUNDING_DATA")
    if not name:
        pytest.skip("RELGROUNDING_DATA is not set: the tests on real annotations did not run")
    root = Path(name)
    if not root.is_dir():
        pytest.fail(f"RELGROUNDING_DATA names {root}, which is no folder")
    return root
