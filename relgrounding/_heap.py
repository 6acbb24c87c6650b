"""How the C library hands memory back to the system."""

import contextlib
import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""
LARGEST = 2**25
"""Bytes of the largest M_MMAP_THRESHOLD that glibc takes on 64 bits."""
KEPT = 2**30


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GB of freed memory for what it allocates next, instead of handing it back.

    By default glibc maps larger tensors one by one, so that each step of a training gets new pages, and the system
    clears them all. Blocks of over 32 MB are still mapped. Other C libraries, and settings that the user made in the
    environment (`MALLOC_...`, `GLIBC_TUNABLES`), stay as they are.

    Source: mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ) or sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, LARGEST)
        mallopt(_TRIM_THRESHOLD, KEPT)
