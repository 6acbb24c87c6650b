"""Under autocast: float32 where bfloat16 has too few significant bits, and linear maps of few shapes on the CPU."""

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding.ops._backward import backward_pass, keep, kept


def under_autocast(x: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    kind = x.device.type
    return kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context in which operations on the device of a tensor keep the types of their inputs."""
    return torch.autocast(x.device.type, enabled=False) if under_autocast(x) else nullcontext()


def widened(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x, under autocast in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if under_autocast(x) else x


def precise_linear(linear: nn.Linear, x: Float[Tensor, "... in_dim"]) -> Float[Tensor, "... out_dim"]:
    """Return W x + b, under autocast in the type of W: a map to few numbers that decide between proposals."""
    if not under_autocast(x):
        return linear(x)
    with without_autocast(x):
        return linear(x.to(linear.weight.dtype))


class Linear(nn.Linear):
    """`torch.nn.Linear`; see `linear`."""

    def forward(self, x: Float[Tensor, "*rows in_dim"]) -> Float[Tensor, "*rows out_dim"]:
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*rows in_dim"], weight: Float[Tensor, "out_dim in_dim"], bias: Float[Tensor, " out_dim"] | None
) -> Float[Tensor, "*rows out_dim"]:
    """Return W x + b as `torch.nn.functional.linear`; under autocast on the CPU, as products of few different shapes.

    There oneDNN compiles a product for each new shape, which takes longer than to compute it, and every batch has
    another number of proposals.
    """
    if x.device.type != "cpu" or not under_autocast(x) or torch.compiler.is_compiling():
        return nn.functional.linear(x, weight, bias)
    out = _ShortLinear.apply(x.flatten(0, -2), weight, bias, torch.get_autocast_dtype("cpu"))
    return out.view(*x.shape[:-1], len(weight))


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return nn.functional.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


class _ShortLinear(torch.autograd.Function):
    """W x + b in another type. Where the number of rows is not round, the last rows are multiplied by themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            rows, short = x.to(dtype), weight.to(dtype)
            keep(ctx, (x, weight, bias, dtype), rows, short)
            out = rows.new_empty(len(rows), len(short))
            _multiply(rows, short.t(), None if bias is None else bias.to(dtype), out)
            return out

    @staticmethod
    @backward_pass(_reference)
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (_, _, bias, _), (rows, short) = kept(ctx)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(rows, memory_format=torch.contiguous_format)
            _multiply(above, short, None, of_x)
        if ctx.needs_input_grad[1]:
            (whole, last), (others, rest) = _halves(above), _halves(rows)
            of_weight = whole.t() @ others
            if last is not None and rest is not None:
                of_weight += last.t() @ rest
        return of_x, of_weight, None if bias is None else above.sum(0), None


def _multiply(x: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write x matrix + bias."""
    whole, last = _halves(x)
    product = torch.mm if bias is None else functools.partial(torch.addmm, bias)
    product(whole, matrix, out=out[: len(whole)])
    if last is not None:
        out[len(whole) :] = product(last, matrix)[: len(x) - len(whole)]


def _halves(x: Float[Tensor, "rows dim"]) -> tuple[Tensor, Tensor | None]:
    """Return the first rows, of which there are 8 to 15 times a power of two, and the others with zeros below."""
    step = 1 << max(0, len(x).bit_length() - 4)
    others = len(x) % step
    if not others:
        return x, None
    last = x.new_zeros(step, x.shape[1])
    last[:others] = x[-others:]
    return x[:-others], last
