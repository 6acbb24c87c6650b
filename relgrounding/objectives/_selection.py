"""Selection of the proposals that an alignment depends on."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relgrounding._host import on_host, to_device
from relgrounding.nn._precision import widened, without_autocast


def gradient_importance(
    alignment: Float[Tensor, " items"], proposals: Float[Tensor, "nodes dim"], times_input: bool = False
) -> Float[Tensor, " nodes"]:
    """Importance of each proposal for the alignment of its item, from the gradient of the alignment.

        a_t = || dK / dh_t ||                        how strongly K depends on h_t
        a_t = sum over d of  dK / dh_td * h_td       decrease of K if h_t were zero, to first order
                                                     (`times_input`)

    The autograd graph of K is retained. Features are centred, so a zero feature is an average proposal rather than no
    proposal: the norm works better.

    Args:
        alignment: K of each item, computed from `proposals`.
        proposals: h, part of the autograd graph of K.
        times_input: gradient times feature, of either sign, instead of the norm.

    Returns:
        (N,), without a gradient.

    Raises:
        RuntimeError: K was not computed from these proposals.

    Source: gradients as attribution as in Selvaraju et al., Grad-CAM, 2017, with proposals instead of channels.
    """
    with without_autocast(alignment):
        (gradient,) = torch.autograd.grad(alignment.sum(), proposals, retain_graph=True)
    gradient = widened(gradient)
    if times_input:
        return (gradient * proposals.detach()).sum(-1)
    return gradient.norm(dim=-1)


def split_proposals(
    importance: Float[Tensor, " nodes"],
    scores: Float[Tensor, " nodes"],
    batch_num_nodes: Int[Tensor, " items"],
    critical: float,
    inessential: float,
) -> tuple[Bool[Tensor, " nodes"], Bool[Tensor, " nodes"]]:
    """Mark the most and the least important proposals of each item.

    Of n proposals, the ceil(critical n) most important are critical, and the ceil(inessential n) least important of the
    others, if that many are left, inessential. Of equally important ones (without a relation module all but the best R
    have importance 0) the higher score, then the lower index is more important. The only proposal of an item is never
    inessential.

    Args:
        importance: (N,), item by item.
        scores: (N,) k of the model.
        batch_num_nodes: (B,) number of proposals of each item.
        critical: share, above 0, at most 1.
        inessential: share, from 0 to 1.

    Returns:
        Disjoint masks of the critical and of the inessential proposals.

    Raises:
        ValueError: a share out of range.

    >>> split_proposals(torch.tensor([0.1, 0.9, 0.5]), torch.zeros(3), torch.tensor([3]), 0.3, 0.3)
    (tensor([False,  True, False]), tensor([ True, False, False]))
    """
    if not 0 < critical <= 1 or not 0 <= inessential <= 1:
        raise ValueError(f"critical is {critical}, inessential {inessential}; both are shares, critical above 0")
    counts = batch_num_nodes.to(scores.device)
    item = torch.repeat_interleave(torch.arange(len(counts), device=scores.device), counts, output_size=len(scores))
    order = scores.detach().argsort(descending=True, stable=True)
    order = order[importance.detach()[order].argsort(descending=True, stable=True)]
    order = order[item[order].argsort(stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[item]
    best, worst = (to_device(x, scores.device) for x in split_counts(batch_num_nodes, critical, inessential))
    return rank < best[item], rank >= (counts - worst)[item]


def split_counts(
    batch_num_nodes: Int[Tensor, " items"], critical: float, inessential: float
) -> tuple[Int[Tensor, " items"], Int[Tensor, " items"]]:
    """Return how many proposals of each item `split_proposals` marks in either way, on the host."""
    counts = on_host(batch_num_nodes)
    # 0.3 * 10, for example, is slightly above 3 in binary.
    best = (counts * critical - 1e-6).ceil().long()
    return best, torch.minimum((counts * inessential - 1e-6).ceil().long(), counts - best)
