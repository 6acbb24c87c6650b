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

SIZES = ("nodes", "edges", "rows", "blocks", "planes")
"""Arguments that differ between batches: a variant for 1 or for multiples of 16 would be compiled in mid-training."""
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def operand(dtype: torch.dtype) -> tl.dtype:
    """The type of the factors of matrix products; the interpreter has none of bfloat16."""
    return tl.float32 if dtype == torch.bfloat16 and interpreting() else TYPES[dtype]


def precision() -> str:
    """How products of float32 matrices are made: as PyTorch's own, see `torch.set_float32_matmul_precision`."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


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

    def __call__(self, *arguments, **options):
        """What a kernel that the interpreter runs calls as a part of it; the compiler calls nothing."""
        return self._interpreted.rewrite()(*arguments, **options)


@Kernel
def sigmoid(logit):
    """1 / (1 + exp(-logit)), 0 for minus infinity."""
    small = tl.exp(-tl.abs(logit))
    return tl.where(logit >= 0, 1.0, small) / (1.0 + small)


@Kernel
def sigmoid_slope(logit):
    """The derivative of `sigmoid`."""
    small = tl.exp(-tl.abs(logit))
    return small / ((1.0 + small) * (1.0 + small))
