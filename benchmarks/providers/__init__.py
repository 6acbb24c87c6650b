"""The registry of providers: ours, the peers', plain PyTorch, and what no layer can beat."""

from collections.abc import Sequence

from benchmarks.cases import matching
from benchmarks.providers import _dgl, _limits, _ours, _pyg, _torch
from benchmarks.providers._provider import Provider


def registry() -> dict[tuple[str, str], Provider]:
    """All providers by layer and name."""
    everything = [p for source in (_ours, _dgl, _pyg, _torch, _limits) for p in source.providers()]
    return {(provider.layer, provider.name): provider for provider in everything}


def select(layer: str, patterns: Sequence[str] = ()) -> list[Provider]:
    """The providers of a layer that match a pattern, see `cases.matching`; all of them without one.

    Raises:
        ValueError: a pattern that matches no provider of any layer.
    """
    every = registry()
    chosen = matching(dict.fromkeys(name for _, name in every), patterns, "provider")
    return [provider for (of, name), provider in every.items() if of == layer and name in chosen]


__all__ = ["Provider", "registry", "select"]
