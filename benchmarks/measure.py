"""One case: the gate for every provider, then times in turns; in a pass of its own, memory."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Size
from benchmarks.functions import FUNCTIONS, draw_weights
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
    """One line of the results: a provider in a case. Times are milliseconds, None where there is no figure."""

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
    forward_least: float | None = None
    forward_p20: float | None = None
    forward_p50: float | None = None
    forward_p80: float | None = None
    both_least: float | None = None
    both_p20: float | None = None
    both_p50: float | None = None
    both_p80: float | None = None
    fresh_least: float | None = None
    fresh_p20: float | None = None
    fresh_p50: float | None = None
    fresh_p80: float | None = None
    calls: int | None = None
    sizes_least: float | None = None
    sizes_p20: float | None = None
    sizes_p50: float | None = None
    sizes_p80: float | None = None
    peak_allocator: int | None = None
    peak_process: int | None = None
    peak: int | None = None
    graph_bytes: int | None = None
    weight_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether it has figures."""
        return self.status == "ok"

    @staticmethod
    def columns() -> list[str]:
        """The names of the fields."""
        return [f.name for f in fields(Row)]


@dataclass
class Contestant:
    """A provider that passed the gate, with what its calls need."""

    provider: Provider
    row: Row
    module: nn.Module
    structure: GraphStructure
    x: Tensor
    graph: object = None
    above: tuple[Tensor, ...] = ()
    leaves: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.graph = self.provider.convert(replace(self.structure))
        self.above = output_gradients(self._outputs(self.graph), self.x.dtype)
        self.leaves = [self.x, *self.module.parameters()]

    def _outputs(self, graph: object) -> tuple[Tensor, ...]:
        return as_tuple(self.module(graph, self.x))

    def _forward_backward(self, graph: object) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(self._outputs(graph), self.leaves, self.above, allow_unused=True)

    def forward(self) -> object:
        """The forward of a training step: what the backward needs is kept until the result is dropped."""
        return self._outputs(self.graph)

    def both(self) -> object:
        """Forward, and gradients of the features and of all weights."""
        return self._forward_backward(self.graph)

    def fresh(self) -> object:
        """The same on a structure of which nothing is cached: conversion and derived layouts included."""
        structure = replace(self.structure)
        graph = self.provider.convert(structure)
        self._forward_backward(graph)
        return structure, graph


def measure(
    case: Case, providers: list[Provider], settings: Settings, tick: Callable[[str], object] = lambda text: None
) -> list[Row]:
    """All providers of a case, right or not, as rows without memory; `tick` is told what is done next."""
    prepared = Prepared.of(case, settings)
    rows = []
    for provider in providers:
        tick(f"{case.name}: checking {provider.name}")
        rows.append(_checked(prepared, provider, settings))
    contestants = _contestants(case, prepared.structure, list(zip(providers, rows, strict=True)), settings)
    del prepared
    _time(contestants, settings, lambda: tick(f"{case.name}: timing {len(contestants)} providers"))
    return rows


@dataclass(frozen=True)
class Prepared:
    """What the providers of a case share: the batch, and what the gate compares them with."""

    case: Case
    structure: GraphStructure
    problem: Problem

    @staticmethod
    def of(case: Case, settings: Settings) -> "Prepared":
        """Builds the batch."""
        structure = case.graph.structure().to(settings.device)
        return Prepared(case, structure, Problem(case, structure, settings.dtype))


def admitted(prepared: Prepared, provider: Provider, settings: Settings) -> "Contestant | str":
    """The provider ready to be called, or why there is none; for other tools that measure."""
    row = _checked(prepared, provider, settings)
    return next(iter(_contestants(prepared.case, prepared.structure, [(provider, row)], settings)), row.status)


def _checked(prepared: Prepared, provider: Provider, settings: Settings) -> Row:
    size = Size.of(prepared.structure)
    row = _row(prepared.case, provider, size, settings)
    _admit(row, provider, prepared.problem, settings, size)
    return row


def weigh(case: Case, providers: list[Provider], rows: list[Row], settings: Settings) -> list[Row]:
    """The rows that `measure` returned with memory filled in; for a process that began with `memory.own_pages`."""
    structure = case.graph.structure().to(settings.device)
    for provider, row in zip(providers, rows, strict=True):
        for contestant in _contestants(case, structure, [(provider, row)], settings):
            _weigh(contestant, settings)
    return rows


def _row(case: Case, provider: Provider, size: Size, settings: Settings) -> Row:
    return Row(
        case=case.name,
        series=case.series,
        layer=case.layer,
        provider=provider.name,
        status="ok",
        same_function=provider.same_function,
        note=provider.note,
        items=case.graph.batch_size,
        nodes=size.nodes,
        edges=size.edges,
        density=size.density,
        in_dim=case.in_dim,
        out_dim=case.out_dim,
        heads=case.heads,
        device=str(settings.device),
        dtype=str(settings.dtype).removeprefix("torch."),
    )


def _admit(row: Row, provider: Provider, problem: Problem, settings: Settings, size: Size) -> None:
    """Set the row's status: "ok" or why there will be no figure."""
    reason = provider.reason(settings.device, settings.dtype)
    if reason is not None:
        row.status = f"cannot run: {reason}"
        return
    needed = provider.floats(problem.case, size) * settings.dtype.itemsize
    if needed > settings.max_memory:
        row.status = f"not started: takes about {needed / 2**30:.0f} GiB"
        return
    if not provider.function:
        return
    try:
        verdict = check(provider, problem, settings.device)
    except Exception as error:  # whatever a library raises, the other providers still get their figures
        row.status = f"fails: {type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
        return
    row.error, row.checked_items = verdict.error, verdict.items
    if not verdict.passed:
        row.status = str(verdict)


def _contestants(
    case: Case, structure: GraphStructure, pairs: list[tuple[Provider, Row]], settings: Settings
) -> list[Contestant]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(structure.num_nodes, case.in_dim, generator=generator).to(settings.device, settings.dtype)
    x.requires_grad_()
    found = []
    for provider, row in pairs:
        if not row.ok:
            continue
        weights = draw_weights(FUNCTIONS[provider.function], case, settings.dtype) if provider.function else {}
        module = provider.build(case, weights, settings.device, settings.dtype)
        row.weight_bytes = sum(p.numel() * p.element_size() for p in module.parameters())
        try:
            found.append(Contestant(provider, row, module, structure, x))
        except Exception as error:  # out of memory, for one: the gate may have seen fewer items
            row.status = f"fails: {type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
    return found


def _time(contestants: list[Contestant], settings: Settings, tick: Callable[[], object]) -> None:
    functions = {c.provider.name: {"fresh": c.fresh, "forward": c.forward, "both": c.both} for c in contestants}
    times = interleaved(functions, settings.device, settings.repeats, settings.seconds, tick=tick)
    for contestant in contestants:
        for name, quantiles in times[contestant.provider.name].items():
            _fill(contestant.row, name, quantiles)
            contestant.row.calls = quantiles.count


def _fill(row: Row, name: str, quantiles: Quantiles) -> None:
    for share in ("least", "p20", "p50", "p80"):
        setattr(row, f"{name}_{share}", getattr(quantiles, share))


def time_sizes(
    chosen: list[tuple[Case, Row]], provider: Provider, settings: Settings, tick: Callable[[], object] = lambda: None
) -> None:
    """Fill in "both" once more for cases of one layer and provider that differ in size, in turns with each other.

    Cases that are timed one after another meet different minutes of the machine; here each turn has all of them. A size
    has a tenth of a second of a turn, or three calls.
    """
    found = [
        contestant
        for case, row in chosen
        for contestant in _contestants(case, case.graph.structure().to(settings.device), [(provider, row)], settings)
    ]
    times: dict[str, list[float]] = {contestant.row.case: [] for contestant in found}
    for _ in range(min(settings.repeats, SIZE_TURNS)):
        for contestant in found:
            contestant.both()  # not counted: what the size before left in the caches
            calls: list[float] = []
            while len(calls) < SIZE_CALLS or sum(calls) < 1e3 * SIZE_SECONDS:
                calls.append(milliseconds(contestant.both, settings.device))
            times[contestant.row.case] += calls
        tick()
    for contestant in found:
        _fill(contestant.row, "sizes", Quantiles.of(times[contestant.row.case]))


def _weigh(contestant: Contestant, settings: Settings) -> None:
    memory = peak_memory(contestant.both, settings.device)
    row = contestant.row
    row.peak_allocator, row.peak_process, row.peak = memory.allocator, memory.process, memory.peak
    if settings.device.type == "cpu":
        row.graph_bytes = allocated(contestant.fresh)[1]
    else:
        synchronize(settings.device)
        before = torch.cuda.memory_allocated(settings.device)
        kept = contestant.fresh()
        row.graph_bytes = torch.cuda.memory_allocated(settings.device) - before
        del kept
