"""The core cases under pytest-benchmark: ``pytest benchmarks/ --benchmark-only``.

One benchmark per provider, forward + backward; providers of one case make a group. Those that the gate refuses fail,
those that cannot run are skipped. Here they run one after another, not in turns: for ratios between them, and for
memory, take ``python -m benchmarks.run``; for one provider before and after a change, ``--benchmark-autosave`` and
``pytest-benchmark compare``.
"""

import functools

import pytest
import torch

from benchmarks import cases, machine, providers
from benchmarks.measure import Prepared, Settings
from benchmarks.providers import Provider

CORE = [(case, provider) for case in cases.select([], core=True) for provider in providers.select(case.layer)]
SETTINGS = Settings(torch.device("cpu"), max_memory=machine.available_memory(torch.device("cpu")) // 2)


@functools.lru_cache(maxsize=1)  # the last case only is kept
def _prepared(case: cases.Case) -> Prepared:
    return Prepared(case, SETTINGS)


@pytest.mark.parametrize(("case", "provider"), CORE, ids=[f"{case.name}-{provider.name}" for case, provider in CORE])
def test_forward_and_backward(benchmark, case: cases.Case, provider: Provider) -> None:
    row, contestant = _prepared(case).admitted(provider)
    if row.status.startswith(("cannot run", "not started")):
        pytest.skip(row.status)
    if contestant is None:
        pytest.fail(row.status)
    benchmark.group = case.name
    benchmark.extra_info.update(
        nodes=row.nodes, edges=row.edges, density=row.density, error=row.error, threads=torch.get_num_threads()
    )
    benchmark.extra_info.update({name: machine.version(name) for name in machine.PACKAGES})
    benchmark(contestant.both)
