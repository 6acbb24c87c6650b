"""From the scores of proposals to the alignment of an item."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding._host import on_host, to_device
from relgrounding.nn._padding import pad_nodes
from relgrounding.nn._precision import widened


class TopRScore(nn.Module):
    """Average the highest scores of each item.

        K = mean of the min(R, n) highest of the item's n scores

    Args:
        r: R, at least 1.
    """

    def __init__(self, r: int) -> None:
        super().__init__()
        if isinstance(r, bool) or not hasattr(r, "__index__") or r < 1:
            raise ValueError(f"r is {r!r}; it must be at least 1, a whole number")
        self.r = r

    def forward(
        self, scores: Float[Tensor, " nodes"], batch_num_nodes: Int[Tensor, " items"]
    ) -> Float[Tensor, " items"]:
        """Score items.

        Args:
            scores: (N,), the items one after another.
            batch_num_nodes: (B,) number of proposals of each item, at least 1.

        Raises:
            ValueError: an item without proposals, numbers that do not sum to N, or scores of another shape.

        >>> TopRScore(2)(torch.tensor([0.1, 0.9, 0.5, 0.3]), torch.tensor([3, 1]))
        tensor([0.7000, 0.3000])
        """
        if scores.dim() != 1:
            raise ValueError(
                f"TopRScore: scores have the shape {tuple(scores.shape)}; give one score per node, (nodes,)"
            )
        counts = on_host(batch_num_nodes).long()
        empty = (counts < 1).nonzero()
        if len(empty):
            raise ValueError(f"item {int(empty[0])} has no proposals, so it has no score; drop it from the batch")
        padded, _ = pad_nodes(widened(scores), batch_num_nodes, fill=-torch.inf)
        highest = padded.topk(min(self.r, padded.shape[1]), dim=1).values
        kept = to_device(counts.clamp(max=self.r), scores.device)
        beyond = torch.arange(highest.shape[1], device=scores.device) >= kept.unsqueeze(1)
        return highest.masked_fill(beyond, 0).sum(1) / kept
