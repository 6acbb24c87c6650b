"""The gates that a proposal and its context open for each other, forward and backward in few passes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding.ops._backward import backward_pass, keep, kept


def open_gates(
    proposals: Float[Tensor, "nodes h_and_gates"], contexts: Float[Tensor, "nodes c_and_logits"], proposal_dim: int
) -> Float[Tensor, "nodes fused_dim"]:
    """Return [h * sigmoid(a); c * g] of proposals [h; g] and contexts [c; a].

    Args:
        proposals: (N, P + C).
        contexts: (N, C + P).
        proposal_dim: P.
    """
    if torch.compiler.is_compiling() or proposals.dtype != contexts.dtype:
        return _reference(proposals, contexts, proposal_dim)
    return _OpenGates.apply(proposals, contexts, proposal_dim)


def _reference(proposals: Tensor, contexts: Tensor, proposal_dim: int) -> Tensor:
    h, g = proposals.tensor_split([proposal_dim], -1)
    c, a = contexts.tensor_split([g.shape[-1]], -1)
    return torch.cat([h * torch.sigmoid(a), c * g], -1)


class _OpenGates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, proposals: Tensor, contexts: Tensor, proposal_dim: int) -> Tensor:
        (h, g), (c, a) = _split(proposals, proposal_dim), _split(contexts, proposals.shape[-1] - proposal_dim)
        out, opened = torch.empty_like(proposals, memory_format=torch.contiguous_format), torch.sigmoid(a)
        of_h, of_c = _split(out, proposal_dim)
        torch.mul(h, opened, out=of_h)
        torch.mul(c, g, out=of_c)
        keep(ctx, (proposals, contexts, proposal_dim), opened)
        return out

    @staticmethod
    @backward_pass(_reference)
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (proposals, contexts, proposal_dim), (opened,) = kept(ctx)
        context_dim = proposals.shape[-1] - proposal_dim
        (h, g), (c, _), (of_h, of_c) = (
            *(_split(proposals, proposal_dim), _split(contexts, context_dim)),
            _split(above, proposal_dim),
        )
        d_proposals, d_contexts = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in (proposals, contexts)
        )
        (d_h, d_g), (d_c, d_a) = _split(d_proposals, proposal_dim), _split(d_contexts, context_dim)
        torch.mul(of_h, opened, out=d_h)
        torch.mul(of_c, c, out=d_g)
        torch.mul(of_c, g, out=d_c)
        torch.ops.aten.sigmoid_backward(of_h * h, opened, grad_input=d_a)
        return d_proposals, d_contexts, None


def _split(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    return x[..., :first], x[..., first:]
