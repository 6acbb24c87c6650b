"""Untrusted NumPy files and archives: what they declare is checked before memory is allocated."""

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relgrounding.io._errors import BadFeatures
from relgrounding.io._hdf5 import damage
from relgrounding.io._regular import MAX_BYTES, check_regular

LONGEST_HEADER = 10_000


class Header(NamedTuple):
    """What an array declares."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_header(file: Any, where: str) -> Header:
    """Read the header of an array, and no more than a header may be long.

    Raises:
        BadFeatures: too long a header.
        ValueError: no header, or one of Python objects.
    """
    version = np.lib.format.read_magic(file)
    count = 2 if version == (1, 0) else 4
    size = file.read(count)
    if int.from_bytes(size, "little") > LONGEST_HEADER:
        raise BadFeatures(f"{where} declares a header of {int.from_bytes(size, 'little')} bytes; is the file damaged?")
    text = io.BytesIO(size + file.read(int.from_bytes(size, "little")))
    reader = np.lib.format.read_array_header_1_0 if count == 2 else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(text)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which could run any code")
    return Header(shape, dtype)


def npy_header(path: Path) -> Header:
    """Read the header of a `.npy` file.

    Raises:
        MissingFile, UnsafeFile: see `relgrounding.io._regular.check_regular`.
        BadFeatures: it is not a `.npy` file.
    """
    check_regular(path)
    with damage(str(path), "a NumPy file"), path.open("rb") as file:
        return read_header(file, str(path))


def read_npy(path: Path, limit: int = MAX_BYTES) -> np.ndarray:
    """Read the numbers of a `.npy` file.

    Raises:
        MissingFile, UnsafeFile: see `relgrounding.io._regular.check_regular`.
        BadFeatures: it is damaged, holds no numbers, or declares more than `limit` bytes.
    """
    header = npy_header(path)
    _check(header, str(path), limit)
    with damage(str(path), "a NumPy file"):
        return np.load(path, allow_pickle=False)


def member_header(archive: zipfile.ZipFile, key: str, where: str) -> Header:
    """Read the header of an array in a `.npz` archive."""
    with archive.open(f"{key}.npy") as file:
        return read_header(file, f"{where}, {key}")


def read_member(
    archive: zipfile.ZipFile, key: str, where: str, limit: int = MAX_BYTES, kinds: str = "fiub"
) -> np.ndarray:
    """Read an array in a `.npz` archive, of numbers unless `kinds` allows others.

    Raises:
        BadFeatures: it holds no numbers, or declares more than `limit` bytes.
    """
    _check(member_header(archive, key, where), f"{where}, {key}", limit, kinds)
    with archive.open(f"{key}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check(header: Header, where: str, limit: int, kinds: str = "fiub") -> None:
    if header.dtype.kind not in kinds:
        raise BadFeatures(f"{where} holds {header.dtype}, expected numbers; make the file again")
    check_bytes(header.shape, header.dtype, where, limit)


def check_bytes(shape: tuple[int, ...], dtype: np.dtype, where: str, limit: int) -> None:
    """Refuse an array that would take more memory than is allowed.

    Raises:
        BadFeatures: it would.
    """
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > limit:
        raise BadFeatures(
            f"{where} claims shape {shape} of {dtype}: too large for one item; is the file damaged? "
            "relgrounding prepare features --max-bytes raises the limit"
        )
