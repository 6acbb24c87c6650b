"""The operators as opaque calls for `torch.compile`: only tensors cross, and no graph breaks.

The backward call runs the forward once more: what an eager backend keeps in between differs from backend to backend.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relgrounding.graphs import GraphStructure


def run_compiled(operator: str, backend: str, graph: GraphStructure, inputs: Sequence[Tensor], option: float) -> Tensor:
    """What `relgrounding.ops._dispatch.launch` calls while a model is traced."""
    tensors = [graph.indptr, graph.indices, graph.etype, graph.batch_num_nodes]
    tensors += [graph.out_indptr, graph.out_indices, graph.out_edges]
    return _forward(operator, backend, list(inputs), tensors, len(graph.edge_types), option)


@torch.library.custom_op("relgrounding::run", mutates_args=())
def _forward(
    operator: str,
    backend: str,
    inputs: Sequence[Tensor],
    structure: Sequence[Tensor],
    num_types: int,
    option: float,
) -> Tensor:
    return _kernel(operator, backend, inputs, structure, num_types, option)(*inputs).clone()


@_forward.register_fake
def _(operator, backend, inputs, structure, num_types, option):
    return torch.empty_like(inputs[0], memory_format=torch.contiguous_format)


@torch.library.custom_op("relgrounding::run_backward", mutates_args=())
def _backward(
    grad: Tensor,
    operator: str,
    backend: str,
    inputs: Sequence[Tensor],
    structure: Sequence[Tensor],
    num_types: int,
    option: float,
) -> list[Tensor]:
    kernel = _kernel(operator, backend, inputs, structure, num_types, option)
    # Contiguous: in here autograd records the kernels alone, not a copy that they make first.
    leaves = [x.detach().contiguous().requires_grad_() for x in inputs]
    with torch.enable_grad():
        return [x.contiguous() for x in torch.autograd.grad(kernel(*leaves), leaves, grad)]


@_backward.register_fake
def _(grad, operator, backend, inputs, structure, num_types, option):
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]


def _kernel(
    operator: str, backend: str, inputs: Sequence[Tensor], structure: Sequence[Tensor], num_types: int, option: float
) -> Any:
    from relgrounding.ops import gated_sum, graph_attention

    names = ("indptr", "indices", "etype", "batch_num_nodes", "out_indptr", "out_indices", "out_edges")
    tensors = dict(zip(names, structure, strict=True))
    graph = GraphStructure(edge_types=tuple(map(str, range(num_types))), **tensors)
    if operator == "graph_attention":
        return lambda feat, src, dst: graph_attention(graph, feat, src, dst, option, backend)
    return lambda feat, gate, gate_bias, type_bias: gated_sum(graph, feat, gate, gate_bias, type_bias, backend)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    operator, backend, tensors, structure, num_types, option = inputs
    ctx.save_for_backward(*tensors, *structure)
    ctx.arguments = operator, backend, len(tensors), num_types, option


def _differentiate(ctx: Any, grad: Tensor) -> tuple:
    operator, backend, count, num_types, option = ctx.arguments
    tensors, structure = list(ctx.saved_tensors[:count]), list(ctx.saved_tensors[count:])
    grads = _backward(grad.contiguous(), operator, backend, tensors, structure, num_types, option)
    return None, None, grads, [None] * len(structure), None, None


def _refuse(ctx: Any, *grads: Any) -> tuple:
    raise RuntimeError("a compiled operator is not twice differentiable; call it outside torch.compile")


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)
