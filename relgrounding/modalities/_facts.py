"""What annotations and features both state: the length of a video, the size of an image."""

from pathlib import Path
from typing import Any

from relgrounding.config import Config
from relgrounding.datasets import DATASETS, Annotations, Dataset
from relgrounding.features._stores import ClipFeatures, RegionFeatures

SECONDS = 2.0
SHARE_OF_SHORT, SHARE_OF_LONG = 1 / 4, 1 / 100
"""Lengths may differ by two seconds, by less in videos under 8 s, and by more in those over 200 s.

Two statements about one video do differ: of the 6,672 videos of Charades-STA, 1,572 have an annotated end after the
length that the release states, by up to 1.54 s and 14 % of it. A hundredth more than covers 29.97 frames a second taken
for 30. What must be found differs by more: half the frame rate, another video, a part of one.
"""
PIXELS = 1
"""A side may have been rounded; pictures that were resized differ by more."""


def disagreement(item: str, annotations: Annotations, store: object) -> str:
    """Return what the features of an item say otherwise than its annotations; empty where they agree, or one is silent.

    Raises:
        MissingFeatures: the store does not hold the item.
        BadFeatures: what it says about the item cannot be used.
    """
    if isinstance(store, ClipFeatures) and item in annotations.durations:
        said, seconds = annotations.durations[item], store.duration(item)
        allowed = max(min(SECONDS, SHARE_OF_SHORT * said), SHARE_OF_LONG * said)
        if seconds is not None and abs(seconds - said) > allowed:
            return f"{item!r} is {seconds:g} s long in the features and {said:g} s in the annotations"
    if isinstance(store, RegionFeatures) and item in annotations.sizes:
        (width, height), (w, h) = annotations.sizes[item], store.size(item)
        if max(abs(w - width), abs(h - height)) > PIXELS:
            return f"{item!r} is {w} x {h} pixels in the features and {width} x {height} in the annotations"
    return ""


def remedy(video: bool) -> str:
    """Return what to do about items that disagree."""
    if video:
        return "extract the features from the videos that were annotated, or correct the durations"
    return "extract the features from pictures of the annotated size, or give boxes and sizes in pixels of one of them"


class Facts:
    """What `verify` asks of a modality."""

    def __init__(self, video: bool) -> None:
        self.remedy, self._store = remedy(video), ClipFeatures if video else RegionFeatures

    def open_store(self, path: Path, in_memory: bool = True) -> ClipFeatures | RegionFeatures:
        """Return the features in an HDF5 file, by item."""
        return self._store(path, in_memory=in_memory)

    def comparable(self, item: str, annotations: Annotations, store: Any) -> bool:
        """Whether features and annotations both state the length or size of an item."""
        if isinstance(store, ClipFeatures):
            return item in annotations.durations and store.duration(item) is not None
        return item in annotations.sizes

    def disagreement(self, item: str, annotations: Annotations, store: object) -> str:
        """See the function."""
        return disagreement(item, annotations, store)


def parts(config: Config) -> tuple[Dataset, Facts]:
    """Return what `verify` checks."""
    video = config.model.name == "vgn"
    return DATASETS.get(config.data.dataset)(config.data, config.seed, "video" if video else "image"), Facts(video)
