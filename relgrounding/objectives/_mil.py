"""Multiple-instance learning from pairs: in-batch negatives of both kinds."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def draw_negatives(
    batch_size: int, count: int, group: Int[Tensor, " items"], generator: torch.Generator | None = None
) -> Int[Tensor, "draws items"]:
    """Draw `count` permutations that pair every item of a batch with another item's sentence.

    Where a batch holds groups of two (minimal pairs), the first permutation swaps the two; all others are cyclic shifts
    by different random distances. A permutation gives both kinds of negatives at once: a wrong sentence for each item
    and a wrong item for each sentence.

    Args:
        batch_size: items of the batch, 2 or more.
        count: permutations wanted; a batch of B has B - 1 shifts, and no more are drawn.
        group: (items,) equal numbers for items of one group, -1 for items of none.
        generator: source of the randomness, on the CPU.

    Returns:
        (draws, items) int64, row k: the sentence each item is paired with. No item keeps its own sentence, unless it
        is alone in its group in a row of swaps.

    Raises:
        ValueError: fewer than two items.
    """
    if batch_size < 2:
        raise ValueError(f"a batch of {batch_size} has no negatives; use batches of 2 or more")
    place = torch.arange(batch_size)
    rows = []
    if bool((group >= 0).any()):
        rows.append(_swap_groups(group.cpu(), place))
    shifts = torch.randperm(batch_size - 1, generator=generator)[: max(count - len(rows), 0)] + 1
    rows.extend((place + shift) % batch_size for shift in shifts)
    return torch.stack(rows)


def _swap_groups(group: Int[Tensor, " items"], place: Int[Tensor, " items"]) -> Int[Tensor, " items"]:
    """Return the cyclic shift within each group of equal numbers; items of no group stay."""
    order = torch.argsort(group, stable=True)
    ordered = group[order]
    first = torch.searchsorted(ordered, ordered, right=False)
    last = torch.searchsorted(ordered, ordered, right=True)
    following = torch.where(place + 1 < last, place + 1, first)
    swapped = torch.empty_like(place)
    swapped[order] = order[following]
    return torch.where(group >= 0, swapped, place)


def mil_loss(
    own: Float[Tensor, " items"],
    wrong: Float[Tensor, "draws items"],
    negatives: Int[Tensor, "draws items"],
    valid: Bool[Tensor, "draws items"],
    margin: float,
) -> Float[Tensor, ""]:
    """Hinge of each pair's alignment against a wrong sentence and against a wrong item.

        L = mean over valid (k, b) of  [m - K(v_b, s_b) + K(v_b, s_q)]_+  +  [m - K(v_q, s_q) + K(v_b, s_q)]_+

    with q = negatives[k, b]: the first term contrasts sentences for one item, the second items for one sentence.

    Args:
        own: K(v_b, s_b), from 0 to 1.
        wrong: K(v_b, s_q), from 0 to 1.
        negatives: q; see `draw_negatives`.
        valid: False where item q shows, or sentence q says, the same as b's: such a pair is no negative.
        margin: m, from 0 to 1.

    Returns:
        The loss; 0 (with a gradient of 0) where nothing is valid.
    """
    for_sentence = (margin - own + wrong).clamp_min(0)
    # Not `own[negatives]`, whose gradient is added up in an order that depends on the threads.
    for_item = (margin - own.expand_as(negatives).gather(1, negatives) + wrong).clamp_min(0)
    return ((for_sentence + for_item) * valid).sum() / valid.sum().clamp_min(1)


def contrastive_loss(
    own: Float[Tensor, " items"],
    wrong: Float[Tensor, "draws items"],
    negatives: Int[Tensor, "draws items"],
    valid: Bool[Tensor, "draws items"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of the right pair among the wrong ones, of each item's sentences and of each sentence's items.

        z(K) = log(K / (1 - K)) / T
        L = - mean over b of  log softmax of z(K(v_b, s_b)) among z(K(v_b, s_q)), all k
            - mean over b of  log softmax of z(K(v_b, s_b)) among z(K(v_a, s_b)), all k

    with q = negatives[k, b] and a the item that draw k pairs with sentence b.

    Args:
        own: K(v_b, s_b), from 0 to 1.
        wrong: K(v_b, s_q), from 0 to 1.
        negatives: q; see `draw_negatives`.
        valid: False where a pair is no negative: it is left out of the softmax.
        temperature: T, above 0.

    Returns:
        The sum of both terms; 0 where nothing is valid.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, equation 4.
    """
    right = torch.logit(own, 1e-6) / temperature
    others = (torch.logit(wrong, 1e-6) / temperature).masked_fill(~valid, -torch.inf)
    by_sentence = torch.empty_like(others).scatter(1, negatives, others)
    sentences = torch.logsumexp(torch.cat([right[None], others]), 0) - right
    items = torch.logsumexp(torch.cat([right[None], by_sentence]), 0) - right
    return sentences.mean() + items.mean()
