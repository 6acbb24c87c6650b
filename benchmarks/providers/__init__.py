"""The registry of providers: ours, the peers', plain PyTorch, and what no layer can beat."""

import fnmatch
from collections.abc import Sequence

from benchmarks.providers import _dgl, _limits, _ours, _pyg, _torch
from benchmarks.providers._provider import Provider


def registry() -> dict[tuple[str, str], Provider]:
    """All providers by layer and name."""
    everything = [p for source in (_ours, _dgl, _pyg, _torch, _limits) for p in source.providers()]
    return {(provider.layer, provider.name): provider for provider in everything}


def select(layer: str, patterns: Sequence[str] = ()) -> list[Provider]:
    """The providers of a layer whose name matches a pattern, ``*`` and parts of a name included; all without one.

    Raises:
        ValueError: a pattern that matches no provider of any layer.
    """
    every = registry()
    for pattern in patterns:
        if not any(_matches(name, pattern) for _, name in every):
            raise ValueError(f"no provider matches '{pattern}'; they are {', '.join(sorted({n for _, n in every}))}")
    return [
        provider
        for (of, name), provider in every.items()
        if of == layer and (not patterns or any(_matches(name, pattern) for pattern in patterns))
    ]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or pattern in name


__all__ = ["Provider", "registry", "select"]
