"""Boxes of an image and their features from a Faster R-CNN."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relgrounding._files import sha256
from relgrounding.features._regions import RegionFeatures
from relgrounding.features.extraction._errors import ExtractionError, require
from relgrounding.features.extraction._weights import build
from relgrounding.features.shards import open_features

FASTER_RCNN = (
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
CLASSES = "roi_heads.box_predictor.cls_score.weight"


class RegionExtractor:
    """A detector of torchvision.models.detection: its best boxes, or given ones, with the features of its box head.

    The feature of a box is pooled from the box as it is written, not from the proposal that it was refined from.

    Args:
        model: one of `FASTER_RCNN`.
        weights: torchvision's name of weights, such as COCO_V1; a file of a state_dict; or "random".
        seed: of random weights.
        regions: boxes of an image at most, the best after the detector's non-maximum suppression.
        min_score: lowest score of a box.
        size: pixels of the shorter side that the detector sees; None: the model's own.
        boxes: file of region features whose boxes are taken instead of detected ones.
        device: of the detector.

    Raises:
        MissingPackageError: no torchvision.
        ExtractionError: no such model or weights.
        FileNotFoundError: no such file of boxes.
    """

    def __init__(
        self,
        model: str = "fasterrcnn_resnet50_fpn_v2",
        weights: str = "COCO_V1",
        *,
        seed: int = 0,
        regions: int = 50,
        min_score: float = 0.01,
        size: int | None = None,
        boxes: Path | None = None,
        device: str = "cpu",
    ) -> None:
        detection = require("torchvision.models.detection")
        require("PIL.Image")
        if model not in FASTER_RCNN:
            raise ExtractionError(
                f"{model} is not a detector; there are {', '.join(FASTER_RCNN)}; for the boxes of a file (--boxes) "
                "any classification network of torchvision will do"
            )
        if model == "fasterrcnn_resnet50_fpn" and Path(weights).is_file():
            raise ExtractionError(
                f"{model} is normalised in one of two ways, which a file does not tell: give torchvision's name of its "
                "weights, or take another model"
            )
        options: dict[str, Any] = {"box_detections_per_img": regions, "box_score_thresh": min_score}
        if size is not None:
            # The longer side may be 5 / 3 of the shorter one, about the models' own ratio.
            options |= {"min_size": size, "max_size": size * 5 // 3}
        network, name = build(model, weights, seed, partial(_make, getattr(detection, model), options))
        self.detector: Any = network.to(device)
        self.given = None if boxes is None else open_features(boxes, "regions")
        self.device = device
        self.source: dict[str, Any] = {
            "what": "boxes of images and the features of a detector's box head",
            "model": f"torchvision {model}",
            "weights": name,
            "regions": regions,
            "min_score": min_score,
            "size": size or "the model's own",
            "boxes": "detected" if boxes is None else f"of {boxes.name}, sha256 {sha256(boxes)}",
        }

    @torch.inference_mode()
    def __call__(self, key: str, path: Path) -> dict[str, np.ndarray]:
        """Return `features` (regions, dim), `boxes` in pixels, `size` (width, height), and `scores` if detected.

        Raises:
            ExtractionError: no picture, nothing found in it, or given boxes that are not of it.
        """
        image = torch.from_numpy(read_image(path)).permute(2, 0, 1).to(self.device).float() / 255
        height, width = image.shape[1:]
        batch, _ = self.detector.transform([image])
        maps = self.detector.backbone(batch.tensors)
        seen_height, seen_width = batch.image_sizes[0]
        scale = torch.tensor([width / seen_width, height / seen_height] * 2, device=self.device)
        result = {"size": np.asarray([width, height])}
        if self.given is None:
            proposals, _ = self.detector.rpn(batch, maps)
            (found,), _ = self.detector.roi_heads(maps, proposals, batch.image_sizes)
            if not len(found["boxes"]):
                raise ExtractionError(f"{path}: the detector found nothing; lower --min-score")
            seen, result["scores"] = found["boxes"], found["scores"].cpu().numpy()
            result["boxes"] = (seen * scale).cpu().numpy()
        else:
            result["boxes"] = given_boxes(self.given, key, path, (width, height))
            seen = torch.from_numpy(result["boxes"]).to(self.device) / scale
        pooled = self.detector.roi_heads.box_roi_pool(maps, [seen], batch.image_sizes)
        result["features"] = self.detector.roi_heads.box_head(pooled).cpu().numpy()
        return result


def given_boxes(given: RegionFeatures, key: str, path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the boxes that a file gives for the picture at `path`.

    Raises:
        ExtractionError: it gives none, or they are of an image of another size.
    """
    if key not in given or not len(given[key].boxes):
        raise ExtractionError(f"{path}: {given.path} holds no box of {key!r}")
    regions = given[key]
    if regions.size != size:
        raise ExtractionError(
            f"{path} has {size[0]} x {size[1]} pixels, the boxes of {key!r} in {given.path} "
            f"are of an image of {regions.size[0]} x {regions.size[1]}"
        )
    return regions.boxes


def read_image(path: Path) -> np.ndarray:
    """Return the (height, width, 3) uint8 pixels as they are stored: a rotation noted in the file is not applied.

    Raises:
        ExtractionError: no picture that can be read whole.
    """
    pil = require("PIL.Image")
    try:
        with pil.open(path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
        raise ExtractionError(f"{path} is not a readable picture: {error}") from None


def _make(make: Any, options: dict[str, Any], weights: Any, state: dict[str, torch.Tensor] | None) -> torch.nn.Module:
    classes = len(state[CLASSES]) if state is not None and CLASSES in state else None
    return make(weights=weights, weights_backbone=None, num_classes=classes, progress=False, **options)
