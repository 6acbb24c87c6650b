"""How the C library takes memory from the system and hands it back."""

import contextlib
import ctypes
import mmap
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of glibc's malloc.h."""
LARGEST = 2**25
"""Bytes of the largest M_MMAP_THRESHOLD that glibc takes on 64 bits."""
KEPT = 2**30
AHEAD = KEPT // 2
"""Bytes of addresses that the heap takes at once, to be large pages."""


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GB of freed memory for what it allocates next, instead of handing it back.

    By default glibc maps larger tensors one by one, so that each step of a training gets new pages, and the system
    clears them all. Blocks of over 32 MB are still mapped. The next 512 MB of the heap ask for large pages
    (MADV_HUGEPAGE). Other C libraries, and settings that the user made in the environment (`MALLOC_...`,
    `GLIBC_TUNABLES`), stay as they are.

    Sources: mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html; madvise(2),
    https://man7.org/linux/man-pages/man2/madvise.2.html.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ) or sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, LARGEST)
        library.mallopt(_TRIM_THRESHOLD, KEPT)
        _grow(library)


def _grow(library: ctypes.CDLL) -> None:
    """Let the heap take further addresses, and ask for large pages there."""
    if mmap.PAGESIZE != 4096:  # large ones are of 32 or 512 MB then
        return
    advice = mmap.MADV_HUGEPAGE
    address, size = ctypes.c_void_p, ctypes.c_size_t
    library.sbrk.restype = library.malloc.restype = address
    library.malloc.argtypes, library.free.argtypes = [size], [address]
    library.madvise.argtypes = [address, size, ctypes.c_int]
    start = -(-library.sbrk(0) // mmap.PAGESIZE) * mmap.PAGESIZE
    library.mallopt(_TOP_PAD, AHEAD)
    block = library.malloc(LARGEST - 2**16)  # more than is free below; never touched
    library.mallopt(_TOP_PAD, 2**17)  # glibc's own: later, small requests must not fail for want of so many addresses
    if (length := library.sbrk(0) - start) > 0:
        library.madvise(start, length, advice)
    library.free(block)
