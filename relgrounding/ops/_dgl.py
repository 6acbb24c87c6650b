"""Where the `dgl` backends can run."""

import torch

from relgrounding._dgl import dgl_cuda_reason


def dgl_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why DGL's kernels cannot run on the CPU or on CUDA; None where they can."""
    if torch.compiler.is_compiling():
        return "torch.compile cannot see into DGL"
    return dgl_cuda_reason() if device.type == "cuda" else None
