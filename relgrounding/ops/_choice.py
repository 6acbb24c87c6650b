"""Which backend runs an operator.

The rule of `auto`, where `set_backend` chose nothing else, follows from the ranks that the backends register:

1. On the CPU `cpp` where there is a C++ compiler (`relgrounding.ops._cpp`). Otherwise `dense` for large graphs in which
   most nodes are joined (`relgrounding.ops._dense`), but not for `typed_comparison`; otherwise `csr`.
2. On a GPU with Triton `triton_dense` for items of up to 256 nodes of which a tenth of all pairs are joined, otherwise
   `triton` (`relgrounding.ops._triton`); without it `csr`.
3. On any other device `naive`.
"""

import torch
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import backend_names, candidates, check_backend, find_backend

_chosen = "auto"


class set_backend:
    """Choose the backend that `auto` stands for, from here on or within a ``with`` block.

    A backend that is named in a call or a layer stays what it is, and an operator that has no backend of this name
    keeps the rule of the library.

    Args:
        name: of a backend of `graph_attention`, `gated_sum` or `typed_comparison`, or "auto": the rule of the library.

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


def choose_backend(backend: str, operator: str, graph: GraphStructure | None, tensor: Tensor) -> str:
    """Return the name of the backend that runs; the rule of `auto` is at the top of this file.

    While `torch.compile` traces a model, what depends on the edges is open: "auto" stays "auto" until the call.

    Raises:
        ValueError: there is no such backend, or it cannot run on these features.
    """
    if backend == "auto" != _chosen and _chosen in backend_names(operator):
        backend = _chosen
    if backend != "auto":
        reason = find_backend(operator, backend).why_not(tensor.device, tensor.dtype)
        if reason:
            raise ValueError(f"backend '{backend}' cannot run here: {reason}; use backend='naive' or 'auto'")
        return backend
    for name, candidate in candidates(operator, tensor.device.type):
        if candidate.why_not(tensor.device, tensor.dtype) is None:
            if candidate.opaque and torch.compiler.is_compiling():
                return "auto"
            if candidate.suits is None or candidate.suits(graph):
                return name
    return "naive"
