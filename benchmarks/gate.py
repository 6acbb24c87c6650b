"""The correctness gate: a provider gets a figure only where its output and gradients are right.

The reference is the function in float64 (`benchmarks.functions`); ours is rendered with the backend `naive`. The
inputs are numbers that the provider's type holds, so that the two differ by the provider's arithmetic alone.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.functions import FUNCTIONS, Function, Outputs, Weights, draw_weights
from benchmarks.providers import Provider
from relgrounding.graphs import GraphStructure

# Largest difference over the largest value, a tensor.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# Nearer than this to a bend of a ReLU the gradient is left out of the comparison, unless that were most of it, as it is
# for the attention logits of short types; there the tolerance has to be wide enough.
SLACK = {torch.float64: 1e-13, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}
# Edges x width up to which a case is checked as it is; beyond, with fewer items.
LARGEST = 20_000_000


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Args:
        passed: whether every tensor is within the tolerance.
        error: the largest difference over the largest value, of all tensors.
        where: the tensor it was found in.
        items: number of items of the batch that was checked.
    """

    passed: bool
    error: float
    where: str
    items: int

    def __str__(self) -> str:
        return f"{'right' if self.passed else 'wrong'}: {self.where} differs by {self.error:.1e} ({self.items} items)"


@dataclass
class Problem:
    """Inputs of a case on a batch that the reference can work through, and what is right for them."""

    case: Case
    structure: GraphStructure
    dtype: torch.dtype
    x: Tensor = field(init=False)
    _answers: dict[str, tuple[Weights, Weights, Outputs]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.structure = reduced(self.structure, self.case).to("cpu")
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(self.structure.num_nodes, self.case.in_dim, generator=generator).to(self.dtype).double()

    def weights_of(self, function: str) -> Weights:
        """The function's weights, in float64."""
        return self._answer(function)[0]

    def right(self, function: str) -> Weights:
        """The outputs of the function and its gradients with respect to x and each weight."""
        return self._answer(function)[1]

    def above(self, function: str) -> Outputs:
        """The gradient that arrives at each output, the same for all; 0 where rounding decides what it becomes."""
        return self._answer(function)[2]

    def _answer(self, name: str) -> tuple[Weights, Weights, Outputs]:
        if name not in self._answers:
            function = FUNCTIONS[name]
            weights = draw_weights(function, self.case, self.dtype)
            self._answers[name] = (weights, *self._reference(function, weights))
        return self._answers[name]

    def _reference(self, function: Function, weights: Weights) -> tuple[Weights, Outputs]:
        x = self.x.clone().requires_grad_()
        leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
        outputs = function.reference(self.structure, self.case, x, leaves)
        above = output_gradients(outputs, self.dtype)
        if function.slack is not None:
            with torch.no_grad():
                steady = function.slack(self.structure, self.case, self.x, weights) > SLACK[self.dtype]
            if self.dtype in (torch.float32, torch.float64) or steady.float().mean() > 0.5:
                above = tuple(gradient * steady for gradient in above)
        gradients = torch.autograd.grad(outputs, [x, *leaves.values()], above)
        named = dict(zip(("gradient of x", *_gradient_names(leaves)), gradients, strict=True))
        return _named(outputs) | named, above


def reduced(structure: GraphStructure, case: Case) -> GraphStructure:
    """The first items, at least one, so that the reference takes seconds; all where that is so anyway."""
    work = structure.num_edges * case.out_dim
    if work <= LARGEST or structure.batch_size == 1:
        return structure
    items = max(1, int(structure.batch_size * LARGEST / work))
    return structure.select(torch.arange(items, device=structure.device))


def output_gradients(outputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What arrives from above in the backward, the same for every provider of a function."""
    generator = torch.Generator().manual_seed(2)
    drawn = (torch.randn(out.shape, generator=generator).to(dtype) for out in outputs)
    return tuple(value.to(out.device, out.dtype) for value, out in zip(drawn, outputs, strict=True))


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One output or several, as several."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def check(provider: Provider, problem: Problem, device: torch.device, module: nn.Module | None = None) -> Verdict:
    """Compare a provider with its function; `module` is for tests of the gate, which break it beforehand."""
    right = problem.right(provider.function)
    found = _run(provider, problem, device, module)
    missing = sorted(right.keys() - found.keys())
    if missing:
        return Verdict(False, float("inf"), f"no {missing[0]}", problem.structure.batch_size)
    errors = {name: _difference(found[name], value) for name, value in right.items()}
    where = max(errors, key=lambda name: errors[name])
    passed = errors[where] <= TOLERANCE[problem.dtype]
    return Verdict(passed, errors[where], where, problem.structure.batch_size)


def _run(provider: Provider, problem: Problem, device: torch.device, module: nn.Module | None) -> Weights:
    weights = problem.weights_of(provider.function)
    if module is None:
        module = provider.build(problem.case, weights, device, problem.dtype)
    graph = provider.convert(problem.structure.to(device))
    x = problem.x.to(device, problem.dtype).requires_grad_()
    outputs = as_tuple(module(graph, x))
    parameters = list(module.parameters())
    above = tuple(gradient.to(device, problem.dtype) for gradient in problem.above(provider.function))
    if [out.shape for out in outputs] != [gradient.shape for gradient in above]:
        return _named(outputs) | dict.fromkeys(problem.right(provider.function), torch.empty(0))
    # Layers of other libraries own parameters that this use of them leaves out.
    x_gradient, *rest = torch.autograd.grad(outputs, [x, *parameters], above, allow_unused=True)
    pairs = zip(parameters, rest, strict=True)
    known = {p: torch.zeros_like(p) if gradient is None else gradient for p, gradient in pairs}
    gradients = provider.gradients(module, known)
    named = dict(zip(_gradient_names(gradients), gradients.values(), strict=True))
    return _named(outputs) | {"gradient of x": x_gradient} | named


def _difference(found: Tensor, right: Tensor) -> float:
    if found.shape != right.shape:
        return float("inf")
    largest = right.abs().max().clamp_min(1e-30) if right.numel() else 1.0
    error = (found.detach().cpu().double() - right).abs().max() / largest if right.numel() else torch.zeros(())
    return float(error.nan_to_num(torch.inf))


def _named(outputs: tuple[Tensor, ...]) -> Weights:
    return {f"output {k}" if k else "output": out.detach() for k, out in enumerate(outputs)}


def _gradient_names(weights: Weights) -> list[str]:
    return [f"gradient of {name}" for name in weights]
