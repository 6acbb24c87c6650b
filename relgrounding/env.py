"""Prints what this environment can do: ``python -m relgrounding.env``."""

import platform

import torch

from relgrounding import __version__
from relgrounding._dgl import dgl, dgl_cuda_reason


def _torch_cuda() -> str:
    if torch.version.cuda is None:
        return "no CUDA in this build"
    if not torch.cuda.is_available():
        return f"built for CUDA {torch.version.cuda}, but no device is visible"
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"CUDA {torch.version.cuda} on {names}"


def report() -> str:
    """Versions, CUDA, and the backends of `relgrounding.ops` with the reason why one cannot run here."""
    from relgrounding import ops

    reason = dgl_cuda_reason()
    dgl_cuda = "graphs can live on the GPU" if reason is None else f"graphs stay on the CPU: {reason}"
    lines = [
        f"relgrounding  {__version__}",
        f"Python        {platform.python_version()} ({platform.system()} {platform.machine()})",
        f"PyTorch       {torch.__version__} ({_torch_cuda()}; {torch.get_num_threads()} threads)",
        f"DGL           {dgl.__version__} ({dgl_cuda})",
        "backends",
    ]
    for name, why_not in ops.available_backends().items():
        lines.append(f"  {name:<12} {'usable' if why_not is None else f'not usable: {why_not}'}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
