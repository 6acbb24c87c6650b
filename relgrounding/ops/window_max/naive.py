"""One window after another: the reference of tests and benchmarks, in any float type."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from relgrounding.ops._registry import register_backend


@register_backend("window_max", "naive")
def window_max_naive(
    clips_BCD: Float[Tensor, "items clips dim"],
    start: Int64[Tensor, " nodes"],
    end: Int64[Tensor, " nodes"],
    item: Int64[Tensor, " nodes"],
) -> Float[Tensor, "nodes dim"]:
    """See `relgrounding.ops.window_max`; the windows are on the host."""
    dim = clips_BCD.shape[2]
    clip_ND = torch.empty(len(item), dim, dtype=torch.int64, device=clips_BCD.device)
    for row, window in enumerate(zip(item.tolist(), start.tolist(), end.tolist(), strict=True)):
        video, first, last = window
        clip_ND[row] = first + clips_BCD[video, first:last].detach().argmax(0)
    item = item.to(clips_BCD.device)
    return clips_BCD[item[:, None], clip_ND, torch.arange(dim, device=item.device)]
