"""What a figure depends on: the machine and the versions."""

import importlib.metadata
import os
import platform

import torch

from relgrounding._printing import counted

PACKAGES = ("torch", "dgl", "torch-geometric", "pyg-lib", "torch-scatter", "triton", "numpy")


def _line(path: str, key: str) -> str | None:
    """The value of the first line ``key: value`` of a file of the system; None where there is none."""
    try:
        with open(path) as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        return None


def processor() -> str:
    """The processor's name as the system gives it."""
    return _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def version(package: str) -> str:
    """The installed version, or that there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def facts(device: torch.device) -> dict[str, str]:
    """One line per fact for the header of a table."""
    load = (
        f"{os.getloadavg()[0]:.1f} processes ready to run, one-minute mean" if hasattr(os, "getloadavg") else "unknown"
    )
    found = {
        "processor": f"{processor()}, {os.cpu_count()} cores, {counted(torch.get_num_threads(), 'thread')} used",
        "memory": f"{_total_memory() / 2**30:.0f} GiB",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "load before the run": load,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["GPU"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return found | {package: version(package) for package in PACKAGES}


def short_products(device: torch.device) -> str:
    """What multiplies matrices of bfloat16."""
    if device.type != "cpu":
        return str(device)
    flags = (_line("/proc/cpuinfo", "flags") or "").split()
    return ", ".join(name for name in ("amx_bf16", "avx512_bf16") if name in flags) or "no instructions of its own"


def available_memory(device: torch.device) -> int:
    """Bytes that are free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = _line("/proc/meminfo", "MemAvailable")
    return int(available.split()[0]) * 1024 if available else _total_memory() // 2


def _total_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
