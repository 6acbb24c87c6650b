"""From nodes one after another to a padded batch."""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from relgrounding._host import on_host, to_device


def pad_nodes(
    x: Shaped[Tensor, "nodes *features"],  # noqa: F821 - a shape, not a product
    batch_num_nodes: Int[Tensor, " items"],
    fill: int | float = 0,
) -> tuple[Shaped[Tensor, "items longest *features"], Bool[Tensor, "items longest"]]:
    """Put the nodes of each item into a row of their own.

    Args:
        x: (N, ...), the nodes of all items one after another.
        batch_num_nodes: (B,) number of nodes of each item; 0 is allowed.
        fill: what stands where an item has no node.

    Returns:
        (B, T, ...) with T the largest number of nodes, and the mask (B, T), True where there is a node.

    Raises:
        ValueError: the numbers do not sum to N, or are not one number of at least 0 per item.

    >>> padded, mask = pad_nodes(torch.tensor([1, 2, 3]), torch.tensor([1, 2]), fill=-1)
    >>> padded.tolist(), mask.tolist()
    ([[1, -1], [2, 3]], [[True, False], [True, True]])
    """
    counts = on_host(batch_num_nodes)
    if int(counts.sum()) != len(x):
        raise ValueError(f"batch_num_nodes {counts.tolist()} sums to {int(counts.sum())}, but there are {len(x)} nodes")
    if counts.dim() != 1 or (counts < 0).any():
        raise ValueError(f"batch_num_nodes is {counts.tolist()}; give one number of at least 0 per item")
    longest = int(counts.max()) if len(counts) else 0
    mask = torch.arange(longest) < counts.unsqueeze(1)
    slots = to_device(mask.flatten().nonzero().squeeze(1), x.device)
    padded = x.new_full((mask.numel(), *x.shape[1:]), fill).index_copy(0, slots, x)
    return padded.view(*mask.shape, *x.shape[1:]), to_device(mask, x.device)
