"""Which backend runs an operator, and what a graph is to an operator."""

import torch
from torch import Tensor

from relgrounding._dgl import dgl, dgl_cuda_reason
from relgrounding.graphs import GraphStructure, from_dgl

BACKENDS = ("naive", "dgl")


def as_structure(graph: "dgl.DGLGraph | GraphStructure") -> GraphStructure:
    """Return the structure of a graph that is given in either form."""
    return graph if isinstance(graph, GraphStructure) else from_dgl(graph)


def available_backends() -> dict[str, str | None]:
    """Return for each backend why it cannot run on this machine's GPU or CPU; None where it can.

    >>> available_backends()["naive"] is None
    True
    """
    reason = dgl_cuda_reason() if torch.cuda.is_available() else None
    return {"naive": None, "dgl": None if reason is None else f"on CPU tensors only: {reason}"}


def choose_backend(backend: str, structure: GraphStructure, tensor: Tensor, *others: Tensor) -> str:
    """Return the name of the backend that runs.

    `auto` is `dgl` where its kernels take the tensors (float32 or float64, on the CPU or where DGL has CUDA), since it
    makes no (edges x features) tensor; otherwise `naive`.

    Raises:
        ValueError: an unknown name, a backend that cannot run on these tensors, or tensors that do not go together.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"unknown backend '{backend}'; the backends are auto, {', '.join(BACKENDS)}")
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
    if backend == "naive":
        return backend
    reason = _dgl_reason(tensor)
    if backend == "dgl" and reason:
        raise ValueError(f"backend 'dgl' cannot run here: {reason}; use backend='naive' or 'auto'")
    return "naive" if reason else "dgl"


def _dgl_reason(tensor: Tensor) -> str | None:
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"its kernels take float32 and float64, not {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.device.type == "cpu":
        return None
    return dgl_cuda_reason() if tensor.device.type == "cuda" else f"DGL has no kernels for {tensor.device}"
