"""Reading of HDF5 files in which the texts' own storage, the global heap, is checked before the HDF5 library sees it.

The library (release 2.0 at least) walks through a collection of that heap by the sizes that stand in it, and never
ends where one of them is 0. Python cannot interrupt that, so that one damaged byte would stop a training for good.
"""

import io
import os
from pathlib import Path
from typing import Any

SIGNATURE = b"GCOL\x01\0\0\0"
LARGEST_METADATA = 2**20
"""Bytes that the library reads at once and keeps for later; what is larger holds features."""
LONGEST_TEXT = 2**20
"""Bytes: thousands of texts may point to one and the same object of the heap."""


def read_into(descriptor: int, buffer: Any, at: int) -> int:
    """Fill a buffer from a position in a file; return the bytes read, fewer where the file ends."""
    view, done = memoryview(buffer).cast("B"), 0
    while done < len(view) and (count := os.preadv(descriptor, [view[done:]], at + done)):
        done += count
    return done


class CheckedFile(io.RawIOBase):
    """A file for h5py to read; bytes behind its end are zeros, as with the library's own driver.

    Args:
        path: HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer.

        Raises:
            OSError: it holds the beginning of a damaged collection, or lies far behind the end of the file.
        """
        view = memoryview(buffer).cast("B")
        if self._at + len(view) > self._size + LARGEST_METADATA:
            # Before the buffer is filled, so that what is declared and not there takes no memory.
            raise OSError(f"{len(view)} bytes at {self._at} are behind the end of the file, {self._size}")
        done = read_into(self._descriptor, view, self._at)
        view[done:] = bytes(len(view) - done)
        if len(view) <= LARGEST_METADATA:
            self._check(self._at, len(view))
        self._at += len(view)
        return len(view)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _check(self, at: int, size: int) -> None:
        # A signature may begin in one piece that is read and end in the next.
        begin = max(0, at - len(SIGNATURE))
        content, position = os.pread(self._descriptor, at + size + len(SIGNATURE) - begin, begin), -1
        while (position := content.find(SIGNATURE, position + 1)) >= 0:
            if not self._ends(begin + position):
                raise OSError("texts are stored in a heap with an object of no or too large a size")

    def _ends(self, at: int) -> bool:
        """Return whether the walk through a collection comes to its end."""
        size = int.from_bytes(os.pread(self._descriptor, 8, at + 8), "little")
        if at + size > self._size:
            return False
        content, position = os.pread(self._descriptor, size, at), 16
        while position + 16 <= size:
            number = int.from_bytes(content[position : position + 2], "little")
            length = int.from_bytes(content[position + 8 : position + 16], "little")
            # Free space, number 0, is as long as it says; an object has a head of 16 bytes and ends at a multiple of 8.
            if number != 0 and length > LONGEST_TEXT:
                return False
            length = length if number == 0 else 16 + (length + 7) // 8 * 8
            if not 16 <= length <= size - position:
                return False
            position += length
        return True
