"""What is known of a run's videos and images besides its predictions: durations, sizes, pictures."""

import os
import re
from collections import ChainMap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from relgrounding.config import Config, ConfigError
from relgrounding.datasets.demo import Demo, Scene, SceneStore
from relgrounding.features import RegionFeatures, Regions, open_features

PICTURES = (".jpg", ".jpeg", ".png")
UNREADABLE = (ConfigError, OSError, ValueError)
"""Errors of a data set that is not at hand: figures then do with what the predictions say."""


class Items:
    """Durations, sizes and pictures by id; all of them None where the data set is not at hand.

    Args:
        config: of the run.
        images: directory of pictures, named by their ids or as COCO names them.
    """

    def __init__(self, config: Config, images: str | os.PathLike | None = None) -> None:
        self.config = config
        self._pictures = _by_id(Path(images)) if images else {}
        self._scenes: dict[str, SceneStore] = {}

    @cached_property
    def _durations(self) -> dict[str, float]:
        try:
            dataset, splits = self.config.dataset, self.config.data.test_splits
            found = [dataset.read(split).durations for split in splits]
        except UNREADABLE:
            return {}
        return {item: seconds for durations in found for item, seconds in durations.items()}

    @cached_property
    def _regions(self) -> Mapping[str, Regions] | RegionFeatures:
        dataset = self.config.dataset
        if isinstance(dataset, Demo):
            return {}
        try:
            if dataset.generated:
                return ChainMap(*(dict(dataset.read(split).store) for split in self.config.data.test_splits))
            return open_features(dataset.feature_file(), "regions")
        except UNREADABLE:
            return {}

    def duration(self, item: str) -> float | None:
        """Return the length of a video in seconds."""
        return self._durations.get(item)

    def size(self, item: str) -> tuple[int, int] | None:
        """Return (width, height) of an image in pixels."""
        scene = self.scene(item)
        if scene is not None:
            return scene.size
        return self._regions[item].size if item in self._regions else None

    def regions(self, item: str) -> Regions | None:
        """Return the regions of an image of a generated data set; None where this id is none of its test splits."""
        scenes = self.scenes(item)
        if scenes is not None:
            return scenes[item]
        return self._regions[item] if self.config.dataset.generated and item in self._regions else None

    def example(self) -> str:
        """Return the id of an image of a generated data set."""
        return next(iter(self.config.dataset.read(self.config.data.test_splits[0]).store))

    def boxes(self, item: str) -> list[list[float]]:
        """Return all boxes of an image; none of a generated scene."""
        return self._regions[item].boxes.tolist() if item in self._regions else []

    def objects(self, item: str) -> list[tuple[str, tuple[float, ...]]]:
        """Return the name and the box of each annotated object of an image, where the data set names them."""
        try:
            return self.config.dataset.objects(item)
        except UNREADABLE:
            return []

    def picture(self, item: str) -> np.ndarray | Scene | None:
        """Return the pixels of an image, or its generated scene."""
        path = self._pictures.get(item)
        return read_picture(path) if path else self.scene(item)

    def scene(self, item: str) -> Scene | None:
        """Return the generated scene of this id."""
        store = self.scenes(item)
        return None if store is None else store.scene(item)

    def scenes(self, item: str) -> SceneStore | None:
        """Return the generated scenes among which this id is; None where it names none."""
        named = re.fullmatch(r"(train|test)-(\d+)-\d+-[ab]", item)
        dataset = self.config.dataset
        if not isinstance(dataset, Demo) or not named or int(named[2]) != self.config.seed:
            return None
        split = named[1]
        if split not in self._scenes:
            self._scenes[split] = dataset.read(split).store
        return self._scenes[split] if item in self._scenes[split] else None


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """Return the (height, width, 3) pixels of a picture file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture.
        ImportError: matplotlib, and with it Pillow, is missing.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'relgrounding[plot]'") from None
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable picture: {error}") from None


def picture_ids(path: str | os.PathLike) -> list[str]:
    """Return the ids that a picture of this name may have: `COCO_train2014_000000581857.jpg` is also `581857`."""
    stem = Path(path).stem
    number = re.search(r"(\d+)$", stem)
    return [stem, Path(path).name] + ([str(int(number[1]))] if number else [])


def _by_id(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a directory of pictures")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES:
            for name in picture_ids(path):
                found.setdefault(name, path)
    return found
