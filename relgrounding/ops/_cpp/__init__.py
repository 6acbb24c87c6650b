"""The C++ kernels of the CPU: compiled once for this machine, where there is a compiler, and called through ctypes.

Plain functions of pointers: nothing of PyTorch is compiled against, so the result is not tied to one release of it.
The library lies in one of `relgrounding._cache.cache_folders` under a hash of all that it depends on, and is used only
while nobody but this user, or root, can have written it. Environment variables:

- `RELGROUNDING_CPP=0`: do without;
- `CXX`: the compiler, where it is not the `c++`, `g++` or `clang++` of the PATH;
- `RELGROUNDING_CACHE`: the folder, where it is not ``relgrounding`` in the user's cache. A folder that others can
  write, that cannot be written or that is mounted `noexec` is passed over for one among the temporary files.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import select
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from relgrounding._cache import cache_folders, why_unsafe
from relgrounding._printing import get_logger
from relgrounding.ops._registry import constant

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
# Seconds; a compiler that hangs has to end some time, and one of many busy processes needs minutes.
LIMIT, VERSION_LIMIT = 900.0, 20.0
_SOURCES = Path(__file__).parent
_logger = get_logger("relgrounding")


class NoKernelsError(Exception):
    """Why there is no library."""


@constant
def cpp_reason(*_: object) -> str | None:
    """Why there are no C++ kernels on this machine; None where there are. Compiles them."""
    return _library()[1]


def call(function: str, *arguments: Tensor | int | float | None) -> None:
    """Run a function of the library on contiguous tensors, for the type of the first one that holds floats.

    Raises:
        RuntimeError: while `torch.jit.trace` records: sizes are tensors there, and what it records would not be this.
    """
    if torch.jit.is_tracing():
        raise RuntimeError("torch.jit.trace cannot record C++ kernels; use torch.compile, or set RELGROUNDING_CPP=0")
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
        library = load(compiler(), cache_folders())
        library.set_pool(*_threads())
    except (NoKernelsError, OSError, AttributeError) as error:  # AttributeError: a library of something else
        return None, _printable(str(error), 2000)
    return library, None


def compiler() -> list[str]:
    """The command of the C++ compiler.

    Raises:
        NoKernelsError: there is none.
    """
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        try:
            command = shlex.split(name)
        except ValueError as error:
            raise NoKernelsError(
                f"CXX is {wanted!r}, which is not a command ({error}); correct it, or unset it"
            ) from None
        if command and shutil.which(command[0]):
            return command
    missing = f"the compiler {wanted!r} that CXX names" if wanted else "a C++ compiler: c++, g++ or clang++"
    raise NoKernelsError(f"the PATH does not have {missing}; install one, for example with 'apt install g++'")


def load(command: list[str], folders: Iterable[Path]) -> ctypes.CDLL:
    """The library from the first folder that can keep one; compiled there where it is missing, broken or not safe.

    Raises:
        NoKernelsError: the compiler fails, or no folder can keep what it makes.
        OSError: the compiler cannot be run.
    """
    name, reasons = f"kernels-{_key(command)}.so", []
    for folder in folders:
        path = folder / name
        try:
            if os.statvfs(folder).f_flag & os.ST_NOEXEC:
                raise OSError("it is mounted without the right to run programs")
            if _is_sealed(path):
                with contextlib.suppress(OSError):
                    return ctypes.CDLL(str(path))
            return _compile(command, path)
        except NoKernelsError as error:
            _logger.warning("%s; going on with slower kernels of PyTorch", _printable(str(error), 2000))
            raise
        except OSError as error:
            reasons.append(f"{folder} ({error})")
    tried = "; ".join(reasons) or "there is none that only this user can write"
    raise NoKernelsError(f"no folder can keep its library: {tried}; name one in RELGROUNDING_CACHE")


def _is_sealed(path: Path) -> bool:
    """Whether a library is as whole as it was made, and nobody else can have changed it."""
    # A library that is cut short can load and end the process later.
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            safe = stat.S_ISREG(status.st_mode) and why_unsafe(path, status) is None
            return safe and _seal(path).read_bytes() == _digest(file.read()).encode()
    except OSError:
        return False


def _seal(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _compile(command: list[str], path: Path) -> ctypes.CDLL:
    _logger.warning("compiling the C++ kernels of relgrounding for this machine, once, into %s", path)
    sources = [str(source) for source in sorted(_SOURCES.glob("*.cpp"))]
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        made, digest = Path(work) / path.name, Path(work) / _seal(path).name
        status, said = run_bounded([*command, *FLAGS, *sources, "-o", str(made)], LIMIT, TMPDIR=work, LC_ALL="C")
        if status or not made.is_file():
            lines = said.strip().splitlines() or ["it says nothing"]
            problem = next((line for line in lines if "error" in line), lines[0])
            raise NoKernelsError(f"'{shlex.join(command)}' cannot compile its kernels: {_printable(problem, 300)}")
        made.chmod(0o755)  # whatever the mask says: others must not write it
        digest.write_text(_digest(made.read_bytes()))
        library = ctypes.CDLL(str(made))
        # Other processes see a whole file or none, and what they have loaded stays as it is.
        made.replace(path)
        digest.replace(_seal(path))
        return library


def run_bounded(command: list[str], seconds: float, **variables: str) -> tuple[int, str]:
    """Exit status and output, at most 64 KiB of it, of a command that ends in time with all that it started.

    Raises:
        NoKernelsError: it does not end in time.
        OSError: it cannot be run.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | variables,
        start_new_session=True,
    )
    said, until = b"", time.monotonic() + seconds
    assert process.stdout is not None
    try:
        with process.stdout as pipe:
            while process.poll() is None and (left := until - time.monotonic()) > 0:
                # What it started may hold the pipe when it has ended itself: look again now and then.
                if select.select([pipe], [], [], min(left, 0.2))[0]:
                    chunk = os.read(pipe.fileno(), 1 << 16)
                    said = (said + chunk)[: 1 << 16]
                    if not chunk:
                        process.wait(left)
            status = process.wait(0)  # before the pipe is closed, which would end what still writes into it
            os.set_blocking(pipe.fileno(), False)
            said += pipe.read(1 << 16) or b""
    except subprocess.TimeoutExpired:
        reason = (
            f"'{shlex.join(command[:1])}' did not end within {seconds:g} s; set CXX to another, or RELGROUNDING_CPP=0"
        )
        raise NoKernelsError(reason) from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return status, said.decode(errors="replace")


def _printable(text: str, most: int) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:most])


def _key(command: list[str]) -> str:
    """Hash of the sources, the flags, the compiler and the processor."""
    version = run_bounded([*command, "--version"], VERSION_LIMIT)[1]
    parts = [shlex.join(command), version, *FLAGS, platform.platform(), _processor()]
    parts += [source.read_text(encoding="utf-8") for source in sorted(_SOURCES.glob("*.[ch]*"))]
    return _digest("\0".join(parts).encode(errors="surrogateescape"))[:20]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _processor() -> str:
    """What instructions the processor has, as far as the system says: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
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
