"""Which frames make which clip: arithmetic, no video."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Frame = TypeVar("Frame")


def clip_count(frames: int, stride: int) -> int:
    """Return the number of clips: frames / stride to the nearest whole number, at least one."""
    return max(1, (2 * frames + stride) // (2 * stride))


def first_frame(clip: int, clip_frames: int, stride: int) -> int:
    """Return the first frame of a clip, which is centred on its share of the video; negative before the start.

    The layout has clip i of n stand for the time from i / n to (i + 1) / n: that is the frames from i * stride to
    (i + 1) * stride, to within half a stride at the end. The model sees `clip_frames` frames around their middle.
    """
    return clip * stride - (clip_frames - stride) // 2


def windows(frames: Iterable[Frame], clip_frames: int, stride: int) -> Iterator[list[Frame]]:
    """Yield the frames of each clip from a stream, holding those of about one clip.

    Beyond both ends of the video its first and last frame are repeated.

    Args:
        frames: of a video, at least one.
        clip_frames: frames that a clip holds.
        stride: frames from one clip to the next.
    """
    kept: list[Frame] = []
    begin = count = clip = 0  # `kept` are the frames begin .. count - 1
    for frame in frames:
        kept.append(frame)
        count += 1
        first = first_frame(clip, clip_frames, stride)
        if first + clip_frames <= count:
            yield _take(kept, begin, first, clip_frames)
            clip += 1
        # The last frame stays: it may be what is repeated at the end.
        surplus = min(first_frame(clip, clip_frames, stride) - begin, len(kept) - 1)
        if surplus > 0:
            del kept[:surplus]
            begin += surplus
    for rest in range(clip, clip_count(count, stride) if count else 0):
        yield _take(kept, begin, first_frame(rest, clip_frames, stride), clip_frames)


def _take(kept: list[Frame], begin: int, first: int, clip_frames: int) -> list[Frame]:
    last = len(kept) - 1
    return [kept[min(max(frame - begin, 0), last)] for frame in range(first, first + clip_frames)]
