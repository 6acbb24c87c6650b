"""Peak of the memory that a function takes, as PyTorch's allocator and as the system see it."""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

Function = Callable[[], object]
# Numbers of glibc's malloc.h and of the kernel's documentation of /proc.
_M_MMAP_THRESHOLD, _CLEAR_PEAK = -3, "5"
# What the process's peak wanders by without any allocation of ours.
NOISE = 1 << 20
# Seconds of a call beyond which one call has to do: it takes hundreds of megabytes, to which that noise is nothing.
SLOW = 0.5


@dataclass(frozen=True)
class Memory:
    """Bytes beyond those in use before a call.

    Args:
        allocator: peak of what PyTorch's allocator handed out: exact, but blind to what a library allocates by itself.
        process: peak of the process's resident pages, which sees everything, to within about `NOISE`; None where the
            system does not tell (or on a GPU).
    """

    allocator: int
    process: int | None

    @property
    def peak(self) -> int:
        """The larger one, where the process's exceeds the other by more than its noise."""
        return max(self.allocator, (self.process or 0) - NOISE)


def own_pages() -> None:
    """From now on give each block of at least 64 KiB pages of its own, which go back to the system when it is freed.

    Otherwise malloc keeps freed blocks for later ones, and what they leave unused counts as the function's. For the
    start of a process that measures memory only: allocation becomes slower, and what was freed before stays in use.
    """
    try:
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    except (OSError, AttributeError):
        return


def peak_memory(function: Function, device: torch.device) -> Memory:
    """Peak extra memory of a call, its result included; after a first call, which fills caches. See `own_pages`."""
    begin = time.perf_counter()
    function()
    slow = time.perf_counter() - begin > SLOW
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = function()
        torch.cuda.synchronize(device)
        del result
        return Memory(torch.cuda.max_memory_allocated(device) - before, None)
    # Pages of other threads and of the interpreter come and go: the least of three has the fewest of them.
    peaks = [peak for peak in (_resident_peak(function) for _ in range(1 if slow else 3)) if peak is not None]
    return Memory(allocated(function)[0], min(peaks, default=None))


def allocated(function: Function) -> tuple[int, int]:
    """Peak and final sum of what one call took from PyTorch's CPU allocator and has not given back."""
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = function()
    del result
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak, now


def _resident_peak(function: Function) -> int | None:
    """The system's own high-water mark, reset beforehand; freed pages that malloc kept are handed back first."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as reset:
            reset.write(_CLEAR_PEAK)
        before = _status("VmRSS")
        result = function()
        after = _status("VmHWM")
    except (OSError, AttributeError):
        return None
    del result
    return after - before


def _status(key: str) -> int:
    with open("/proc/self/status") as lines:
        line = next(line for line in lines if line.startswith(key))
    return int(line.split()[1]) * 1024


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that some builds of PyTorch's profiler write past Python's stderr."""
    sys.stderr.flush()
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)
