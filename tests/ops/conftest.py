import pytest
import torch


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """Whoever reads torch.empty before writing sees NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)
