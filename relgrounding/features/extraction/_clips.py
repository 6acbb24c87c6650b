"""Features of clips of a video from a 3D convolutional network."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relgrounding.features.extraction._errors import ExtractionError, require
from relgrounding.features.extraction._frames import Frames
from relgrounding.features.extraction._weights import build
from relgrounding.features.extraction._windows import windows

CLIP_MODELS = ("r3d_18", "mc3_18", "r2plus1d_18")
CLASSIFIER = "fc."


class ClipExtractor:
    """A network of torchvision.models.video up to its pooled feature, and the clips that it is shown.

    Args:
        model: one of `CLIP_MODELS`.
        weights: torchvision's name of weights, such as KINETICS400_V1; a file of a state_dict; or "random".
        seed: of random weights.
        clip_frames: frames of a clip.
        stride: frames from one clip to the next.
        fps: frames per second to look at; None: all.
        size: width and height in pixels that the network sees; frames are resized and cropped as for its training,
            which was at 112.
        batch: clips computed at once.
        device: of the network.

    Raises:
        MissingPackageError: no torchvision or no PyAV.
        ExtractionError: no such model or weights.
    """

    def __init__(
        self,
        model: str = "r3d_18",
        weights: str = "KINETICS400_V1",
        *,
        seed: int = 0,
        clip_frames: int = 16,
        stride: int = 8,
        fps: float | None = None,
        size: int = 112,
        batch: int = 4,
        device: str = "cpu",
    ) -> None:
        require("av")
        video = require("torchvision.models.video")
        if model not in CLIP_MODELS:
            raise ExtractionError(f"{model} is not a model of clips; there are {', '.join(CLIP_MODELS)}")
        network, name = build(model, weights, seed, partial(_make, getattr(video, model)), drop=(CLASSIFIER,))
        network.fc = torch.nn.Identity()
        self.network = network.to(device)
        standard = require("torchvision.models").get_model_weights(model)["KINETICS400_V1"]
        self.transform = standard.transforms(
            crop_size=(size, size), resize_size=(round(size * 128 / 112), round(size * 171 / 112))
        )
        self.clip_frames, self.stride, self.fps = clip_frames, stride, fps
        self.batch, self.device = batch, device
        self.source: dict[str, Any] = {
            "what": "pooled features of clips",
            "model": f"torchvision {model}",
            "weights": name,
            "clip_frames": clip_frames,
            "stride": stride,
            "fps": fps,
            "size": size,
        }

    def __call__(self, key: str, path: Path) -> dict[str, np.ndarray]:
        """Return `features` (clips, dim) float32 and `duration` in seconds of a video file.

        Raises:
            ExtractionError: a file that cannot be decoded to its end.
        """
        frames = Frames(path, self.fps)
        # A frame is in several clips: it is resized once, and kept small.
        seen = (self.transform(frame[None])[:, 0] for frame in frames)
        clips = (torch.stack(clip, dim=1) for clip in windows(seen, self.clip_frames, self.stride))
        features = np.concatenate(list(self._features(clips)))
        return {"features": features, "duration": np.asarray(frames.duration)}

    def _features(self, clips: Iterator[torch.Tensor]) -> Iterator[np.ndarray]:
        while some := list(islice(clips, self.batch)):
            with torch.inference_mode():
                features = self.network(torch.stack(some).to(self.device)).cpu().numpy()
            yield features


def _make(make: Any, weights: Any, state: dict[str, torch.Tensor] | None) -> torch.nn.Module:
    return make(weights=weights, progress=False)
