"""The core cases under pytest-benchmark: ``pytest benchmarks/ --benchmark-only``.

One benchmark a provider, forward + backward; providers of one case make a group. Those that the gate refuses fail,
those that cannot run are skipped. Here they run one after another, not in turns: for ratios between them, and for
memory, take ``python -m benchmarks.run``; for one provider before and after a change, ``--benchmark-autosave`` and
``pytest-benchmark compare``.
"""

import functools

import pytest
import torch

from benchmarks import cases, machine, providers
from benchmarks.measure import Prepared, Settings, admitted
from benchmarks.providers import Provider

CORE = [(case, provider) for case in cases.select([], core=True) for provider in providers.select(case.layer)]


SETTINGS = Settings(torch.device("cpu"), max_memory=machine.available_memory(torch.device("cpu")) // 2)


@functools.lru_cache(maxsize=1)
def _prepared(case: cases.Case) -> Prepared:
    """The last case only is kept."""
    return Prepared.of(case, SETTINGS)


@pytest.mark.parametrize(("case", "provider"), CORE, ids=[f"{case.name}-{provider.name}" for case, provider in CORE])
def test_forward_and_backward(benchmark, case: cases.Case, provider: Provider) -> None:
    found = admitted(_prepared(case), provider, SETTINGS)
    if isinstance(found, str):
        if found.startswith(("cannot run", "not started")):
            pytest.skip(found)
        pytest.fail(found)
    benchmark.group = case.name
    row = found.row
    benchmark.extra_info.update(
        nodes=row.nodes, edges=row.edges, density=row.density, error=row.error, threads=torch.get_num_threads()
    )
    benchmark.extra_info.update({name: machine.version(name) for name in machine.PACKAGES})
    benchmark(found.both)
