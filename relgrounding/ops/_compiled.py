"""Operators as opaque calls for `torch.compile`: only tensors cross, and no graph breaks.

The backward call runs the forward once more: what an eager backend keeps in between differs from backend to backend.
`run_compiled` is for operators on graphs, `Opaque` for functions whose work depends on the values of integers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

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
        return inputs[0].new_empty(structure[_STRUCTURE.index("indices")].shape)
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


class Opaque:
    """A function of tensors that `torch.compile` calls as it stands, forward and backward.

    Args:
        function: takes tensors and a text, and returns a tensor or several, with gradients for the tensors of floats.
        shapes: takes the same, and returns empty tensors like the results.
    """

    _known: ClassVar[dict[str, "Opaque"]] = {}

    def __init__(self, function: Callable[..., Any], shapes: Callable[..., Any]) -> None:
        self.function, self.shapes = function, shapes
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._known[self.name] = self

    def __call__(self, *tensors: Tensor, text: str = "") -> tuple[Tensor, ...]:
        """Call it; the results are always several."""
        return tuple(_opaque(self.name, list(tensors), text))

    @classmethod
    def run(cls, name: str, tensors: Sequence[Tensor], text: str) -> list[Tensor]:
        """What a compiled graph calls."""
        with torch.autocast(tensors[0].device.type, enabled=False):
            return _listed(cls._known[name].function(*tensors, text))

    @classmethod
    def empty(cls, name: str, tensors: Sequence[Tensor], text: str) -> list[Tensor]:
        """Empty results, for the compiler."""
        return _listed(cls._known[name].shapes(*tensors, text))


def _listed(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else list(results)


@torch.library.custom_op("relgrounding::opaque", mutates_args=())
def _opaque(name: str, tensors: Sequence[Tensor], text: str) -> list[Tensor]:
    return [_copy(x) for x in Opaque.run(name, tensors, text)]


@_opaque.register_fake
def _(name, tensors, text):
    return Opaque.empty(name, tensors, text)


def _run_opaque_backward(name: str, grads: Sequence[Tensor], tensors: Sequence[Tensor], text: str) -> list[Tensor]:
    given = [x.detach().contiguous() for x in tensors]
    leaves = [x.requires_grad_() for x in given if x.is_floating_point()]
    with torch.enable_grad():
        results = Opaque.run(name, given, text)
        found = torch.autograd.grad(results, leaves, list(grads), allow_unused=True)
    # Copies: gradients may be parts of one tensor, which an operator must not return.
    return [torch.zeros_like(x) if g is None else _copy(g) for x, g in zip(leaves, found, strict=True)]


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _fake_opaque_backward(name, grads, tensors, text):
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors if x.is_floating_point()]


# Not `custom_op`: inside of one autograd records nothing but functions of its own.
_library = torch.library.Library("relgrounding", "FRAGMENT")
_library.define("opaque_backward(str name, Tensor[] grads, Tensor[] tensors, str text) -> Tensor[]")
_library.impl("opaque_backward", _run_opaque_backward, "CompositeExplicitAutograd")
torch.library.register_fake("relgrounding::opaque_backward", _fake_opaque_backward, lib=_library)


def _keep_opaque(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    ctx.name, tensors, ctx.text = inputs
    ctx.save_for_backward(*tensors)
    ctx.like = [(x.shape, x.dtype) for x in output]


def _differentiate_opaque(ctx: Any, grads: list[Tensor | None]) -> tuple:
    tensors = list(ctx.saved_tensors)
    whole = [
        tensors[0].new_zeros(shape, dtype=dtype) if g is None else g.contiguous()
        for g, (shape, dtype) in zip(grads, ctx.like, strict=True)
    ]
    found = iter(torch.ops.relgrounding.opaque_backward(ctx.name, whole, tensors, ctx.text))
    return None, [next(found) if x.is_floating_point() else None for x in tensors], None


_opaque.register_autograd(_differentiate_opaque, setup_context=_keep_opaque)
