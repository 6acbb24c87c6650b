"""One case: the gate for every provider, then times in turns; in a pass of its own, memory."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, density
from benchmarks.functions import FUNCTIONS, Outputs, draw_weights
from benchmarks.gate import Problem, as_tuple, check, output_gradients
from benchmarks.memory import allocated, peak_memory
from benchmarks.providers import Provider
from benchmarks.timing import Quantiles, interleaved, milliseconds, synchronize
from relgrounding.graphs import GraphStructure

# Turns of the sizes of one layer, and how many calls, and seconds, each has in a turn at least.
SIZE_TURNS, SIZE_CALLS, SIZE_SECONDS = 8, 3, 0.1


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        device: where.
        dtype: of features and weights.
        repeats: most turns of each provider.
        seconds: no further turn of a case begins after so long.
        max_memory: bytes; a provider that would need more is not started.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    repeats: int = 30
    seconds: float = 30.0
    max_memory: int = 6 << 30


@dataclass
class Row:
    """One line of the results: a provider in a case; None where there is no figure."""

    case: str
    series: str
    layer: str
    provider: str
    status: str
    same_function: bool
    note: str
    items: int
    nodes: int
    edges: int
    density: float
    in_dim: int
    out_dim: int
    heads: int
    device: str
    dtype: str
    error: float | None = None
    checked_items: int | None = None
    forward: Quantiles | None = None
    both: Quantiles | None = None
    fresh: Quantiles | None = None
    calls: int | None = None
    sizes: Quantiles | None = None
    peak_allocator: int | None = None
    peak_process: int | None = None
    peak: int | None = None
    graph_bytes: int | None = None
    weight_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether it has figures."""
        return self.status == "ok"

    def flat(self) -> dict[str, Any]:
        """The fields by name, times as ``forward_least``, ``forward_p20`` and so on."""
        cells: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if name in ("forward", "both", "fresh", "sizes"):
                cells |= {f"{name}_{q}": value and getattr(value, q) for q in ("least", "p20", "p50", "p80")}
            else:
                cells[name] = value
        return cells


class Contestant:
    """A provider that passed the gate, with what its calls need."""

    def __init__(self, provider: Provider, row: Row, module: nn.Module, structure: GraphStructure, x: Tensor) -> None:
        self.provider, self.row, self.module, self.structure, self.x = provider, row, module, structure, x
        self.graph = provider.convert(replace(structure))
        self.above = output_gradients(self.forward(), x.dtype)
        self.leaves = [x, *module.parameters()]

    def _forward_backward(self, graph: object) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(as_tuple(self.module(graph, self.x)), self.leaves, self.above, allow_unused=True)

    def forward(self) -> Outputs:
        """The forward of a training step: what the backward needs is kept until the result is dropped."""
        return as_tuple(self.module(self.graph, self.x))

    def both(self) -> object:
        """Forward, and gradients of the features and of all weights."""
        return self._forward_backward(self.graph)

    def fresh(self) -> object:
        """The same on a structure of which nothing is cached: conversion and derived layouts included."""
        structure = replace(self.structure)
        graph = self.provider.convert(structure)
        self._forward_backward(graph)
        return structure, graph


class Prepared:
    """What the providers of a case share: the batch, and what the gate compares them with."""

    def __init__(self, case: Case, settings: Settings) -> None:
        self.case, self.settings = case, settings
        self.structure, self.x = _drawn(case, settings)
        self.problem = Problem(case, self.structure, settings.dtype)

    def admitted(self, provider: Provider) -> "tuple[Row, Contestant | None]":
        """The provider's row, and the provider ready to be called where the row's status is "ok"."""
        row = _row(self.case, provider, self.structure, self.settings)
        self._admit(row, provider)
        return row, _contestant(self.case, self.structure, self.x, provider, row)

    def _admit(self, row: Row, provider: Provider) -> None:
        """Set the row's status: "ok" or why there will be no figure."""
        device, dtype = self.settings.device, self.settings.dtype
        reason, needed = provider.reason(device, dtype), provider.bytes(self.case, self.structure, dtype)
        if reason is not None:
            row.status = f"cannot run: {reason}"
        elif needed > self.settings.max_memory:
            row.status = f"not started: takes about {needed / 2**30:.0f} GiB"
        elif provider.function:
            try:
                verdict = check(provider, self.problem, device)
            except Exception as error:  # whatever a library raises, the other providers still get their figures
                row.status = _failure(error)
                return
            row.error, row.checked_items = verdict.error, verdict.items
            if not verdict.passed:
                row.status = str(verdict)


def _failure(error: Exception) -> str:
    return f"fails: {type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"


def _row(case: Case, provider: Provider, structure: GraphStructure, settings: Settings) -> Row:
    return Row(
        case=case.name,
        series=case.series,
        layer=case.layer,
        provider=provider.name,
        status="ok",
        same_function=provider.same_function,
        note=provider.note,
        items=case.graph.batch_size,
        nodes=structure.num_nodes,
        edges=structure.num_edges,
        density=density(structure),
        in_dim=case.in_dim,
        out_dim=case.out_dim,
        heads=case.heads,
        device=str(settings.device),
        dtype=str(settings.dtype).removeprefix("torch."),
    )


def _drawn(case: Case, settings: Settings) -> tuple[GraphStructure, Tensor]:
    """The batch of a case and its features."""
    structure = case.graph.structure().to(settings.device)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(structure.num_nodes, case.in_dim, generator=generator).to(settings.device, settings.dtype)
    return structure, x.requires_grad_()


def _contestant(case: Case, structure: GraphStructure, x: Tensor, provider: Provider, row: Row) -> Contestant | None:
    if not row.ok:
        return None
    weights = draw_weights(FUNCTIONS[provider.function], case, x.dtype) if provider.function else {}
    module = provider.build(case, weights, x.device, x.dtype)
    row.weight_bytes = sum(p.numel() * p.element_size() for p in module.parameters())
    try:
        return Contestant(provider, row, module, structure, x)
    except Exception as error:  # out of memory, for one: the gate may have seen fewer items
        row.status = _failure(error)
        return None


def measure(
    case: Case, providers: list[Provider], settings: Settings, tick: Callable[[str], object] = lambda text: None
) -> list[Row]:
    """All providers of a case, right or not, as rows without memory; `tick` is told what is done next."""
    prepared = Prepared(case, settings)
    rows, contestants = [], []
    for provider in providers:
        tick(f"{case.name}: checking {provider.name}")
        row, contestant = prepared.admitted(provider)
        rows.append(row)
        contestants += [contestant] if contestant else []
    del prepared
    functions = {c.provider.name: {"fresh": c.fresh, "forward": c.forward, "both": c.both} for c in contestants}
    report = f"{case.name}: timing {len(contestants)} providers"
    times = interleaved(functions, settings.device, settings.repeats, settings.seconds, tick=lambda: tick(report))
    for contestant in contestants:
        for name, of in times[contestant.provider.name].items():
            setattr(contestant.row, name, Quantiles.of(of))
            contestant.row.calls = len(of)
    return rows


def time_sizes(
    chosen: list[tuple[Case, Row]], provider: Provider, settings: Settings, tick: Callable[[], object] = lambda: None
) -> None:
    """Fill in "sizes": "both" a second time, for cases that differ in size alone, in turns with each other.

    Cases that are timed one after another meet different minutes of the machine; here each turn has all of them. A size
    has a tenth of a second of a turn, or three calls.
    """
    found = [_contestant(case, *_drawn(case, settings), provider, row) for case, row in chosen]
    times: dict[str, list[float]] = {row.case: [] for _, row in chosen}
    for _ in range(min(settings.repeats, SIZE_TURNS)):
        for contestant in filter(None, found):
            contestant.both()  # not counted: what the size before left in the caches
            calls: list[float] = []
            while len(calls) < SIZE_CALLS or sum(calls) < 1e3 * SIZE_SECONDS:
                calls.append(milliseconds(contestant.both, settings.device))
            times[contestant.row.case] += calls
        tick()
    for contestant in filter(None, found):
        contestant.row.sizes = Quantiles.of(times[contestant.row.case])


def weigh(case: Case, providers: list[Provider], rows: list[Row], settings: Settings) -> list[Row]:
    """The rows that `measure` returned with memory filled in; for a process that began with `memory.own_pages`."""
    structure, x = _drawn(case, settings)
    for provider, row in zip(providers, rows, strict=True):
        contestant = _contestant(case, structure, x, provider, row)
        if contestant is None:
            continue
        memory = peak_memory(contestant.both, settings.device)
        row.peak_allocator, row.peak_process, row.peak = memory.allocator, memory.process, memory.peak
        if settings.device.type == "cpu":
            row.graph_bytes = allocated(contestant.fresh)[1]
        else:
            synchronize(settings.device)
            before = torch.cuda.memory_allocated(settings.device)
            kept = contestant.fresh()
            row.graph_bytes = torch.cuda.memory_allocated(settings.device) - before
            del kept
    return rows
