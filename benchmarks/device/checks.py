"""Values: every operator against float64, the same bits twice, and offsets beyond 2^31."""

from collections import defaultdict
from typing import Any
from unittest import mock

import torch
from torch.utils import deterministic as _deterministic

from benchmarks.device.report import Report
from relgrounding import ops
from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import backend_names, find_backend
from tests.ops.cases import GRAPH_OPERATORS, Problem, draw_inputs, graph_problem, random_edges, values_and_gradients

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Of the largest value of a tensor; gradients add up several of those.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
GRADIENTS = 8
# Heads and features per head.
WIDTHS = ((1, 1), (2, 3), (4, 64), (3, 33), (1, 513), (20, 4), (4, 128), (2, 256))
deterministic: Any = _deterministic  # whose one setting is a property that type checkers do not see
BACKENDS = ("triton", "triton_dense", "csr", "dense")


def check_values(report: Report) -> dict[str, float]:
    """Compare outputs and gradients of ragged random graphs with the naive backend in float64.

    Uninitialised memory is filled with NaN, so that what a kernel forgets to write shows. The Triton kernels run twice:
    both results must be the same bits.
    """
    worst: dict[str, float] = defaultdict(float)
    seeds = 2 if report.dry else 40
    interpreter = {"TRITON_INTERPRET": "1"} if report.device.type == "cpu" else {}
    with mock.patch.dict("os.environ", interpreter), _poisoned_memory():
        for seed in range(seeds):
            if not report.time_left:
                report.say(f"values: {seed} of {seeds} graphs, no time left")
                break
            for operator in GRAPH_OPERATORS:
                _check_graph(report, operator, seed, worst)
    for name, error in sorted(worst.items()):
        report.say(f"{name}: largest error {error:.1e}")
    return dict(worst)


class _poisoned_memory:
    """`torch.empty` gives NaN, which PyTorch does where deterministic algorithms are asked for."""

    def __enter__(self) -> None:
        self.before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True, warn_only=True)
        deterministic.fill_uninitialized_memory = True

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(self.before[0])
        deterministic.fill_uninitialized_memory = self.before[1]


def _draw(operator: str, seed: int, dry: bool) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    items = int(torch.randint(1, 9, (1,), generator=generator))
    counts = torch.randint(0, 6 if dry else 60, (items,), generator=generator).tolist()
    counts[0] += 1
    heads, dim = (2, 5) if dry else WIDTHS[seed % len(WIDTHS)]
    wide = {"heads": heads, "dim": dim} if operator == "graph_attention" else {"dim": heads * dim}
    return graph_problem(operator, counts, random_edges(counts, 0.3, seed, copies=2), **wide)


def _check_graph(report: Report, operator: str, seed: int, worst: dict[str, float]) -> None:
    task = _draw(operator, seed, report.dry)
    for dtype in TYPES[: 2 if report.dry else None]:
        inputs = draw_inputs(seed, task.shapes, dtype)
        exact = [x.detach().double().requires_grad_() for x in inputs]
        right = values_and_gradients(task.run("naive"), exact)
        for backend in BACKENDS:
            if backend not in backend_names(operator) or find_backend(operator, backend).why_not(report.device, dtype):
                continue
            moved = [x.detach().to(report.device).requires_grad_() for x in inputs]
            structure = task.structure.to(report.device)

            def call(*x: torch.Tensor, backend=backend, structure=structure) -> torch.Tensor:
                return getattr(ops, operator)(structure, *x, backend=backend)

            found = values_and_gradients(call, moved)
            kind = f"{operator}, {backend}, {str(dtype).removeprefix('torch.')}"
            again = values_and_gradients(call, moved) if backend.startswith("triton") else found
            if not all(map(torch.equal, found, again)):
                report.fail(f"{kind}, graph {seed}: a second call gives other bits")
            for number, (value, expected) in enumerate(zip(found, right, strict=True)):
                error = _error(value, expected, right)
                worst[kind] = max(worst[kind], error)
                if not error <= TOLERANCE[dtype] * (GRADIENTS if number else 1):
                    what = f"gradient {number - 1}" if number else "the output"
                    report.fail(f"{kind}, graph {seed}: {what} is off by {error:.1e}")


def _error(found: torch.Tensor, right: torch.Tensor, every: list[torch.Tensor]) -> float:
    """Largest difference, as a share of the largest value, or of a hundredth of the largest of all tensors."""
    if not right.numel():
        return 0.0
    scale = max(float(x.abs().max()) for x in every if x.numel())
    difference = (found.detach().cpu().double() - right).abs().max()
    return float(difference.nan_to_num(torch.inf) / max(float(right.abs().max()), 1e-2 * scale, 1e-30))


def check_large_offsets(report: Report) -> dict[str, float]:
    """The last item of features with more than 2^31 numbers must be right; all of its nodes are joined to each other.

    With scores and gates of 0 the result of attention is the mean, that of the gated sum half the sum.
    """
    width, size = 512, 32
    nodes = size * (2 if report.dry else (1 << 31) // (size * width) + 128)
    device, last = report.device, nodes - size
    ends = torch.cartesian_prod(torch.arange(last, nodes), torch.arange(last, nodes)).T
    counts = torch.full((nodes // size,), size)
    edge_type = torch.zeros(size * size, dtype=torch.int64)
    structure = GraphStructure.from_edges(ends[0], ends[1], edge_type, ["e"], counts).to(device)
    backend = "triton" if device.type == "cuda" else "csr"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    feat = torch.zeros(nodes, width, dtype=dtype, device=device)
    feat[last:] = torch.randn(size, width, generator=torch.Generator().manual_seed(0)).to(feat)
    score = feat.new_zeros(nodes, 1)
    mean = feat[last:].double().mean(0)
    attended = ops.graph_attention(structure, feat[:, None], score, score, backend=backend)[last:, 0]
    gates = score[:, 0], feat.new_zeros(1), feat.new_zeros(1, width)
    gated = ops.gated_sum(structure, feat, *gates, backend=backend)[last:]
    errors = {
        "attention": float((attended.double() - mean).abs().max()),
        "gated sum": float((gated.double() / (size / 2) - mean).abs().max()),
    }
    for name, error in errors.items():
        report.say(f"{nodes * width:,} numbers, {name}: error {error:.1e}")
        if not error < 0.02:
            report.fail(f"large offsets, {name}: the last item is off by {error:.1e}")
    return errors
