"""Losses of counterfactual contrastive learning."""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding.nn import pad_nodes

Bound = Literal["uniform", "complement", "none"]
_SMALLEST = 1e-6


def ranking_loss(
    robust: Float[Tensor, "draws items"], destructive: Float[Tensor, "draws items"], margin: float
) -> Float[Tensor, ""]:
    """Hinge: what keeps the critical proposals aligns better than what has lost them.

        L = mean over items of  [margin - mean_J K(RCT) + mean_J K(DCT)]_+

    Args:
        robust: K after the robust transformation, from 0 to 1.
        destructive: K after the destructive one.
        margin: from 0 to 1.
    """
    return (margin - robust.mean(0) + destructive.mean(0)).clamp_min(0).mean()


def consistency_loss(
    original: Float[Tensor, " nodes"],
    robust: Float[Tensor, "draws nodes"],
    destructive: Float[Tensor, "draws nodes"],
    batch_num_nodes: Int[Tensor, " items"],
    bound: Bound = "uniform",
) -> Float[Tensor, ""]:
    """Scores stay as they were under the robust transformation and do not under the destructive one.

        p_t = k_t / sum of k over the item,  H(p, q) = - sum_t p_t log q_t
        L = mean over draws and items of  H(p, q_RCT) - B(p, q_DCT)

    The second term has no lower bound when B = H: driving the critical score to 0 pays without end. It is bounded by

        uniform:     B = min(H(p, q_DCT), log n), n proposals: no more is gained once q_DCT tells no more than an even
                     distribution does
        complement:  -B = - sum_t p_t log(1 - q_t): from 0, where no weight is left on the proposals of p
        none:        B = H, for ablation

    Args:
        original: k without transformation, from 0 to 1; a target: it gets no gradient.
        robust: k after the robust transformation.
        destructive: k after the destructive one.
        batch_num_nodes: (B,) number of proposals of each item.
        bound: see above.

    Raises:
        ValueError: an unknown bound.
    """
    if bound not in get_args(Bound):
        raise ValueError(f"bound is {bound!r}; it is one of {', '.join(get_args(Bound))}")
    p, mask = _shares(original.detach().unsqueeze(1), batch_num_nodes)
    q_robust, _ = _shares(robust.T, batch_num_nodes)
    q_destructive, _ = _shares(destructive.T, batch_num_nodes)

    def cross_entropy(q: Tensor) -> Tensor:
        return -(p * q.clamp_min(_SMALLEST).log() * mask.unsqueeze(2)).sum(1)

    if bound == "complement":
        away = (p * (1 - q_destructive).clamp_min(_SMALLEST).log() * mask.unsqueeze(2)).sum(1)
    else:
        away = cross_entropy(q_destructive)
        if bound == "uniform":
            away = torch.minimum(away, mask.sum(1).to(away.dtype).log().unsqueeze(1))
    return (cross_entropy(q_robust) - away).mean()


def _shares(scores_ND: Tensor, batch_num_nodes: Tensor) -> tuple[Tensor, Tensor]:
    """(items, longest, draws) of each item's scores, summing to 1, and where there is a proposal."""
    padded, mask = pad_nodes(scores_ND, batch_num_nodes)
    return padded / padded.sum(1, keepdim=True).clamp_min(_SMALLEST), mask
