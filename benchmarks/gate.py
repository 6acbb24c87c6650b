"""The correctness gate: a provider gets a figure only where its output and gradients are right.

The reference is the function in float64 (`benchmarks.functions`). The inputs are numbers that the provider's type
holds, so that the two differ by the provider's arithmetic alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.functions import FUNCTIONS, Outputs, Weights, draw_weights
from benchmarks.providers import Provider
from relgrounding.graphs import GraphStructure

# Per tensor: the largest difference over the largest value.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# Nearer than this to a bend of a ReLU the gradient is left out of the comparison, unless that were most of it, as it is
# for the attention logits of short types; there the tolerance has to be wide enough.
SLACK = {torch.float64: 1e-13, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}
# Edges x width up to which a case is checked as it is; beyond, with fewer items.
LARGEST = 20_000_000


@dataclass(frozen=True)
class Verdict:
    """What the gate found: the largest error of all tensors, the tensor that has it, the number of items checked."""

    passed: bool
    error: float
    where: str
    items: int

    def __str__(self) -> str:
        return f"{'right' if self.passed else 'wrong'}: {self.where} differs by {self.error:.1e} ({self.items} items)"


class Answer(NamedTuple):
    """What is right for a function.

    Args:
        weights: its weights, in float64.
        right: its outputs, and its gradients with respect to x and each weight.
        above: the gradient that arrives at each output, the same for all; 0 where rounding decides what it becomes.
    """

    weights: Weights
    right: Weights
    above: Outputs


class Problem:
    """Inputs of a case on a batch that the reference can work through, and what is right for them."""

    def __init__(self, case: Case, structure: GraphStructure, dtype: torch.dtype) -> None:
        self.case, self.dtype = case, dtype
        self.structure = reduced(structure, case).to("cpu")
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(self.structure.num_nodes, case.in_dim, generator=generator).to(dtype).double()
        self.answers: dict[str, Answer] = {}

    def answer(self, name: str) -> Answer:
        """What is right for a function, computed once."""
        if name not in self.answers:
            self.answers[name] = self.solve(name, draw_weights(FUNCTIONS[name], self.case, self.dtype))
        return self.answers[name]

    def solve(self, name: str, weights: Weights) -> Answer:
        """What is right for a function with these weights."""
        x = self.x.clone().requires_grad_()
        leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
        outputs, slack = FUNCTIONS[name].reference(self.structure, self.case, x, leaves)
        above = output_gradients(outputs, self.dtype)
        if slack is not None:
            steady = slack > SLACK[self.dtype]
            if self.dtype in (torch.float32, torch.float64) or steady.float().mean() > 0.5:
                above = tuple(gradient * steady for gradient in above)
        x_gradient, *gradients = torch.autograd.grad(outputs, [x, *leaves.values()], above)
        return Answer(weights, _named(outputs, x_gradient, dict(zip(leaves, gradients, strict=True))), above)


def reduced(structure: GraphStructure, case: Case) -> GraphStructure:
    """The first items, at least one, so that the reference takes seconds; all where that is so anyway."""
    work = structure.num_edges * case.out_dim
    if work <= LARGEST or structure.batch_size == 1:
        return structure
    items = max(1, int(structure.batch_size * LARGEST / work))
    return structure.select(torch.arange(items, device=structure.device))


def output_gradients(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    """What arrives from above in the backward, the same for every provider of a function."""
    generator = torch.Generator().manual_seed(2)
    drawn = (torch.randn(out.shape, generator=generator).to(dtype) for out in outputs)
    return tuple(value.to(out.device, out.dtype) for value, out in zip(drawn, outputs, strict=True))


def as_tuple(outputs: Tensor | Outputs) -> Outputs:
    """One output or several, as several."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def check(provider: Provider, problem: Problem, device: torch.device, module: nn.Module | None = None) -> Verdict:
    """Compare a provider with its function; `module` is for tests of the gate, which break it beforehand."""
    answer, items = problem.answer(provider.function), problem.structure.batch_size
    if module is None:
        module = provider.build(problem.case, answer.weights, device, problem.dtype)
    x = problem.x.to(device, problem.dtype).requires_grad_()
    outputs = as_tuple(module(provider.convert(problem.structure.to(device)), x))
    if [out.shape for out in outputs] != [gradient.shape for gradient in answer.above]:
        return Verdict(False, float("inf"), "output", items)
    above = tuple(gradient.to(device, problem.dtype) for gradient in answer.above)
    parameters = list(module.parameters())
    # Layers of other libraries own parameters that this use of them leaves out.
    x_gradient, *rest = torch.autograd.grad(outputs, [x, *parameters], above, materialize_grads=True)
    gradients = provider.gradients(module, problem.case, dict(zip(parameters, rest, strict=True)))
    found = _named(outputs, x_gradient, gradients)
    errors = {name: _difference(found[name], value) for name, value in answer.right.items()}
    where = max(errors, key=lambda name: errors[name])
    return Verdict(errors[where] <= TOLERANCE[problem.dtype], errors[where], where, items)


def _difference(found: Tensor, right: Tensor) -> float:
    if not right.numel():
        return 0.0
    error = (found.cpu().double() - right).abs().max() / right.abs().max().clamp_min(1e-30)
    return float(error.nan_to_num(torch.inf))


def _named(outputs: Outputs, x_gradient: Tensor, gradients: Weights) -> Weights:
    named = {f"output {k}" if k else "output": out.detach() for k, out in enumerate(outputs)}
    return named | {f"gradient of {name}": value for name, value in ({"x": x_gradient} | gradients).items()}
