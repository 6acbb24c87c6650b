"""Maximum over windows of clips."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import on_host
from relgrounding.ops._checks import check_spans
from relgrounding.ops._compiled import Opaque
from relgrounding.ops._dispatch import launch
from relgrounding.ops._registry import load_backends

load_backends(__name__, __path__)


def window_max(
    clips: Float[Tensor, "items clips dim"],
    spans: Int[Tensor, "nodes 2"],
    item: Int[Tensor, " nodes"],
    backend: str = "auto",
) -> Float[Tensor, "nodes dim"]:
    """Maximum of each feature over each window of a video.

        out_n = max over the clips t with start_n <= t < end_n of  clips[item_n, t]

    The gradient goes to the clip that is the largest, to the first one where several are. A NaN in a window is its
    maximum. Gradients of gradients (`create_graph=True`) are those of "naive".

    Args:
        clips: (B, C, D) in any float type, padded at the end with anything.
        spans: (N, 2) integers, start and end of each window, 0 <= start < end <= C.
        item: (N,) integers, video of each window, in any order.
        backend: "auto", "naive" (one window after another) or "table" (a table of the maxima of runs of clips).

    Returns:
        (N, D).

    Raises:
        ValueError: an empty span or one that leaves the padded video, an item that does not exist, or an unknown
            backend.

    Source: the table is that of Bender and Farach-Colton, The LCA Problem Revisited, LATIN 2000, section 3.

    >>> import torch
    >>> clips = torch.tensor([[[3.0], [1.0], [2.0]]])
    >>> window_max(clips, torch.tensor([[0, 3], [1, 3]]), torch.tensor([0, 0])).tolist()
    [[3.0], [2.0]]
    """
    check_spans(spans, item, clips)
    if torch.compiler.is_compiling():
        return _opaque(clips, spans, item, text=backend)[0]
    start, end = on_host(spans).long().unbind(1)
    return launch("window_max", [clips], backend, start=start, end=end, item=on_host(item).long())


def _shapes(clips: Tensor, spans: Tensor, item: Tensor, backend: str) -> Tensor:
    return clips.new_empty(spans.shape[0], clips.shape[2])


_opaque = Opaque(window_max, _shapes)

__all__ = ["window_max"]
