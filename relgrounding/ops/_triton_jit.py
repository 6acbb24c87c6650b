"""Triton kernels that are compiled, or interpreted where `TRITON_INTERPRET=1` is set at the time of the launch."""

import inspect
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from relgrounding.ops._triton import interpreting

# The interpreter knows these two by identity and is slow with any other. `tl.sum` and `tl.max` call the same, but
# cannot be interpreted when Triton was imported before TRITON_INTERPRET was set; these can.
add = tl.standard._sum_combine
larger = tl.standard._elementwise_max

SIZES = ("nodes", "edges", "rows")
"""Arguments that differ between batches: a variant for 1 or for multiples of 16 would be compiled in mid-training."""
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


class Kernel(triton.JITFunction):
    """A kernel, launched as ``kernel[grid](...)``; use as a decorator."""

    def __init__(self, function: Callable):
        function = inspect.unwrap(function)  # the tests' type checker wraps every function; Triton needs the source
        sizes = [name for name in inspect.signature(function).parameters if name in SIZES]
        super().__init__(function, do_not_specialize=sizes)
        self._interpreted = InterpretedFunction(function)

    def run(self, *arguments, **options):
        """Launch; `kernel[grid]` calls this."""
        run = self._interpreted.run if interpreting() else super().run
        return run(*arguments, **options)
