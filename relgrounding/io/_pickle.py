"""Pickles without their danger: annotation files are unpickled with everything but plain data refused."""

import pickle
import pickletools
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float32

from relgrounding.io._errors import BadAnnotation, UnsafeFile
from relgrounding.io._regular import check_regular, existing

__all__ = ["CharadesGlove", "load_charades_glove", "load_plain_pickle"]


class _Call:
    """What a pickle may call, and cannot change: a class itself would take attributes from a pickle (opcode BUILD)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a class or function")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for `_codecs.encode`, by which old pickle protocols write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes written with the encoding {encoding!r}; expected latin1")
    return text.encode("latin1")


_PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "frozenset"): frozenset,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    admitted: ClassVar[Mapping[tuple[str, str], Callable[..., Any]]] = _PLAIN

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file, encoding=encoding, errors="replace")
        self._name = getattr(file, "name", "pickle")

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class or function that the pickle names, or refuse it."""
        if (module, name) not in self.admitted:
            raise UnsafeFile(
                f"{self._name} asks for {module}.{name}, which is not plain data; a pickle can run any code: "
                "download the file from its official source, or convert it to JSON where you trust it"
            )
        return _Call(self.admitted[module, name])

    def read(self) -> Any:
        """Return what the pickle holds."""
        try:
            return self.load()
        except UnsafeFile:
            raise
        except Exception as error:  # a damaged pickle can end in an exception of any kind
            raise UnsafeFile(
                f"{self._name} is not a pickle of plain data, or damaged: {error}; download it again from its official "
                "source"
            ) from error


def _check_places(path: str | Path) -> None:
    """Refuse a pickle whose memo, a table that grows to the largest index in it, would fill the memory."""
    path = Path(path)
    check_regular(existing(path, "download it from its official source"))
    stat = path.stat()
    _check_memo(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _check_memo(path: Path, size: int, time: int) -> None:
    try:
        for code, argument, _ in pickletools.genops(path.read_bytes()):
            if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= size:
                raise UnsafeFile(
                    f"{path} wants a table of {argument} places; download it again from its official source"
                )
    except UnsafeFile:
        raise
    except Exception:  # damage of any kind: the unpickler ends at the same byte, and says so
        return


def load_plain_pickle(path: str | Path) -> Any:
    """Load a pickle of plain data: dict, list, tuple, str, int, float, bool, None, bytes, set.

    Args:
        path: pickle file; strings of Python 2 are read as UTF-8.

    Raises:
        UnsafeFile: the pickle names any other class or function (the message says which), or is damaged. It is a
            `pickle.UnpicklingError` too.
    """
    _check_places(path)
    with Path(path).open("rb") as file:
        return _Unpickler(file, encoding="utf-8").read()


class CharadesGlove(NamedTuple):
    """Word vectors of Charades-STA as they circulate.

    Args:
        words: number of each word, from 0 ("<PAD>").
        vectors: (words, 300) GloVe vectors.
        counts: how often each word occurs.
    """

    words: dict[str, int]
    vectors: Float32[np.ndarray, "words dim"]
    counts: Counter[str]


class _DType:
    """A number format; NumPy's own class would take whatever state a pickle hands it."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in ("f4", "f8"):
            raise pickle.UnpicklingError(f"an array of {code!r}; expected numbers, f4 or f8")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">"):
            raise pickle.UnpicklingError(f"numbers in byte order {state[1]!r}; expected '<' or '>'")
        self.code = state[1] + self.code


class _Array:
    """An array of numbers, built from its bytes by a call that checks them."""

    def __init__(self, *_: Any) -> None:
        self.value = np.zeros(0, dtype=np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _DType) or fortran:
            raise pickle.UnpicklingError("an array that is not in C order or not of numbers")
        content = content.encode("latin1") if isinstance(content, str) else content
        self.value = np.frombuffer(content, dtype=dtype.code).reshape(shape).astype(np.float32)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: str, *_: Any) -> _Array:
    """Stand in for the call by which protocol 5 writes an array."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order != "C", content))
    return array


class _GloveUnpickler(_Unpickler):
    admitted: ClassVar[Mapping[tuple[str, str], Callable[..., Any]]] = {
        **_PLAIN,
        ("collections", "Counter"): Counter,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    }


def load_charades_glove(path: str | Path) -> CharadesGlove:
    """Load the pickle of GloVe vectors that circulates for Charades-STA (`w2id`, `id2vec`, `counter`).

    Beside plain data it may hold arrays of float32 or float64 and a `Counter`, and nothing else.

    Args:
        path: `charades_glove.pkl`.

    Raises:
        UnsafeFile: the pickle names any other class or function, or is damaged.
        BadAnnotation: it holds something else than those three tables.
    """
    _check_places(path)
    with Path(path).open("rb") as file:
        data = _GloveUnpickler(file, encoding="latin1").read()
    if not isinstance(data, dict) or not {"w2id", "id2vec", "counter"} <= data.keys():
        raise BadAnnotation(f"{path} is not a dict of w2id, id2vec, counter; is it another file?")
    words, arrays, counts = data["w2id"], data["id2vec"], data["counter"]
    if not isinstance(words, dict) or not isinstance(arrays, list) or not isinstance(counts, dict):
        raise BadAnnotation(f"{path}: expected a dict w2id, a list id2vec and a Counter counter; is it another file?")
    if len(words) != len(arrays) or not all(isinstance(array, _Array) for array in arrays):
        raise BadAnnotation(
            f"{path}: w2id has {len(words)} words and id2vec {len(arrays)} entries; expected one array each"
        )
    if not arrays or len({array.value.shape for array in arrays}) != 1 or arrays[0].value.ndim != 1:
        raise BadAnnotation(f"{path}: the entries of id2vec are not vectors of one width; is it another file?")
    return CharadesGlove(words, np.stack([array.value for array in arrays]), Counter(counts))
