"""The C++ kernels of the CPU: compiled once for this machine, where there is a compiler, and called through ctypes.

Plain functions of pointers: nothing of PyTorch is compiled against, so the result is not tied to one release of it.
The library lies in `cache_folder()` under a hash of all that it depends on. Environment variables:

- `RELGROUNDING_CPP=0`: do without;
- `CXX`: the compiler, where it is not the `c++`, `g++` or `clang++` of the PATH;
- `RELGROUNDING_CACHE`: the folder, where it is not ``relgrounding`` in the user's cache.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
_SOURCES = Path(__file__).parent
_FLOATS = (torch.float32, torch.float64)
_logger = logging.getLogger("relgrounding")


class NoKernelsError(Exception):
    """Why there is no library."""


@torch.compiler.assume_constant_result
def cpp_reason(device: str, dtype: torch.dtype = torch.float32) -> str | None:
    """Why the C++ kernels cannot run on a device with numbers of a type; None where they can. Compiles them."""
    if device != "cpu":
        return f"it runs on the CPU, not on {device}"
    if dtype not in (*_FLOATS, torch.float16, torch.bfloat16):
        return f"its kernels take float32 and float64, not {str(dtype).removeprefix('torch.')}"
    return _library()[1]


def call(function: str, *arguments: Tensor | int | float | None) -> None:
    """Run a function of the library on contiguous tensors, for the type of the first one that holds floats."""
    dtype = next(x.dtype for x in arguments if isinstance(x, Tensor) and x.is_floating_point())
    name = f"{function}_{str(dtype).removeprefix('torch.')}"
    values = [x.data_ptr() if isinstance(x, Tensor) else 0 if x is None else x for x in arguments]
    _function(name, tuple(map(type, values)))(*values, torch.get_num_threads())


@functools.cache
def _function(name: str, types: tuple[type, ...]) -> Callable[..., None]:
    """A function of the library, of so many whole numbers, pointers among them, and floats, and of the threads."""
    library = _library()[0]
    if library is None:
        raise NoKernelsError(_library()[1])
    function = library[name]  # unlike an attribute, an object of its own
    function.argtypes = [ctypes.c_double if kind is float else ctypes.c_int64 for kind in (*types, int)]
    function.restype = None
    return function


@functools.cache
def _library() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or why there is none."""
    if os.environ.get("RELGROUNDING_CPP", "1").lower() in ("0", "false", "no", "off"):
        return None, "the environment variable RELGROUNDING_CPP switches it off"
    try:
        library = load(compiler(), cache_folder())
    except (NoKernelsError, OSError) as error:
        return None, str(error)
    library.set_pool(*_threads())
    return library, None


def compiler() -> list[str]:
    """The command of the C++ compiler.

    Raises:
        NoKernelsError: there is none.
    """
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    missing = f"the compiler '{wanted}' that CXX names" if wanted else "a C++ compiler: c++, g++ or clang++"
    raise NoKernelsError(f"the PATH does not have {missing}; install one, for example with 'apt install g++'")


def cache_folder() -> Path:
    """Where libraries are kept; one that lasts as long as the process where that cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~").expanduser() / ".cache"
    folder = Path(os.environ.get("RELGROUNDING_CACHE") or Path(base) / "relgrounding")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return Path(_temporary_folder().name)


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="relgrounding-")


def load(command: list[str], folder: Path) -> ctypes.CDLL:
    """The library from the folder; compiled first where it is missing there or broken.

    Raises:
        NoKernelsError: the compiler fails.
        OSError: it, or what it made, cannot be run.
    """
    path = folder / f"kernels-{_key(command)}.so"
    # A library that is cut short can load and end the process later.
    seal = path.with_suffix(".sha256")
    if not (path.is_file() and seal.is_file() and seal.read_text() == _digest(path.read_bytes())):
        _compile(command, path, seal)
    return ctypes.CDLL(str(path))


def _compile(command: list[str], path: Path, seal: Path) -> None:
    _logger.warning("compiling the C++ kernels of relgrounding for this machine, once, into %s", path)
    sources = [str(source) for source in sorted(_SOURCES.glob("*.cpp"))]
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        made = Path(work) / path.name
        done = subprocess.run([*command, *FLAGS, *sources, "-o", str(made)], capture_output=True, text=True)
        if done.returncode or not made.is_file():
            lines = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
            said = next((line for line in lines if "error" in line), lines[0])
            raise NoKernelsError(f"'{shlex.join(command)}' cannot compile its kernels: {said}")
        digest = Path(work) / seal.name
        digest.write_text(_digest(made.read_bytes()))
        # Other processes see a whole file or none, and what they have loaded stays as it is.
        made.replace(path)
        digest.replace(seal)


def _key(command: list[str]) -> str:
    """Hash of the sources, the flags, the compiler and the processor."""
    version = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
    parts = [shlex.join(command), version, *FLAGS, platform.platform(), _processor()]
    parts += [source.read_text() for source in sorted(_SOURCES.glob("*.[ch]*"))]
    return _digest("\0".join(parts).encode())[:20]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _processor() -> str:
    """What instructions the processor has, as far as the system says: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _threads() -> list[ctypes.c_void_p]:
    """`GOMP_parallel` and `omp_get_thread_num` of the OpenMP library that PyTorch itself is linked with.

    Null, one thread, where it has none.
    """
    torch_cpu = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        library = ctypes.CDLL(str(torch_cpu))
        return [ctypes.cast(f, ctypes.c_void_p) for f in (library.GOMP_parallel, library.omp_get_thread_num)]
    except (OSError, AttributeError):
        return [ctypes.c_void_p(None)] * 2
