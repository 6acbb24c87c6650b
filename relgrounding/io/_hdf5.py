"""Untrusted HDF5 files: only numbers in the file itself are read, and damage is one kind of error."""

import contextlib
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from relgrounding.io._errors import BadFeatures, DataError, UnsafeFile
from relgrounding.io._hdf5_heap import CheckedFile, read_into
from relgrounding.io._regular import MAX_BYTES, check_regular, existing

MOST_SQUEEZED = 2**12
"""How many times smaller compression may have made a dataset: gzip reaches 1,032."""
CHECKSUM = 4
"""Bytes at the end of a chunk with the filter fletcher32."""
GZIP = 1032
"""How many times smaller gzip makes zeros."""
TEXTS = 1024
"""Texts that are read at once, each of at most 1 MB."""
PARAMETERS = {h5py.h5z.FILTER_SZIP: 4, h5py.h5z.FILTER_SCALEOFFSET: 20}
"""The library reads this many parameters of a filter without checking that they exist; nbit's number is not fixed."""


@contextlib.contextmanager
def damage(where: str, kind: str = "HDF5") -> Iterator[None]:
    """Turn what the library that parses a damaged file raises into `BadFeatures`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # which kind depends on where in the file the damage is
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise BadFeatures(f"{where} is damaged, cut off or not {kind}: {text}; copy or make it again") from None


def open_hdf5(path: Path, chunk_cache: int | None = None) -> h5py.File:
    """Open a file for reading.

    Args:
        path: of the file.
        chunk_cache: bytes of unpacked chunks that each dataset keeps; None: the library's own, 1 MB.

    Raises:
        MissingFile: no such file.
        BadFeatures: it is not an HDF5 file, or cut off.
    """
    check_regular(existing(path, "relgrounding prepare makes feature files, docs/data.md says how"))
    with damage(str(path)):
        return h5py.File(CheckedFile(path), "r", rdcc_nbytes=chunk_cache)


def member(group: h5py.Group, name: str, where: str) -> Any:
    """Return a member of a group, or None; only what the group itself holds.

    Raises:
        UnsafeFile: a link to elsewhere, a virtual dataset, or one whose numbers lie in another file.
        BadFeatures: the file is damaged.
    """
    if "/" in name or "\0" in name or name in ("", "."):  # the library reads a name up to its first NUL
        return None
    with damage(where):
        # h5py's own `get` and `[]` look everything up several times.
        key = name.encode()
        if not group.id.links.exists(key):
            return None
        if group.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            target = getattr(group.get(name, getlink=True), "filename", "elsewhere")
            raise UnsafeFile(
                f"{where}: {name!r} is a link to {target!r}; only what the file "
                "itself holds is read: copy the content in (h5repack, or h5copy -f ext)"
            )
        found = h5py.h5o.open(group.id, key)
        if isinstance(found, h5py.h5d.DatasetID):
            _check_properties(found.get_create_plist(), name, where)
            dataset = h5py.Dataset(found, readonly=True)
            _ = dataset.shape, dataset.dtype  # parsed, and found to be damaged, at the first look
            return dataset
        return h5py.Group(found) if isinstance(found, h5py.h5g.GroupID) else found


def _check_properties(properties: h5py.h5p.PropDCID, name: str, where: str) -> None:
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise UnsafeFile(f"{where}: the numbers of {name!r} lie in another file; copy them in, with h5repack")
    codes = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if len(set(codes)) < len(codes) or (h5py.h5z.FILTER_DEFLATE in codes and not _gzip_is_last(codes)):
        raise BadFeatures(f"{where}: {name!r} is packed several times over; write it again, plain or with gzip")
    for number in range(len(codes)):
        code, _, parameters, kind = properties.get_filter(number)
        if len(parameters) < PARAMETERS.get(code, 0) or code == h5py.h5z.FILTER_NBIT:
            raise BadFeatures(
                f"{where}: {name!r} is stored through filter {code} {kind!r} with {len(parameters)} parameters, which "
                "cannot be read safely; is the file damaged? write it again, plain or with gzip"
            )


def _gzip_is_last(codes: list[int]) -> bool:
    return [code for code in codes if code != h5py.h5z.FILTER_FLETCHER32][-1] == h5py.h5z.FILTER_DEFLATE


def offset_of(dataset: h5py.Dataset) -> int | None:
    """Return where in its file the numbers of a dataset lie as they are, one after another; None: they do not."""
    found = dataset.id
    if dataset.dtype.kind != "f" or found.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        return None
    if found.get_type() != h5py.h5t.py_create(dataset.dtype) or found.get_storage_size() != dataset.nbytes:
        return None
    return found.get_offset()


def names(group: h5py.Group, where: str) -> list[str]:
    """Return the names of a group's members.

    Raises:
        BadFeatures: a name is not UTF-8, or the file is damaged.
    """
    with damage(where):
        found = list(group)
    if not all(isinstance(name, str) for name in found):
        raise BadFeatures(f"{where} has a name that is not UTF-8; is the file damaged? make it again")
    return found


def read(dataset: h5py.Dataset, selection: Any, where: str, limit: int = MAX_BYTES) -> np.ndarray:
    """Read numbers.

    Args:
        dataset: from `member`.
        selection: rows as a slice, or ().
        where: file and item, for messages.
        limit: bytes in memory, of what is read and of each chunk that holds some of it.

    Raises:
        BadFeatures: the file is damaged, the dataset does not hold numbers, or it takes more bytes than allowed.
    """
    with damage(where):
        if dataset.dtype.kind not in "fiub":
            raise BadFeatures(f"{where} holds {dataset.dtype}, expected numbers; make the file again")
        shape = dataset.shape or (0,)
        rows = range(*selection.indices(shape[0])) if isinstance(selection, slice) else range(shape[0])
        for size in (
            len(rows) * int(np.prod(shape[1:], dtype=object)),
            int(np.prod(dataset.chunks or 0, dtype=object)),
        ):
            if size * dataset.dtype.itemsize > limit:
                raise BadFeatures(
                    f"{where} claims shape {shape}, in chunks of {dataset.chunks}: too large for one item; is the file "
                    "damaged? relgrounding prepare features --max-bytes raises the limit"
                )
        _check_file_holds(dataset, where)
        _check_chunks(dataset, rows, where, limit)
        return np.asarray(dataset[selection])


def is_plain(dtype: np.dtype) -> bool:
    """Return whether values are numbers or texts; of other kinds the library reads invalid ones from any address."""
    return dtype.kind in "fiubSU" or h5py.check_string_dtype(dtype) is not None


def attribute(holder: h5py.Group | h5py.Dataset, name: str, where: str) -> Any:
    """Return an attribute, or None where there is none, or one that is neither numbers nor some texts.

    Raises:
        BadFeatures: the file is damaged.
    """
    with damage(where):
        if name not in holder.attrs:
            return None
        found = holder.attrs.get_id(name)
        if not is_plain(found.dtype) or (found.dtype.kind == "O" and np.prod(found.shape, dtype=object) > TEXTS):
            return None
        return holder.attrs[name]


def check_texts(dataset: h5py.Dataset, where: str, limit: int = MAX_BYTES) -> None:
    """Raise BadFeatures where a dataset cannot hold ids, one per row."""
    with damage(where):
        if (
            dataset.ndim != 1
            or dataset.nbytes > limit
            or dataset.dtype.kind not in "SOU"
            or not is_plain(dataset.dtype)
        ):
            raise BadFeatures(f"{where} must hold one text per image; make the file again")
        _check_file_holds(dataset, where)


def read_text_of(dataset: h5py.Dataset, row: int, where: str) -> str:
    """Read one id of a dataset that `check_texts` has passed.

    Raises:
        BadFeatures: it is not UTF-8, or the file is damaged.
    """
    with damage(where):
        value = dataset[row]
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def read_texts(dataset: h5py.Dataset, where: str, limit: int = MAX_BYTES) -> list[str]:
    """Read ids.

    Raises:
        BadFeatures: they are no UTF-8 texts in one row, take more bytes than allowed, or the file is damaged.
    """
    check_texts(dataset, where, limit)
    with damage(where):
        texts: list[Any] = []
        length = 0
        for begin in range(0, len(dataset), TEXTS):  # many texts may be one and the same in the file
            values = dataset[begin : begin + TEXTS]
            texts.extend(value.decode("utf-8") if isinstance(value, bytes) else value for value in values)
            length += sum(map(len, texts[begin:]))
            if length > limit:
                raise BadFeatures(f"{where} hold more than {limit} characters; is the file damaged?")
    if not all(isinstance(text, str) and text for text in texts):
        raise BadFeatures(f"{where} must hold one text per image; make the file again")
    return texts


def _check_chunk(size: int, where: str) -> None:
    if size < CHECKSUM:
        raise BadFeatures(f"{where} has a chunk of {size} bytes with a checksum of {CHECKSUM}; copy or make it again")


def _check_file_holds(dataset: h5py.Dataset, where: str) -> None:
    """Refuse a shape that is damaged: what was never written reads as zeros, enough of them to fill the memory."""
    if dataset.fletcher32:
        # The library takes a checksum's four bytes off the size of a chunk, and reads on from a chunk of fewer.
        dataset.id.chunk_iter(lambda chunk: _check_chunk(chunk.size, where))
    size = dataset.file.id.get_filesize()
    if dataset.nbytes > size * (1 if dataset.chunks is None else MOST_SQUEEZED):
        raise BadFeatures(
            f"{where} claims shape {dataset.shape}, more than its file can hold; is the file damaged or cut off?"
        )


def _check_chunks(dataset: h5py.Dataset, rows: range, where: str, limit: int) -> None:
    """Refuse packed chunks that are larger than they are declared: the library unpacks to the end, whatever it takes.

    Only chunks that could go beyond the limit are unpacked for that, a piece at a time.
    """
    if dataset.compression is None or dataset.file.id.get_filesize() * GZIP <= limit:
        return
    sides = dataset.chunks
    width = int(np.prod(sides, dtype=object)) * dataset.dtype.itemsize
    steps = [range(rows.start // sides[0] * sides[0] if rows else 0, rows.stop, sides[0])]
    steps += [range(0, length, side) for length, side in zip(dataset.shape[1:], sides[1:], strict=True)]
    for corner in itertools.product(*steps):
        chunk = dataset.id.get_chunk_info_by_coord(corner)
        if chunk.byte_offset is None or chunk.size * GZIP <= limit:
            continue
        if chunk.size > width + 2**16 or (dataset.compression == "gzip" and _unpacks_beyond(dataset, corner, width)):
            raise BadFeatures(f"{where} has a chunk that unpacks to more than it is declared; copy or make it again")


def _unpacks_beyond(dataset: h5py.Dataset, corner: tuple[int, ...], width: int) -> bool:
    content, unpacker = dataset.id.read_direct_chunk(corner)[1], zlib.decompressobj()
    try:
        while not unpacker.eof and content and width >= 0:
            width -= len(unpacker.decompress(content, 2**20))
            content = unpacker.unconsumed_tail
    except zlib.error:
        return False  # damaged, or not packed: the library says so
    return width < 0


def read_plain(file: IO[bytes], at: int, shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    """Read numbers from where they lie, see `offset_of`.

    Raises:
        BadFeatures: the file ends before.
    """
    array = np.empty(shape, dtype)
    if read_into(file.fileno(), array, at) < array.nbytes:
        raise BadFeatures(f"{where} is cut off; copy it again")
    return array
