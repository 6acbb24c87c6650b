"""From clips to proposals."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding._host import on_host, to_device
from relgrounding.nn._precision import without_autocast
from relgrounding.ops import window_max
from relgrounding.ops._checks import check_spans


class ProposalPooling(nn.Module):
    """Pool the clips of each proposal.

    `reduce="max"`: see `relgrounding.ops.window_max`.

    `reduce="mean"`: a product of the clips with a matrix of weights per video, in float32 at least.

    `contrast` c above 0, with "mean" only: what goes on around the proposal is subtracted,

        h = mean of the clips inside - c * mean of the clips around

    Around a proposal of w clips are the ceil(context * w) clips before it and as many after it, as far as the video has
    them; where it has none, nothing is subtracted. Windows inside one event have the same mean, but around the shorter
    ones the event goes on: they lose, and so do longer ones, by what is missing inside. Keep c below 1: at 1 a window
    beside an event differs from the rest of the video as much as the one that holds it.

    Args:
        reduce: "max" or "mean".
        contrast: c, from 0 to 1.
        context: share of a proposal's width that counts as around it, on each side; above 0.

    Source of inside against around: Shou et al., AutoLoc: Weakly-supervised Temporal Action Localization in Untrimmed
    Videos, ECCV 2018, there in the loss.
    """

    def __init__(self, reduce: Literal["max", "mean"] = "max", contrast: float = 0.0, context: float = 0.5) -> None:
        super().__init__()
        if reduce not in ("max", "mean"):
            raise ValueError(f"unknown reduce '{reduce}'; it is 'max' or 'mean'")
        if not 0 <= contrast <= 1 or (contrast and reduce != "mean"):
            raise ValueError(
                f"contrast is {contrast} with '{reduce}'; it is from 0 to 1, and 0 unless reduce is 'mean'"
            )
        if not context > 0:
            raise ValueError(f"context is {context}; it is a share of a proposal's width, above 0")
        self.reduce, self.contrast, self.context = reduce, contrast, context

    def forward(
        self,
        clips: Float[Tensor, "items clips dim"],
        spans: Int[Tensor, "nodes 2"],
        item: Int[Tensor, " nodes"],
        lengths: Int[Tensor, " items"] | None = None,
    ) -> Float[Tensor, "nodes dim"]:
        """Pool.

        Args:
            clips: (B, C, D), padded at the end with anything.
            spans: (N, 2) start and end clip of each proposal, [start, end), 0 <= start < end <= C.
            item: (N,) video of each proposal, in any order.
            lengths: (B,) clips of each video without its padding, which contrast needs: at most C, and none of a span
                lies beyond; None: all C.

        Returns:
            (N, D).

        Raises:
            ValueError: an empty span or one that leaves the padded video, or an item that does not exist.

        >>> clips = torch.tensor([[[3.0], [1.0], [2.0]]])
        >>> ProposalPooling()(clips, torch.tensor([[0, 3], [1, 3]]), torch.tensor([0, 0])).tolist()
        [[3.0], [2.0]]
        """
        if self.reduce == "max":
            return window_max(clips, spans, item)
        check_spans(spans, item, clips)
        (start, end), item = spans.long().unbind(1), item.long()  # bytes would select as a mask
        stop = torch.full_like(end, clips.shape[1]) if lengths is None else lengths.long()[item]
        return self._mean(clips, start, end, item, stop)

    def _mean(self, clips: Tensor, start: Tensor, end: Tensor, item: Tensor, stop: Tensor) -> Tensor:
        place, first, last = torch.arange(clips.shape[1], device=clips.device), start, end
        inside_NC = (place >= start.unsqueeze(1)) & (place < end.unsqueeze(1))
        share_N = 1 / (end - start).to(torch.promote_types(clips.dtype, torch.float32))
        weight_NC = inside_NC * share_N.unsqueeze(1)
        if self.contrast:
            # Rounding makes 16 of ceil(0.6 * 25) in float32, and 8 of ceil(0.07 * 100) in float64.
            margin = torch.ceil((end - start).double() * self.context - 1e-9).long()
            first, last = (start - margin).clamp_min(0), torch.maximum(torch.minimum(end + margin, stop), end)
            around_NC = (place >= first.unsqueeze(1)) & (place < last.unsqueeze(1)) & ~inside_NC
            count_N = (last - first - end + start).clamp_min(1)
            weight_NC -= around_NC * (self.contrast / count_N.to(weight_NC.dtype)).unsqueeze(1)
        # The padding may hold anything, also what times zero is not zero.
        reach_B = item.new_zeros(len(clips)).scatter_reduce(0, item, last, "amax")
        clips_BCD = clips.to(weight_NC.dtype).masked_fill((place >= reach_B.unsqueeze(1)).unsqueeze(2), 0)
        with without_autocast(clips):
            return _by_item(weight_NC, clips_BCD, item).to(clips.dtype)


def _by_item(weight_NC: Tensor, clips_BCD: Tensor, item: Tensor) -> Float[Tensor, "nodes dim"]:
    """Return the weighted sums of the clips of each node's item."""
    items = on_host(item)
    counts = torch.bincount(items, minlength=len(clips_BCD))
    order = items.argsort(stable=True)
    # Rank of each node in its item.
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[items[order]]
    longest = int(counts.max()) if len(counts) else 0
    slot = to_device(items * longest + rank, item.device)
    weight = weight_NC.new_zeros(len(clips_BCD) * longest, weight_NC.shape[1]).index_copy(0, slot, weight_NC)
    return (weight.view(len(clips_BCD), longest, clips_BCD.shape[1]) @ clips_BCD).flatten(0, 1).index_select(0, slot)
