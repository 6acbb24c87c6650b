"""What can go wrong, and packages that may be missing."""

import importlib
from types import ModuleType

import torch

from relgrounding._urls import Masked


class ExtractionError(Masked, ValueError):
    """A file or an option of no use; the message names it and says what to do."""


class MissingPackageError(ImportError):
    """torchvision or PyAV is missing or does not fit; the message says what to install."""


def require(module: str) -> ModuleType:
    """Import a module of torchvision, PyAV or Pillow, or say what to install.

    Args:
        module: such as "av" or "torchvision.models.video".

    Raises:
        MissingPackageError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        pass
    except RuntimeError as error:  # torchvision's operators, built for another torch
        raise MissingPackageError(
            f"torchvision does not fit torch {torch.__version__} ({_first_line(error)}): install {_torchvision()}"
        ) from None
    raise MissingPackageError(
        f"{module.partition('.')[0]} is not installed, which features of videos and images need: "
        f"pip install av {_torchvision()}"
    )


def _torchvision() -> str:
    """Name the torchvision that was released with this torch: torch 2.N goes with torchvision 0.(N + 15)."""
    major, minor = (int(number) for number in torch.__version__.split(".")[:2])
    fitting = f"'torchvision==0.{minor + 15}.*'" if major == 2 else "torchvision"
    return f"{fitting}, of the index that torch {torch.__version__} came from"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
