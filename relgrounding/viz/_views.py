"""What differs between moments of videos and regions of images; nothing else in this package asks which they are."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from relgrounding._registry import Registry
from relgrounding.config import Config
from relgrounding.evaluation import ImageEvaluator, VideoEvaluator
from relgrounding.evaluation._image import READINGS
from relgrounding.viz._figure import Shown
from relgrounding.viz._items import Items
from relgrounding.viz._moments import moments_figure
from relgrounding.viz._regions import regions_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIT = 0.5
"""IoU from which an answer is right."""
THRESHOLDS = (0.3, 0.5, 0.7)
"""IoUs of the recalls of moments that runs are compared by."""
MARGIN = 1.05
"""Of a blank canvas whose size is not known, beyond the outermost box."""
Proposals = Sequence[Sequence[float | int]]


class View(ABC):
    """How the answers of a modality are scored, grouped and drawn; register your own with `register_view`.

    Attributes:
        kind: name of the answers; report.js has a drawing of each.
        size_title: of the breakdown by the size of the right answer, whose groups lie between `size_edges`.
        relation_words: for the breakdown by relation word.
    """

    kind: str
    size_title: str
    size_edges: tuple[int, ...]
    size_unit: str
    relation_words: tuple[str, ...]

    @abstractmethod
    def score(self, protocol: str, answers: Proposals, targets: Sequence[Proposals]) -> tuple[np.ndarray, np.ndarray]:
        """Return the IoU of each query's answer, and whether it is a hit, (queries,) each."""

    @abstractmethod
    def measures(self, ious: np.ndarray, hits: np.ndarray) -> dict[str, np.ndarray]:
        """Return the percentage of each query by metric, given what `score` returns; their means are the metrics."""

    @abstractmethod
    def frame(self, line: Mapping[str, Any]) -> tuple[float, ...]:
        """Return (duration,) or (width, height) of a line of predictions.jsonl; empty where an old run lacks it."""

    @abstractmethod
    def size(self, targets: Proposals) -> float:
        """Return the size of the largest target, in `size_unit`."""

    @abstractmethod
    def figure(self, query: str, shown: Sequence[Shown], item: str, frame: tuple[float, ...], items: Items) -> "Figure":
        """Draw answers to a query about an item, whose frame is looked up in `items` where it is empty."""


VIEWS: Registry[View] = Registry("view", "relgrounding.viz")
register_view = VIEWS.register
"""Decorator that registers a `View` under the name of the modality whose answers it draws."""


@register_view("video")
class MomentsView(View):
    """How moments of videos are scored, grouped and drawn."""

    kind = "moments"
    size_title = "by length of the window"
    size_edges = (4, 7, 10, 15)
    size_unit = "s"
    relation_words = (
        "before", "after", "then", "while", "first", "again", "starts", "begins", "finally", "next", "on", "in", "into",
        "out", "off", "up", "down", "from", "through", "with",
    )  # fmt: skip

    def score(self, protocol: str, answers: Proposals, targets: Sequence[Proposals]) -> tuple[np.ndarray, np.ndarray]:
        ious = VideoEvaluator(reversed_targets=True).overlaps([[answer] for answer in answers], targets)
        return ious, ious >= HIT

    def measures(self, ious: np.ndarray, hits: np.ndarray) -> dict[str, np.ndarray]:
        recalls = {f"R@1,IoU={iou}": 100.0 * (ious >= iou) for iou in THRESHOLDS}
        return {**recalls, "mIoU": 100.0 * ious}

    def frame(self, line: Mapping[str, Any]) -> tuple[float, ...]:
        return _positive([line["duration"]]) if "duration" in line else ()

    def size(self, targets: Proposals) -> float:
        return max(max(0.0, end - start) for start, end in targets)

    def figure(self, query: str, shown: Sequence[Shown], item: str, frame: tuple[float, ...], items: Items) -> "Figure":
        duration = frame[0] if frame else items.duration(item)
        return moments_figure(query, duration or max(end for one in shown for _, end in one.proposals), shown)


@register_view("image")
class RegionsView(View):
    """How regions of images are; see `MomentsView`."""

    kind = "regions"
    size_title = "by size of the target (root of its area)"
    size_edges = (32, 96, 192)
    size_unit = "px"
    relation_words = (
        "left", "right", "above", "below", "under", "over", "behind", "front", "beside", "next", "near", "between",
        "middle", "center", "top", "bottom", "on", "in", "with", "holding", "wearing",
    )  # fmt: skip

    def score(self, protocol: str, answers: Proposals, targets: Sequence[Proposals]) -> tuple[np.ndarray, np.ndarray]:
        reading = next((name for name in READINGS if name in protocol.split(", ")), "any")
        evaluator = ImageEvaluator(reading, HIT)
        return evaluator.overlaps(answers, targets), evaluator.hits(answers, targets)

    def measures(self, ious: np.ndarray, hits: np.ndarray) -> dict[str, np.ndarray]:
        return {f"Acc@{HIT}": 100.0 * hits}

    def frame(self, line: Mapping[str, Any]) -> tuple[float, ...]:
        if "size" not in line:
            return ()
        width, height = _positive(line["size"])
        return width, height

    def size(self, targets: Proposals) -> float:
        return math.sqrt(max(max(0.0, (x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in targets))

    def figure(self, query: str, shown: Sequence[Shown], item: str, frame: tuple[float, ...], items: Items) -> "Figure":
        size = frame or items.size(item)
        if not size:
            boxes = np.array([box for one in shown for box in one.proposals])
            size = tuple(MARGIN * boxes[:, 2:].max(0))
        objects = items.objects(item)
        context = [box for _, box in objects] or items.boxes(item)
        shown = [one if one.labels else replace(one, labels=_names(one.proposals, objects)) for one in shown]
        labelled = shown[0].proposals if shown[0].labels else ()
        names = ["" if any(_same(box, own) for own in labelled) else name for name, box in objects]
        return regions_figure(query, size, shown, items.picture(item), context, names)


def _names(boxes: Proposals, objects: Sequence[tuple[str, Sequence[float | int]]]) -> list[str]:
    """Return the name of the object whose box each of these is; empty where one of them is none's."""
    names = [next((name for name, box in objects if _same(own, box)), "") for own in boxes]
    return names if all(names) else []


def _same(box: Sequence[float | int], other: Sequence[float | int]) -> bool:
    """Whether two boxes differ by no more than rounding."""
    return np.allclose(box, other, rtol=0, atol=1.0)


def view_of(config: Config) -> View:
    """Return how the answers of a run are looked at.

    Raises:
        ConfigError: its modality has no view.
    """
    return VIEWS.get(config.system.modality)()


def _positive(values: Sequence[float | int]) -> tuple[float, ...]:
    numbers = tuple(map(float, values))
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"{numbers} is not a duration or size")
    return numbers
