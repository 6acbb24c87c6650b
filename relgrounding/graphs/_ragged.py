"""Index arithmetic on ragged arrays, shared by the builders."""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


def offsets(counts: Shaped[Tensor, " items"]) -> Int64[Tensor, " items_plus_one"]:
    """Cumulated sum with a leading zero: where each item begins and the last one ends; booleans count as 0 and 1."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def ragged_arange(starts: Int64[Tensor, " items"], counts: Int64[Tensor, " items"]) -> Int64[Tensor, " total"]:
    """``cat([arange(s, s + c) for s, c in zip(starts, counts)])`` without the loop."""
    shift = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
    return torch.arange(shift.numel(), device=counts.device) + shift
