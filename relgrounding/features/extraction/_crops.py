"""Features of given boxes of an image from a classification network, which is shown each box by itself."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from relgrounding.features.extraction._boxes import given_boxes, read_image
from relgrounding.features.extraction._errors import ExtractionError, require
from relgrounding.features.extraction._weights import build, sha256
from relgrounding.features.shards import open_features

BATCH = 32


class CropExtractor:
    """A network of torchvision.models up to the input of its last linear layer, shown crops of given boxes.

    Each box is cropped with some context, resized to a square and normalised as the network's weights ask for.

    Args:
        model: any classification network of torchvision that ends in a linear layer, such as resnet50.
        weights: torchvision's name of weights, such as IMAGENET1K_V1; a file of a state_dict; or "random".
        boxes: file of region features, or of boxes alone.
        seed: of random weights.
        size: width and height in pixels that the network sees; None: those of its weights.
        context: share of the box's width and height that is added on each side, as far as the image goes.
        device: of the network.

    Raises:
        MissingPackageError: no torchvision.
        ExtractionError: no such model or weights, or a size that the model cannot see.
        FileNotFoundError: no such file of boxes.
    """

    def __init__(
        self,
        model: str,
        weights: str = "IMAGENET1K_V1",
        *,
        boxes: Path,
        seed: int = 0,
        size: int | None = None,
        context: float = 0.1,
        device: str = "cpu",
    ) -> None:
        models = require("torchvision.models")
        require("PIL.Image")
        if model not in models.list_models(module=models):
            raise ExtractionError(f"{model} is not a classification network of torchvision, such as resnet50")
        network, name = build(model, weights, seed, partial(_make, model))
        self.network = network.to(device)
        known = models.get_model_weights(model)
        preset = (known[weights] if weights in known.__members__ else known.DEFAULT).transforms()
        self.size, self.mode = size or preset.crop_size[0], preset.interpolation.value
        self.mean, self.std = (torch.tensor(value, device=device)[:, None, None] for value in (preset.mean, preset.std))
        self.context, self.device = context, device
        self.given = open_features(boxes, "regions")
        try:
            self._features(torch.zeros(1, 3, self.size, self.size, device=device))
        except (AssertionError, RuntimeError) as error:
            raise ExtractionError(f"{model} cannot see {self.size} x {self.size} pixels: {error}") from None
        self.source: dict[str, Any] = {
            "what": "features of cropped boxes, the input of the last layer",
            "model": f"torchvision {model}",
            "weights": name,
            "size": self.size,
            "context": context,
            "boxes": f"of {boxes.name}, sha256 {sha256(boxes)}",
        }

    def __call__(self, key: str, path: Path) -> dict[str, np.ndarray]:
        """Return `features` (regions, dim), `boxes` in pixels and `size` (width, height).

        Raises:
            ExtractionError: no picture, or the boxes are not of it.
        """
        image = torch.from_numpy(read_image(path)).permute(2, 0, 1).to(self.device)
        height, width = image.shape[1:]
        boxes = given_boxes(self.given, key, path, (width, height))
        features = [
            self._features(torch.stack([self._crop(image, box) for box in boxes[start : start + BATCH]]))
            for start in range(0, len(boxes), BATCH)
        ]
        return {"features": np.concatenate(features), "boxes": boxes, "size": np.asarray([width, height])}

    def _crop(self, image: torch.Tensor, box: np.ndarray) -> torch.Tensor:
        end = np.array(image.shape[:0:-1])  # width, height
        margin = self.context * (box[2:] - box[:2])
        x1, y1 = np.clip(np.floor(box[:2] - margin), 0, end - 1).astype(int)
        x2, y2 = np.clip(np.ceil(box[2:] + margin), (x1 + 1, y1 + 1), end).astype(int)
        crop = image[None, :, y1:y2, x1:x2].float() / 255
        square = nn.functional.interpolate(crop, (self.size, self.size), mode=self.mode, antialias=True)[0]
        return (square.clamp(0, 1) - self.mean) / self.std

    @torch.inference_mode()
    def _features(self, crops: torch.Tensor) -> np.ndarray:
        return self.network(crops).flatten(1).cpu().numpy()


def _make(model: str, weights: Any, state: dict[str, torch.Tensor] | None) -> nn.Module:
    """Make the network without its last linear layer, which classifies; its entries of the state are removed."""
    network = getattr(require("torchvision.models"), model)(weights=weights, progress=False)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ExtractionError(f"{model} does not end in a linear layer; take another model, such as resnet50")
    if state is not None:
        for key in [key for key in state if key.startswith(f"{linear[-1]}.")]:
            del state[key]
    parent, _, last = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return network
