"""Which proposals an alignment rests on."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def gradient_importance(
    alignment: Float[Tensor, " items"], proposals: Float[Tensor, "nodes dim"]
) -> Float[Tensor, " nodes"]:
    """Importance of each proposal for the alignment of its item: gradient times feature.

        a_t = sum_d  dK / dh_td * h_td

    To first order, by how much K would fall if h_t were zero. The graph of K is kept.

    Args:
        alignment: K of each item, computed from `proposals`.
        proposals: h, part of that graph.

    Returns:
        (N,) of either sign, without a gradient.

    Raises:
        RuntimeError: K was not computed from these proposals.

    Source: the gradient-based attribution is that of Selvaraju et al., Grad-CAM, 2017, with each proposal in the place
    of a channel.
    """
    (gradient,) = torch.autograd.grad(alignment.sum(), proposals, retain_graph=True)
    return (gradient * proposals.detach()).sum(-1)


def split_proposals(
    importance: Float[Tensor, " nodes"],
    scores: Float[Tensor, " nodes"],
    batch_num_nodes: Int[Tensor, " items"],
    critical: float,
    inessential: float,
) -> tuple[Bool[Tensor, " nodes"], Bool[Tensor, " nodes"]]:
    """Mark the most and the least important proposals of each item.

    Of n proposals, ceil(critical n) are critical, and of the others at most ceil(inessential n) inessential: those
    least important. Of equal importance (with no relation module all but the best R have none), the higher score counts
    as more important, then the earlier proposal. An item with one proposal has no inessential one.

    Args:
        importance: (N,), the items one after another.
        scores: (N,) k of the model.
        batch_num_nodes: (B,) number of proposals of each item.
        critical: share, above 0, at most 1.
        inessential: share, from 0 to 1.

    Returns:
        Both sets as masks over the proposals; they share none.

    Raises:
        ValueError: a share out of range.

    >>> split_proposals(torch.tensor([0.1, 0.9, 0.5]), torch.zeros(3), torch.tensor([3]), 0.3, 0.3)
    (tensor([False,  True, False]), tensor([ True, False, False]))
    """
    if not 0 < critical <= 1 or not 0 <= inessential <= 1:
        raise ValueError(f"critical is {critical}, inessential {inessential}; both are shares, critical above 0")
    counts = batch_num_nodes.to(scores.device)
    item = torch.repeat_interleave(torch.arange(len(counts), device=scores.device), counts)
    order = scores.detach().argsort(descending=True, stable=True)
    order = order[importance.detach()[order].argsort(descending=True, stable=True)]
    order = order[item[order].argsort(stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[item]
    # A share such as 0.3 of 10 is a hair above 3 in binary.
    best = (counts * critical - 1e-6).ceil()
    worst = torch.minimum((counts * inessential - 1e-6).ceil(), counts - best)
    return rank < best[item], rank >= (counts - worst)[item]
