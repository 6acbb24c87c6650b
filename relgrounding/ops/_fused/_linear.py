"""Linear maps with a part of a weight, and under autocast."""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from relgrounding.ops._backward import backward_pass, keep, kept

ALL = slice(None)


def linear(
    x: Float[Tensor, "*rows in_dim"],
    weight: Float[Tensor, "all_out_dim all_in_dim"],
    bias: Float[Tensor, " out_dim"] | None,
    rows: slice = ALL,
    columns: slice = ALL,
) -> Float[Tensor, "*rows out_dim"]:
    """Return W x + b as `torch.nn.functional.linear`; under autocast on the CPU, as products of few different shapes.

    There oneDNN compiles a product for each new shape, which takes longer than to compute it, and every batch has
    another number of proposals. Autocast leaves float64 as it is.

    Args:
        x: any rows.
        weight: W is a part of it; its gradient is written once, not copied into zeros.
        bias: b.
        rows: of the weight that are W.
        columns: likewise.
    """
    kind, compiling, part = x.device.type, torch.compiler.is_compiling(), (rows, columns) != (ALL, ALL)
    short = torch.float64 not in (x.dtype, weight.dtype)
    autocast = short and kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)
    if part and not compiling and not autocast:
        return _PartLinear.apply(x, weight, bias, rows, columns)
    weight = weight[rows, columns] if part else weight
    if compiling or not autocast or kind != "cpu":
        return functional.linear(x, weight, bias)
    out = _ShortLinear.apply(x.flatten(0, -2), weight, bias, torch.get_autocast_dtype("cpu"))
    return out.view(*x.shape[:-1], len(weight))


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return functional.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


def _part_reference(x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice, columns: slice) -> Tensor:
    return functional.linear(x, weight[rows, columns], bias)


class _PartLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice, columns: slice) -> Tensor:
        keep(ctx, (x, weight, bias, rows, columns))
        return _part_reference(x, weight, bias, rows, columns)

    @staticmethod
    @backward_pass(_part_reference)
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, bias, rows, columns), _ = kept(ctx)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = above @ weight[rows, columns]
        above = above.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight)
            torch.mm(above.t(), x.flatten(0, -2), out=of_weight[rows, columns])
        if bias is not None and ctx.needs_input_grad[2]:
            of_bias = above.sum(0)
        return of_x, of_weight, of_bias, None, None


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
