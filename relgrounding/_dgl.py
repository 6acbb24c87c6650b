"""The only import of DGL: makes it work with a current PyTorch, or says in one sentence what to install.

Other modules use ``from relgrounding._dgl import dgl``.
"""

import functools
import importlib
import importlib.util
import os
import sys
import types
import warnings
from pathlib import Path

import torch

INSTALL = 'python -m pip install packaging "dgl==1.1.3" (Python 3.10, 3.11) or "dgl==2.1.0" (Python 3.12)'


def _graphbolt_works(package: Path) -> bool:
    """Whether ``dgl.graphbolt`` can be imported: it loads a library built for one exact PyTorch version."""
    release = torch.__version__.split("+")[0]
    names = (
        f"libgraphbolt_pytorch_{release}.so",
        f"libgraphbolt_pytorch_{release}.dylib",
        f"graphbolt_pytorch_{release}.dll",
    )
    if not any((package / "graphbolt" / name).exists() for name in names):
        return False
    try:
        return all(importlib.util.find_spec(name) is not None for name in ("torchdata.datapipes", "pandas"))
    except ImportError:
        return False


def _stand_in(name: str) -> types.ModuleType:
    """Return an empty module that DGL imports instead of its own."""
    return sys.modules.setdefault(name, types.ModuleType(name, "Stand-in of relgrounding: not usable here."))


def _import_dgl() -> types.ModuleType:
    # Without this DGL prints a notice and writes a configuration file into the home directory.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    if "dgl" not in sys.modules:
        spec = importlib.util.find_spec("dgl")
        if spec is None:
            raise ImportError(f"relgrounding needs DGL, which is not installed: run {INSTALL}.")
        package = Path(spec.origin).parent if spec.origin else Path()
        if (package / "graphbolt").is_dir() and not _graphbolt_works(package):
            _stand_in("dgl.graphbolt")
        if importlib.util.find_spec("pandas") is None:
            # A data set of DGL 2 imports pandas, which is not one of its requirements.
            vars(_stand_in("dgl.data.movielens"))["MovieLensDataset"] = None
    try:
        with warnings.catch_warnings():
            # Importing DGL warns about dependencies that are newer than itself.
            warnings.simplefilter("ignore")
            module = importlib.import_module("dgl")
            module.DGLGraph  # noqa: B018 - an empty folder called dgl imports as a namespace package
    except Exception as error:  # a wheel for another system raises OSError, FileNotFoundError, AttributeError, ...
        first_line = (str(error).strip() or "no message").splitlines()[0]
        raise ImportError(
            f"relgrounding cannot use the installed DGL ({type(error).__name__}: {first_line}): run {INSTALL}."
        ) from error
    return module


dgl = _import_dgl()


@functools.cache
def dgl_cuda_reason() -> str | None:
    """Return why DGL cannot store graphs on the GPU; None if it can."""
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    try:
        dgl.graph(([0], [0])).to("cuda")
    except Exception as error:  # the type differs from release to release
        return f"the installed DGL {dgl.__version__} has no CUDA ({str(error).strip().splitlines()[-1]})"
    return None
