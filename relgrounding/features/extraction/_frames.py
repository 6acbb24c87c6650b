"""The frames of a video file, decoded in sequence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from relgrounding.features.extraction._errors import ExtractionError, require


class Frames:
    """Iterates once over the frames of a video, (3, height, width) uint8, and then knows its duration.

    Args:
        path: anything that FFmpeg decodes.
        fps: frames per second to return: at each multiple of 1 / fps the frame on the screen. None: every frame.

    Attributes:
        duration: seconds, from the first frame to the end of the last one, after the iteration.

    Raises:
        ExtractionError: while iterating: not a video, damaged, without a frame, or shorter than its header says.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        self.path, self.fps = path, fps
        self.duration = 0.0

    def __iter__(self) -> Iterator[torch.Tensor]:
        av = require("av")
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ExtractionError(f"{self.path} holds no video")
                stream = container.streams.video[0]
                stream.thread_count = 1  # the model is what takes time
                yield from self._sampled(stream, container.decode(stream))
                self._check_end(stream)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, ExtractionError):
                raise
            raise ExtractionError(f"{self.path} cannot be decoded: {error}") from None

    def _sampled(self, stream: Any, decoded: Iterator[Any]) -> Iterator[torch.Tensor]:
        usual = float(1 / stream.average_rate) if stream.average_rate else 1 / 25
        shown, start, end, count = None, None, 0.0, 0
        for frame in decoded:
            time = float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base else None
            if start is None:
                start = time or 0.0
            begin = end if time is None else max(time - start, 0.0)
            while self.fps and shown is not None and count / self.fps < begin - 1e-6:
                yield shown
                count += 1
            shown = _pixels(frame)
            if not self.fps:
                yield shown
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
            end = max(end, begin + length)
        if shown is None:
            raise ExtractionError(f"{self.path} holds no frame")
        while self.fps and (count == 0 or count / self.fps < end - 1e-6):
            yield shown
            count += 1
        self.duration = end

    def _check_end(self, stream: Any) -> None:
        promised = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if self.duration < 0.9 * promised - 1:
            raise ExtractionError(
                f"{self.path} ends after {self.duration:.1f} of {promised:.1f} seconds: it is damaged; fetch it again"
            )


def _pixels(frame: Any) -> torch.Tensor:
    return torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
