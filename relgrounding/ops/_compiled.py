"""The operators on graphs as opaque calls for `torch.compile`: only tensors cross, and no graph breaks.

The backward call runs the forward once more: what an eager backend keeps in between differs from backend to backend.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._choice import choose_backend
from relgrounding.ops._registry import find_backend

_STRUCTURE = ("indptr", "indices", "etype", "batch_num_nodes", "out_indptr", "out_indices", "out_edges")


def run_compiled(
    operator: str, backend: str, graph: GraphStructure, inputs: Sequence[Tensor], options: Mapping[str, float]
) -> Tensor:
    """What `relgrounding.ops._dispatch.launch` calls while a model is traced."""
    tensors = [getattr(graph, name) for name in _STRUCTURE]
    # A schema knows lists of numbers, and no mappings.
    names, values = ",".join(options), list(options.values())
    return _forward(operator, backend, list(inputs), tensors, len(graph.edge_types), names, values)


@torch.library.custom_op("relgrounding::run", mutates_args=())
def _forward(
    operator: str,
    backend: str,
    inputs: Sequence[Tensor],
    structure: Sequence[Tensor],
    num_types: int,
    names: str,
    options: Sequence[float],
) -> Tensor:
    return _kernel(operator, backend, structure, num_types, names, options)(inputs).clone()


@_forward.register_fake
def _(operator, backend, inputs, structure, *_):
    if find_backend(operator, "naive").per_edge:
        return inputs[0].new_empty(len(structure[_STRUCTURE.index("indices")]))
    return torch.empty_like(inputs[0], memory_format=torch.contiguous_format)


@torch.library.custom_op("relgrounding::run_backward", mutates_args=())
def _backward(
    grad: Tensor,
    operator: str,
    backend: str,
    inputs: Sequence[Tensor],
    structure: Sequence[Tensor],
    num_types: int,
    names: str,
    options: Sequence[float],
) -> list[Tensor]:
    kernel = _kernel(operator, backend, structure, num_types, names, options)
    # Contiguous: in here autograd records the kernels alone, not a copy that they make first.
    leaves = [x.detach().contiguous().requires_grad_() for x in inputs]
    with torch.enable_grad():
        return [x.contiguous() for x in torch.autograd.grad(kernel(leaves), leaves, grad)]


@_backward.register_fake
def _(grad, operator, backend, inputs, *_):
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]


def _kernel(
    operator: str, backend: str, structure: Sequence[Tensor], num_types: int, names: str, options: Sequence[float]
) -> Callable[[Sequence[Tensor]], Tensor]:
    tensors = dict(zip(_STRUCTURE, structure, strict=True))
    graph = GraphStructure(edge_types=tuple(map(str, range(num_types))), **tensors)
    named = dict(zip(names.split(","), options, strict=True)) if names else {}

    def run(inputs: Sequence[Tensor]) -> Tensor:
        chosen = find_backend(operator, choose_backend(backend, operator, graph, inputs[0]))
        with torch.autocast(inputs[0].device.type, enabled=False):
            return chosen.function(graph, *inputs, **named)

    return run


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    operator, backend, tensors, structure, *rest = inputs
    ctx.save_for_backward(*tensors, *structure)
    ctx.arguments = operator, backend, len(tensors), rest


def _differentiate(ctx: Any, grad: Tensor) -> tuple:
    operator, backend, count, rest = ctx.arguments
    tensors, structure = list(ctx.saved_tensors[:count]), list(ctx.saved_tensors[count:])
    grads = _backward(grad.contiguous(), operator, backend, tensors, structure, *rest)
    # PyTorch takes an empty list for a list of tensors.
    return None, None, grads, [None] * len(structure), None, None, None if rest[-1] else []


def _refuse(ctx: Any, *grads: Any) -> tuple:
    raise RuntimeError("a compiled operator is not twice differentiable; call it outside torch.compile")


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)
