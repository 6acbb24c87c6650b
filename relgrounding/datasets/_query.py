"""One sentence that asks for a moment of a video or a region of an image."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """A sentence, the video or image it is about, and what it refers to.

    Args:
        id: names the query; no two queries of a split share it.
        item: id of the video or image, the key of its features.
        text: the sentence or phrase as written by the annotator.
        targets: right answers: segments (start, end) in seconds, or boxes (x1, y1, x2, y2) in pixels.
        kind: what sort of query it is, for tables by kind; empty where the data set has no sorts.
        group: queries of one non-empty group meet in one batch; empty for none.
    """

    id: str
    item: str
    text: str
    targets: tuple[tuple[float, ...], ...]
    kind: str = ""
    group: str = ""
