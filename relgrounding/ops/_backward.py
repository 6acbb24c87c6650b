"""What the hand-written backward passes have in common: autocast, and gradients of their gradients.

None of them records what it does, and so autograd would take the gradients it returns for constants. Where gradients of
gradients are asked for (`create_graph=True`), the gradients are those of a reference in plain differentiable
operations instead: right to any order, slower, and with the tensors of (edges x features) that the kernels avoid.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def keep(ctx: Any, arguments: Sequence[Any], *others: Tensor | None) -> None:
    """Save all arguments of a forward pass, as they came, and what else its backward pass needs; see `kept`."""
    ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in arguments), *others)
    ctx.plain = [None if isinstance(x, Tensor) else x for x in arguments]


def kept(ctx: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """The arguments and the other tensors that `keep` saved."""
    saved, count = ctx.saved_tensors, len(ctx.plain)
    return [x if tensor is None else tensor for tensor, x in zip(saved, ctx.plain, strict=False)], saved[count:]


def backward_pass(reference: Callable[..., Any]) -> Callable[[Callable[..., tuple]], Callable[..., tuple]]:
    """Decorate the backward of a `torch.autograd.Function` whose forward calls `keep`; it runs outside autocast.

    Args:
        reference: takes the forward's arguments and returns its results, in operations that autograd can differentiate.
    """

    def decorate(function: Callable[..., tuple]) -> Callable[..., tuple]:
        @functools.wraps(function)
        def run(ctx: Any, *grads: Tensor | None) -> tuple:
            device = next((g.device.type for g in grads if g is not None), None)
            if device is None:
                return (None,) * len(ctx.needs_input_grad)
            recording = torch.is_grad_enabled()
            if not recording and not torch.is_autocast_enabled(device):
                return function(ctx, *grads)
            with torch.autocast(device, enabled=False):
                return _recorded(reference, ctx, grads) if recording else function(ctx, *grads)

        return run

    return decorate


class _Recorded(torch.autograd.Function):
    """Hands on a result whose own gradients must not be differentiated; those of the reference can be."""

    @staticmethod
    def forward(ctx: Any, reference: Callable[..., Any], out: Tensor, *arguments: Any) -> Tensor:
        ctx.reference = reference
        keep(ctx, arguments)
        return out.detach()  # unlike a view, it may be changed in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        if not torch.is_grad_enabled():
            return None, grad, *[None] * len(ctx.plain)
        return None, None, *_recorded(ctx.reference, ctx, (grad,), ctx.needs_input_grad[2:])


def recorded(reference: Callable[..., Any]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorate a function of another library: gradients of gradients are those of `reference`, with its arguments."""

    def decorate(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(kernel)
        def run(*arguments: Any, **options: Any) -> Tensor:
            out = kernel(*arguments, **options)
            plain = functools.partial(reference, **options)
            return _Recorded.apply(plain, out, *arguments) if out.requires_grad else out

        return run

    return decorate


def _recorded(
    reference: Callable[..., Any], ctx: Any, grads: Sequence[Tensor | None], needed: Sequence[bool] | None = None
) -> tuple:
    """Gradients of the arguments that need one, as functions of the arguments and of the gradients of the results."""
    arguments, _ = kept(ctx)
    needed = ctx.needs_input_grad if needed is None else needed
    for i, need in enumerate(needed):
        if need:  # a view of its own: one argument may have been made from another
            arguments[i] = arguments[i].view_as(arguments[i])
    results = reference(*arguments)
    results = (results,) if isinstance(results, Tensor) else results
    # A result may depend on none of the inputs that need a gradient.
    pairs = [(x, g) for x, g in zip(results, grads, strict=True) if g is not None and x.requires_grad]
    wanted = [x for x, need in zip(arguments, needed, strict=True) if need]
    if not pairs:
        return (None,) * len(needed)
    options = {"create_graph": True, "allow_unused": True}
    found = iter(torch.autograd.grad([x for x, _ in pairs], wanted, [g for _, g in pairs], **options))
    return tuple(next(found) if need else None for need in needed)
