"""Features made from annotations, for use where there are no visual features.

They are NOT visual features: they come from annotations made by people, stand in for perfect recognition, and results
on them must never be compared with published ones.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from relgrounding._signals import look
from relgrounding.datasets.charades_sta import NUM_ACTIONS, ActionInterval, load_actions, load_charades, load_durations
from relgrounding.datasets.refcoco import LEFT_OUT, ImageObjects, load_instances
from relgrounding.features._stores import Regions
from relgrounding.features._writers import write_clip_features, write_region_features
from relgrounding.io._errors import MissingFile

WARNING = "annotation-derived, not visual features: results on them must not be compared with published ones"


def action_coverage(intervals: Sequence[ActionInterval], duration: float, clips: int) -> np.ndarray:
    """Return the share of each of a video's clips, all equally long, that each action covers.

    An action's intervals may overlap; their union counts. What lies outside the video is cut off.

    Args:
        intervals: actions with their start and end in seconds.
        duration: seconds of the video.
        clips: number of clips.

    Returns:
        (clips, 157) float64 from 0 to 1.
    """
    edges = np.linspace(0.0, duration, clips + 1)
    share = np.zeros((clips, NUM_ACTIONS))
    covered_until = np.zeros(NUM_ACTIONS)
    for action, start, end in sorted(intervals, key=lambda interval: interval.start):
        begin = max(start, covered_until[action])
        overlap = np.minimum(end, edges[1:]) - np.maximum(begin, edges[:-1])
        share[:, action] += np.clip(overlap, 0.0, None)
        covered_until[action] = max(end, covered_until[action])
    return np.clip(share * clips / duration, 0.0, 1.0)


def category_features(objects: ImageObjects, num_categories: int) -> np.ndarray:
    """Return one-hot category and geometry of each object: x1/w, y1/h, x2/w, y2/h, area / (w h).

    Args:
        objects: of one image.
        num_categories: of the data set.

    Returns:
        (objects, num_categories + 5) float64 from 0 to 1.
    """
    width, height = objects.size
    corners = objects.boxes / (width, height, width, height)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return np.concatenate([np.eye(num_categories)[objects.category], corners, area[:, None]], axis=1)


def charades_actions(out: Path, root: Path, clips: int, noise: float, seed: int) -> str:
    """Write the clip features of every video that has a sentence, and return a line about them."""
    queries = [query for split in ("train", "test") for query in load_charades(root, split)]
    videos = sorted({query.item for query in queries})
    durations, actions = load_durations(root), load_actions(root)

    def items() -> Iterator[tuple[str, np.ndarray]]:
        for video in tqdm(videos, unit="video", disable=None):
            look()
            # A generator of its own for each video: its noise depends neither on the others nor on their order.
            random = np.random.default_rng([seed, zlib.crc32(video.encode())])
            share = action_coverage(actions[video], durations[video], clips)
            yield video, share + noise * random.standard_normal(share.shape)

    attributes = {
        "description": "share of each clip that each of the 157 Charades actions covers, and Gaussian noise",
        "warning": WARNING,
        "clips": clips,
        "noise": noise,
        "seed": seed,
    }
    write_clip_features(out, items(), attributes)
    return f"{out}: {len(videos)} videos x {clips} clips x {NUM_ACTIONS} actions, noise {noise:g}"


def coco_categories(out: Path, root: Path, name: str) -> str:
    """Write category and geometry of every annotated object, and return a line about them."""
    instances = load_instances(root, name)

    def items() -> Iterator[tuple[str, Regions]]:
        for image in tqdm(instances.ids, unit="image", disable=None):
            look()
            objects = instances[image]
            if len(objects.boxes):
                features = category_features(objects, len(instances.categories)).astype(np.float32)
                yield image, Regions(features, objects.boxes.astype(np.float32), objects.size)

    attributes = {
        "description": "one-hot COCO category, then x1/w y1/h x2/w y2/h area/(w h), of every annotated object",
        "warning": WARNING,
        "name": name,
        "categories": list(instances.categories),
    }
    write_region_features(out, items(), attributes)
    return f"{out}: {len(instances.boxes)} objects of {len(instances)} images of {name}" + (
        f"; {LEFT_OUT}: {len(instances.without_area)}" if instances.without_area else ""
    )


def find_root(given: Path | None, folder: str) -> Path:
    """Return the folder that was given, or else the one below RELGROUNDING_DATA."""
    if given is not None:
        return given
    if not os.environ.get("RELGROUNDING_DATA"):
        raise MissingFile(f"where are the annotations? give --root, or set RELGROUNDING_DATA to what holds {folder}")
    return Path(os.environ["RELGROUNDING_DATA"]) / folder
