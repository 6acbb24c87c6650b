"""Systems under `torch.compile`: each of their pieces is one graph."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from relgrounding._settings import ConfigError
from relgrounding.models._system import System

VARIANTS = 64
"""Graphs of one piece at most: training passes messages in some layers or in none, on graphs with and without edges."""


def compile_pieces(system: System, backend: str = "inductor") -> None:
    """Compile the `pieces` of a system for training; in evaluation it computes as before.

    Sizes are left open: batches of other sizes run the same code.

    Args:
        system: the trained one.
        backend: of `torch.compile`.

    Raises:
        ConfigError: later, in the call of a piece that cannot be compiled whole.
    """
    # For the whole process: a piece has several graphs; gradients are also taken before the backward pass of a step;
    # of GRU modules only the weights are read.
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    torch._functorch.config.donated_buffer = False
    torch._dynamo.config.allow_rnn = True
    for name in system.pieces:
        eager = getattr(type(system), name).__get__(system)  # not what an earlier stage has compiled
        setattr(system, name, _compiled(system, name, eager, backend))


def _compiled(system: System, name: str, eager: Callable[..., Any], backend: str) -> Callable[..., Any]:
    compiled = torch.compile(eager, fullgraph=True, dynamic=True, backend=backend)

    @functools.wraps(eager)
    def run(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or not system.training:
            return eager(*arguments)
        try:
            return compiled(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ConfigError(
                f"train.compile: {type(system).__name__}.{name} cannot be compiled whole: {_reason(error)}; use "
                "train.compile=false"
            ) from error

    return run


def _reason(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)  # of a failure of the compiler's backend
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
