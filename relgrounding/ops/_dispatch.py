"""How an operator runs: the types of its inputs, autocast, `torch.compile`, and what a graph is to an operator."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import GraphStructure, from_dgl
from relgrounding.ops._choice import choose_backend
from relgrounding.ops._compiled import run_compiled
from relgrounding.ops._registry import FLOAT, HALF, Backend, find_backend, find_layer

# What "auto" is while a compiler traces a model.
_OPEN = Backend(lambda: None, widen_half=True, opaque=True)


def as_structure(graph: "dgl.DGLGraph | GraphStructure") -> GraphStructure:
    """Return the structure of a graph that is given in either form.

    Raises:
        TypeError: anything else.
    """
    if isinstance(graph, GraphStructure):
        return graph
    if isinstance(graph, dgl.DGLGraph):
        return from_dgl(graph)
    raise TypeError(
        f"the graph is a {type(graph).__name__}; give a DGLGraph or a GraphStructure: graphs.from_pyg makes one of a "
        f"PyG graph, or of an edge_index and num_nodes; graphs.GraphStructure.from_edges of sources and destinations"
    )


def launch(
    operator: str, inputs: Sequence[Tensor], backend: str, graph: GraphStructure | None = None, **options: Any
) -> Any:
    """Run an operator.

    Args:
        operator: its name.
        inputs: tensors of floats; the type of the first is that of the results.
        backend: name or "auto".
        graph: for operators on graphs, whose functions take it before the inputs.
        options: what else its functions take, by keyword; numbers, for operators on graphs.
    """
    first = inputs[0]
    name = choose_backend(backend, operator, graph, first)
    chosen = _OPEN if name == "auto" else find_backend(operator, name)
    leading = () if graph is None else (graph,)
    if chosen.own_autocast:
        return chosen.function(*leading, *inputs, **options)
    # Under autocast a linear map gives a short type and a parameter keeps its own: the features decide.
    autocast = first.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(first.device.type)
    if autocast:
        inputs = [x.to(first.dtype) for x in inputs]
    check_tensors(graph, *inputs)
    if chosen.widen_half and first.dtype in HALF:
        inputs = [x.float() for x in inputs]
    if chosen.opaque and torch.compiler.is_compiling():
        assert graph is not None
        return run_compiled(operator, name, graph, inputs, options).to(first.dtype)
    if not autocast:
        return _in_type(first.dtype, chosen.function(*leading, *inputs, **options))
    with torch.autocast(first.device.type, enabled=False):
        return _in_type(first.dtype, chosen.function(*leading, *inputs, **options))


def _in_type(dtype: torch.dtype, results: Any) -> Any:
    return results.to(dtype) if isinstance(results, Tensor) else tuple(x.to(dtype) for x in results)


def whole_layer(
    layer: str, operator: str, backend: str, structure: GraphStructure, *inputs: Tensor
) -> Callable[..., Tensor] | None:
    """The function for a whole layer of the backend that would run an operator on these very tensors.

    None where it has none, or where `launch` would not call it as it stands: compiled, or with other types.
    """
    x = inputs[0]
    dtype, device = x.dtype, x.device
    if dtype not in FLOAT or torch.compiler.is_compiling():
        return None
    if structure.indptr.device != device or len(x) != structure.num_nodes:
        return None
    # Every call of a layer pays for this: the attributes that are quick to read.
    for tensor in inputs:
        if tensor.dtype is not dtype or tensor.device != device:
            return None
    if device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type):
        return None
    chosen = find_layer(layer, choose_backend(backend, operator, structure, x))
    return chosen.function if chosen and chosen.why_not(device, dtype) is None else None


def check_tensors(structure: GraphStructure | None, tensor: Tensor, *others: Tensor) -> None:
    """Raise ValueError where the tensors, or the graph and they, are of different types or on different devices."""
    if structure is not None and structure.device != tensor.device:
        raise ValueError(
            f"the graph is on {structure.device}, the features are on {tensor.device}; move one with .to()"
        )
    for other in others:
        if (other.device, other.dtype) != (tensor.device, tensor.dtype):
            raise ValueError(
                f"the features are {tensor.dtype} on {tensor.device}, another input is {other.dtype} on "
                f"{other.device}; give all tensors one type and device"
            )
