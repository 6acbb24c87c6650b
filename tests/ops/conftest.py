import pytest
import torch

from relgrounding.ops import backend_names
from tests.ops.cases import CUDA, OPERATORS, TRITON, why_not


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """Whoever reads torch.empty before writing sees NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(autouse=True)
def _backend_runs_here(request, monkeypatch):
    """Triton's interpreter takes the place of a GPU; a backend that cannot run in a test says why."""
    parameters = getattr(request.node, "callspec", None) and request.node.callspec.params
    if not parameters or "backend" not in parameters:
        return
    if parameters["backend"] in TRITON and not CUDA:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    operator, backend = parameters.get("operator"), parameters["backend"]
    if not isinstance(operator, str):
        operator = next((name for name in OPERATORS if backend in backend_names(name)), None)
    if operator and backend != "auto" and backend not in backend_names(operator):
        pytest.skip(f"{operator} has no backend {backend}")
    if operator and backend != "auto" and (reason := why_not(operator, backend, parameters.get("dtype"))):
        pytest.skip(reason)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
