"""Which backend runs an operator, and what a graph is to an operator.

The rule of `auto`, where `set_backend` chose nothing else:

1. On the CPU `cpp` where there is a C++ compiler (`relgrounding.ops._cpp`). Otherwise `dense` for graphs of at least
   `DENSE_EDGES` edges, of items of at least `DENSE_NODES` nodes (in the mean over nodes), in which edges join at least
   the share `DENSE_FROM` of all ordered pairs of nodes of an item; otherwise `csr`.
2. On a GPU `triton` where it can run, otherwise `csr`.
3. On any other device `naive`.

The thresholds are where the two cross in float32, forward and backward, on items of 10 to 400 nodes: `csr` costs per
edge, `dense` per pair of nodes, and more in small items and small batches (the density runs of `benchmarks/results`).
float16 and bfloat16 are computed in float32 by these and by `cpp`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from relgrounding._dgl import dgl, dgl_cuda_reason
from relgrounding.graphs import GraphStructure, from_dgl
from relgrounding.ops._compiled import run_compiled
from relgrounding.ops._cpp import cpp_reason
from relgrounding.ops._triton import reason_for, triton_reason

BACKENDS = ("naive", "dgl", "cpp", "dense", "csr", "triton")
# They compute the short types in float32, and a compiler takes them whole.
_OWN_CPU = ("auto", "cpp", "dense", "csr")
DENSE_FROM = {"graph_attention": 0.3, "gated_sum": 0.55}
DENSE_EDGES = 8000
DENSE_NODES = 24
_HALF = (torch.float16, torch.bfloat16)
_FLOAT = (torch.float32, torch.float64)

Kernel = Callable[..., Tensor]
_chosen = "auto"


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
        f"the graph is a {type(graph).__name__}; give a DGLGraph or a GraphStructure: graphs.from_pyg(data) makes one "
        f"from a PyG graph, graphs.GraphStructure.from_edges from sources and destinations"
    )


def available_backends() -> dict[str, str | None]:
    """Return for each backend why it cannot run on this machine's GPU or CPU; None where it can.

    >>> available_backends()["naive"] is None
    True
    """
    reason = dgl_cuda_reason() if torch.cuda.is_available() else None
    own = {"dgl": None if reason is None else f"on CPU tensors only: {reason}"}
    own["cpp"] = cpp_reason("cpu")
    own["triton"] = reason_for("cuda" if torch.cuda.is_available() else "cpu", None, torch.float32)
    return {name: own.get(name) for name in BACKENDS}


class set_backend:
    """Choose the backend that `auto` stands for, from here on or within a ``with`` block.

    A backend that is named in a call or a layer stays what it is.

    Args:
        name: of a backend, or "auto" for the rule of the library.

    Raises:
        ValueError: there is no such backend.

    >>> with set_backend("naive"):
    ...     pass  # every call with backend="auto" runs edge by edge
    """

    def __init__(self, name: str) -> None:
        global _chosen
        check_backend(name)
        self._before = _chosen
        _chosen = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global _chosen
        _chosen = self._before


def launch(
    operator: str, kernels: dict[str, Kernel], graph: GraphStructure, inputs: Sequence[Tensor], option: float, name: str
) -> Tensor:
    """Run an operator.

    Args:
        operator: its name.
        kernels: function of each backend: (structure, *inputs) for `gated_sum`, with the slope last for attention.
        graph: structure.
        inputs: tensors; the first are the features, which the result resembles.
        option: the slope of `graph_attention`.
        name: backend or "auto".
    """
    check_backend(name)
    first = inputs[0]
    # Under autocast a linear map gives a short type and a parameter keeps its own: the features decide.
    autocast = first.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(first.device.type)
    if autocast:
        inputs = [x.to(first.dtype) for x in inputs]
    _check_tensors(graph, *inputs)
    name = choose_backend(_chosen if name == "auto" else name, operator, graph, first)
    if first.dtype in _HALF and name in _OWN_CPU:
        inputs = [x.float() for x in inputs]
    if torch.compiler.is_compiling() and name in _OWN_CPU:
        return run_compiled(operator, name, graph, inputs, option).to(first.dtype)
    arguments = (graph, *inputs, option) if operator == "graph_attention" else (graph, *inputs)
    if not autocast:
        return kernels[name](*arguments).to(first.dtype)
    with torch.autocast(first.device.type, enabled=False):
        return kernels[name](*arguments).to(first.dtype)


def runs_plainly(kernel: str, backend: str, operator: str, structure: GraphStructure, *inputs: Tensor) -> bool:
    """Whether `launch` would call this kernel on these very tensors: on the CPU, not compiled, no change of types."""
    dtype = inputs[0].dtype
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or dtype not in _FLOAT:
        return False
    if not structure.indptr.is_cpu or len(inputs[0]) != structure.num_nodes:
        return False
    # Every call of a layer pays for this: the attributes that are quick to read.
    for x in inputs:
        if x.dtype is not dtype or not x.is_cpu:
            return False
    name = _chosen if backend == "auto" else backend
    return name in ("auto", kernel) and choose_backend(name, operator, structure, inputs[0]) == kernel


def edge_inputs(
    operator: str, structure: GraphStructure, inputs: Sequence[Tensor], edge_bias: Tensor | None, backend: str
) -> tuple[bool, Sequence[Tensor], Tensor | None]:
    """Whether `ops._edges` computes as "naive" does, and its inputs and the bias in the type that it computes in.

    Args:
        operator: its name.
        structure: graph.
        inputs: tensors; the first are the features.
        edge_bias: (E, K) or None.
        backend: or "auto".

    Raises:
        ValueError: a backend that does not exist or cannot run here, or features that do not fit the graph.
    """
    check_backend(backend)
    first = inputs[0]
    if len(first) != structure.num_nodes:
        raise ValueError(f"the graph has {structure.num_nodes} nodes, the features have {len(first)} rows")
    name = choose_backend(_chosen if backend == "auto" else backend, operator, structure, first)
    dtype = torch.float32 if first.dtype in _HALF else first.dtype
    inputs = [x.to(dtype) for x in inputs]
    edge_bias = None if edge_bias is None else edge_bias.to(dtype)
    _check_tensors(structure, *inputs, *([] if edge_bias is None else [edge_bias]))
    naive = name == "naive" or torch.compiler.is_compiling() or first.device.type not in ("cpu", "cuda")
    return naive, inputs, edge_bias


def choose_backend(backend: str, operator: str, structure: GraphStructure, tensor: Tensor) -> str:
    """Return the name of the backend that runs; the rule of `auto` is at the top of this file.

    While `torch.compile` traces a model, what depends on the edges is open: "auto" stays "auto" until the call.

    Raises:
        ValueError: a backend that cannot run on these features.
    """
    if backend == "auto":
        if tensor.device.type == "cpu":
            return "auto" if torch.compiler.is_compiling() else _on_cpu(operator, structure, tensor)
        if tensor.device.type == "cuda":
            return "csr" if triton_reason(tensor) else "triton"
        return "naive"
    reason = _reason(backend, tensor)
    if reason:
        raise ValueError(f"backend '{backend}' cannot run here: {reason}; use backend='naive' or 'auto'")
    return backend


def _on_cpu(operator: str, structure: GraphStructure, tensor: Tensor) -> str:
    if cpp_reason("cpu", tensor.dtype) is None:
        return "cpp"
    large = structure.num_edges >= DENSE_EDGES and structure.num_pairs >= DENSE_NODES * structure.num_nodes
    return "dense" if large and structure.num_edges >= DENSE_FROM[operator] * structure.num_pairs else "csr"


def _reason(backend: str, tensor: Tensor) -> str | None:
    """Why a backend cannot run on these tensors; None where it can."""
    if backend == "dgl":
        return _dgl_reason(tensor)
    if backend == "triton":
        return triton_reason(tensor)
    if backend == "cpp":
        return cpp_reason(tensor.device.type, tensor.dtype)
    if backend in ("dense", "csr") and tensor.device.type not in ("cpu", "cuda"):
        return f"it runs on the CPU and on CUDA, not on {tensor.device}"
    return None


def check_backend(backend: str) -> None:
    """Refuse an unknown backend.

    Raises:
        ValueError: there is no such backend.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"unknown backend '{backend}'; the backends are auto, {', '.join(BACKENDS)}")


def _check_tensors(structure: GraphStructure, tensor: Tensor, *others: Tensor) -> None:
    if structure.device != tensor.device:
        raise ValueError(
            f"the graph is on {structure.device}, the features are on {tensor.device}; move one with .to()"
        )
    for other in others:
        if (other.device, other.dtype) != (tensor.device, tensor.dtype):
            raise ValueError(
                f"the features are {tensor.dtype} on {tensor.device}, another input is {other.dtype} on "
                f"{other.device}; give all tensors one type and device"
            )


def _dgl_reason(tensor: Tensor) -> str | None:
    if torch.compiler.is_compiling():
        return "torch.compile cannot see into DGL"
    if tensor.dtype not in _FLOAT:
        return f"its kernels take float32 and float64, not {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.device.type == "cpu":
        return None
    return dgl_cuda_reason() if tensor.device.type == "cuda" else f"DGL has no kernels for {tensor.device}"
