"""The annotated boxes of a data set as a file, the candidates that features are to be made of."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relgrounding.datasets._dataset import Dataset
from relgrounding.features import Regions, write_region_features
from relgrounding.io._errors import BadAnnotation

__all__ = ["annotated_boxes", "write_annotated_boxes"]


def annotated_boxes(dataset: Dataset, splits: Sequence[str] = ()) -> Iterator[tuple[str, Regions]]:
    """Yield the annotated boxes of each image that a query asks about, as regions whose features have no numbers.

    These are all objects that the annotations of an image hold; where a data set knows only those that its queries
    refer to, each of them once.

    Args:
        dataset: of images.
        splits: to read; empty: all that were published.

    Raises:
        DataError: annotations that cannot be used, queries about videos, or an image of unstated size.
    """
    published = dataset.sizes()
    splits = splits or tuple(published.queries if published else ("train", *dataset.config.test_splits))
    boxes: dict[str, Any] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for split in splits:
        annotations = dataset.read(split)
        if annotations.durations:
            raise BadAnnotation(f"{dataset.name} asks about videos; boxes are those of images")
        sizes.update(annotations.sizes)
        for query in annotations.queries:
            if annotations.boxes is None:
                boxes.setdefault(query.item, {}).update(dict.fromkeys(query.targets))
            else:
                boxes[query.item] = annotations.boxes[query.item]
    for image, rows in boxes.items():
        if not len(rows):
            continue
        if image not in sizes:
            raise BadAnnotation(f"the annotations of {dataset.name} do not state the size of image {image!r}")
        yield image, Regions(np.zeros((len(rows), 0), np.float16), np.array(list(rows), np.float32), sizes[image])


def write_annotated_boxes(out: Path, dataset: Dataset, splits: Sequence[str] = ()) -> str:
    """Write `annotated_boxes` as a file that `extract images --boxes` reads, and return a line about it."""
    items = list(annotated_boxes(dataset, splits))
    attributes = {"description": f"annotated boxes of {dataset.name}, without features"}
    write_region_features(out, items, attributes)
    return f"{out}: {sum(len(regions.boxes) for _, regions in items):,} boxes of {len(items):,} images"
