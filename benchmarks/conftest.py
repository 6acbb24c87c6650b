"""Refuses to time instrumented code."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("jaxtyping_packages", default=None):
        raise pytest.UsageError(
            "the calls to be timed would be type-checked by jaxtyping: run `pytest benchmarks/` by itself, "
            "or with -o addopts="
        )
