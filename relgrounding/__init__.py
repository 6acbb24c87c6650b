"""Graph learning for the relation modules of vision-language grounding.

Subpackages are imported on first use: ``relgrounding.graphs``, ``relgrounding.ops``, ``relgrounding.nn``, ...

>>> import relgrounding
>>> config = relgrounding.load_config("charades_vgn", {"train.epochs": 1})
>>> run = relgrounding.train("demo", **{"train.epochs": 1, "name": "short"})  # doctest: +SKIP
>>> print(run.table)  # doctest: +SKIP
>>> relgrounding.evaluate(run, splits=["test"]).results[0]["metrics"]  # doctest: +SKIP
"""

import importlib
import sys

if not (3, 10) <= sys.version_info[:2] < (3, 13):
    raise ImportError(
        f"relgrounding needs Python 3.10, 3.11 or 3.12, but this is {sys.version_info[0]}.{sys.version_info[1]}, "
        "for which DGL has no wheel: make an environment with one of the three and install relgrounding there."
    )

from relgrounding import _moved

_moved.install()

__version__ = "0.1.0"

_SUBPACKAGES = (
    "config",
    "datasets",
    "evaluation",
    "features",
    "graphs",
    "io",
    "modalities",
    "models",
    "nn",
    "objectives",
    "ops",
    "predictor",
    "runs",
    "training",
    "viz",
)

_NAMES = {"Grounder": "predictor", "evaluate": "training", "load_config": "config", "train": "training"}

__all__ = [*_NAMES, "__version__", *_SUBPACKAGES]


def __getattr__(name: str):
    if name in _SUBPACKAGES or name in _moved.PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    if f"{__name__}.{name}" in _moved.NAMES:
        return sys.modules[f"{__name__}.{name}"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_moved.PACKAGES})
