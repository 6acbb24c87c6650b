"""Images: the candidates are given boxes, the edges have one of eleven spatial relations."""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._printing import brief
from relgrounding._settings import ConfigError, number
from relgrounding.datasets import Annotations, Query, columns
from relgrounding.evaluation import ImageEvaluator, image_floors, image_oracle
from relgrounding.evaluation._image import READINGS
from relgrounding.features import ClipFeatures, RegionFeatures, Regions, Vocabulary, attribute_words, open_features
from relgrounding.features.convert import detect_format
from relgrounding.graphs import GraphStructure, spatial_structure
from relgrounding.io._values import LARGEST
from relgrounding.modalities._batches import Batch, Texts
from relgrounding.modalities._inputs import Stores, as_array, checked, load_array, of_many
from relgrounding.modalities._modality import TOP, Modality, Scored, register_modality

Edges = Literal["all", "same_category", "none"]
"""Edges of a spatial graph: all, those between regions of one category, or none."""
PIXELS = 1
"""Tolerance for rounded sides; resized pictures differ by more."""


@dataclasses.dataclass
class ImageData:
    """Columns of a region's feature."""

    category_columns: int = number(0, least=0, most=100_000)
    """Number of leading columns of a region's feature that hold one score per category; a region's category is the one
    with the highest score. 0: categories are not known."""
    geometry_columns: int = number(0, least=0, most=100_000)
    """Number of trailing columns of a region's feature that are coordinates or sizes, and join those of its box."""


@dataclasses.dataclass
class ImageBatch(Batch):
    """Pairs of an image and a sentence.

    Attributes:
        regions: (nodes, dim) features, without their columns of geometry.
        places: (nodes, geometry + 4) the columns of geometry of each feature, none unless said otherwise, then x, y,
            width and height of the box as shares of the image.
        boxes: (nodes, 4) the same boxes as x1, y1, x2, y2 in pixels.
        categories: (nodes,) number of each region's category from 0; -1 where categories are not known.
        attributes: (items, attributes) 1 where the sentence holds an attribute word, else 0; no columns unless asked
            for.
    """

    regions: Float[Tensor, "nodes dim"]
    places: Float[Tensor, "nodes geometry_plus_4"]
    boxes: Float[Tensor, "nodes 4"]
    categories: Int[Tensor, " nodes"]
    attributes: Float[Tensor, "items attributes"]


@runtime_checkable
class RegionStore(Protocol):
    """Regions by image id; `relgrounding.features.RegionFeatures` is one."""

    @property
    def dim(self) -> int:
        """Width of a feature."""

    def __getitem__(self, item: str) -> Regions:
        """Return the regions of an image."""


def region_categories(features: np.ndarray, columns: int) -> Int[np.ndarray, " regions"]:
    """Return the category of each region: the column with the highest score, the first one of several; -1 if none.

    Args:
        features: (regions, dim).
        columns: number of categories, whose scores are the first columns.
    """
    return features[:, :columns].argmax(1) if columns else np.full(len(features), -1)


def within_categories(structure: GraphStructure, categories: Int[Tensor, " nodes"]) -> GraphStructure:
    """Return the graphs with only those edges whose two ends have one category."""
    return structure.keep_edges(categories[structure.sources] == categories[structure.destinations])


class ImageCollator:
    """Make batches of image-sentence pairs.

    Args:
        queries: of a split.
        store: regions by image id.
        vocabulary: maps words to ids.
        max_words: longer sentences are truncated.
        category_columns: number of categories, see `region_categories`.
        geometry_columns: number of trailing columns of a feature that become part of `ImageBatch.places`.
        edges: of the graphs: "all", "same_category" or "none".
        attributes: maximum number of attribute words, see `relgrounding.features.attribute_words`.

    Raises:
        ConfigError: features have fewer columns than categories and geometry take, or edges within unknown categories.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        store: RegionStore,
        vocabulary: Vocabulary,
        max_words: int = 20,
        category_columns: int = 0,
        geometry_columns: int = 0,
        edges: Edges = "all",
        attributes: int = 0,
    ) -> None:
        if edges not in get_args(Edges):
            raise ValueError(f"edges is {edges!r}; it is one of {', '.join(get_args(Edges))}")
        if edges == "same_category" and not category_columns:
            raise ConfigError("edges between regions of the same category need data.category_columns, which is 0")
        columns = {"category_columns": category_columns, "geometry_columns": geometry_columns}
        if sum(columns.values()) > store.dim:
            taken = " and ".join(f"data.{name} is {count}" for name, count in columns.items() if count)
            raise ConfigError(f"{taken}, but features have {store.dim} columns")
        self.queries, self.store = queries, store
        self.category_columns, self.geometry_columns, self.edges = category_columns, geometry_columns, edges
        self._texts = Texts(queries, vocabulary, max_words)
        self.group = self._texts.group
        named = " ".join(attribute_words(vocabulary.to_list(), attributes))
        self._attributes = torch.tensor(vocabulary.encode(named) if named else [], dtype=torch.int64)

    def __call__(self, indices: Sequence[int]) -> ImageBatch:
        """Return the batch of the queries with these indices."""
        queries = [self.queries[i] for i in indices]
        images = [self.store[query.item] for query in queries]
        boxes = [torch.from_numpy(np.asarray(image.boxes, dtype=np.float32)) for image in images]
        sizes = torch.tensor([tuple(image.size) for image in images], dtype=torch.float32)
        structure = spatial_structure(boxes, sizes, edges=self.edges != "none")
        flat = torch.cat(boxes)
        scale = sizes[structure.node_item]
        corner, extent = flat[:, :2] / scale, (flat[:, 2:] - flat[:, :2]) / scale
        features = np.concatenate([np.asarray(image.features, dtype=np.float32) for image in images])
        regions, geometry = torch.from_numpy(features).tensor_split([features.shape[1] - self.geometry_columns], 1)
        categories = torch.from_numpy(region_categories(features, self.category_columns))
        texts = self._texts.batch(queries, indices)
        return ImageBatch(
            structure=within_categories(structure, categories) if self.edges == "same_category" else structure,
            regions=regions.contiguous(),
            places=torch.cat([geometry, corner, extent], -1),
            boxes=flat,
            categories=categories,
            attributes=(texts["words"].unsqueeze(-1) == self._attributes).any(1).float(),
            **texts,
        )


def _beyond(corner: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a point lies beyond the lower right corner of an image, by more than rounding explains."""
    return any(place > limit + PIXELS for place, limit in zip(corner, size, strict=True))


@register_modality("image")
class Image(Modality):
    """Regions (x1, y1, x2, y2) of images, in pixels."""

    item, answer, layout = "image", "region", "regions"
    metric = "Acc@0.5"
    DataConfig = ImageData
    remedy = (
        "extract the features from images of the annotated size, or give boxes and sizes in pixels of the same image"
    )

    def open_store(self, path: Path, in_memory: bool = True) -> RegionFeatures:
        return open_features(path, "regions", in_memory)

    def is_own(self, path: Path) -> bool:
        return "offsets" in ClipFeatures(path).ids

    def collator(
        self, queries: Sequence[Query], store: Any, vocabulary: Vocabulary, data: Any, **graph: Any
    ) -> ImageCollator:
        columns = data.category_columns, data.geometry_columns
        return ImageCollator(queries, store, vocabulary, data.max_words, *columns, **graph)

    def candidates(self, batch: Batch, seconds: Sequence[float]) -> tuple[list[Tensor], list[Tensor]]:
        assert isinstance(batch, ImageBatch)  # narrows the type for mypy
        boxes = list(batch.boxes.split(batch.structure.batch_num_nodes.tolist()))
        return boxes, boxes

    def categories(self, queries: Sequence[Query], store: Any, data: Any) -> Int[Tensor, " queries"]:
        items, item = columns(queries).items()
        regions = (region_categories(np.asarray(store[name].features), data.category_columns) for name in items)
        found = [int(np.bincount(categories + 1).argmax()) - 1 for categories in regions]
        return torch.tensor(found, dtype=torch.int64)[torch.from_numpy(item).long()]

    def counter(self, store: Any) -> Callable[[str], int] | None:
        return store.count if isinstance(store, RegionFeatures) else None

    def select(self, scored: Scored, variant: str, settings: Any) -> list[list[int]]:
        return [s.topk(min(TOP, len(s))).indices.tolist() for s in scored.scores]

    def protocols(self, names: Sequence[str] | None, dataset: str, settings: Any) -> dict[str, str]:
        return {reading: reading for reading in names or ["any"]}

    def main_protocol(self, protocols: Sequence[str], settings: Any) -> str:
        return next((name for name in READINGS if name in protocols), protocols[0])

    def frame(self, item: str, durations: Mapping[str, float], store: Any) -> dict[str, Any]:
        return {"size": tuple(store.size(item) if hasattr(store, "size") else store[item].size)}

    def metrics(
        self, chosen: Sequence[Any], targets: Sequence[Any], variant: str, kinds: Sequence[str] | None
    ) -> dict[str, float]:
        return ImageEvaluator(variant)([answers[0] for answers in chosen], targets, kinds)

    def metric_names(self, variant: str) -> Sequence[str]:
        return (ImageEvaluator(variant).metric_name,)

    def floors(
        self, scored: Scored, queries: Sequence[Query], seconds: Sequence[float], variant: str, fitted: Any, kinds: Any
    ) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        boxes, targets = [p.numpy() for p in scored.proposals], [q.targets for q in queries]
        evaluator = ImageEvaluator(variant)
        return image_floors(evaluator, boxes, targets, kinds), image_oracle(evaluator, boxes, targets, kinds)

    def comparable(self, item: str, annotations: Annotations, store: Any) -> bool:
        return isinstance(store, RegionFeatures) and item in annotations.sizes

    def disagreement(self, item: str, annotations: Annotations, store: Any) -> str:
        if not self.comparable(item, annotations, store):
            return ""
        (width, height), (w, h) = annotations.sizes[item], store.size(item)
        if max(abs(w - width), abs(h - height)) <= PIXELS:
            return ""
        return f"{item!r} is {w} x {h} pixels in the features and {width} x {height} in the annotations"

    def outside(self, annotations: Annotations, items: Collection[str], store: Any) -> Iterator[tuple[int, str]]:
        reach = annotations.reach if isinstance(store, RegionFeatures) else None
        # Queries may be millions, in a file: only those about an image with a box that reaches too far are read.
        far = {item for item in items if item in reach and _beyond(reach[item], store.size(item))} if reach else set()
        if not far:
            return
        names, item = columns(annotations.queries).items()
        for row in np.flatnonzero(np.array([name in far for name in names])[item]).tolist():
            query = annotations.queries[row]
            width, height = store.size(query.item)
            if wrong := [box for box in query.targets if _beyond(box[2:], (width, height))]:
                size = f"{width} x {height} pixels in {store.path}"
                what = f"{list(wrong[0])} lies outside of {query.item!r}, which is {size}"
                yield row, f"query {query.id!r}: {what}; is it in pixels of that image?"

    def read_item(
        self, features: object, item: str | None, stores: Stores, dim: int, **facts: object
    ) -> tuple[Regions, dict[str, float]]:
        boxes, image_size = facts.get("boxes"), facts.get("image_size")
        if isinstance(features, Regions):
            features, boxes, image_size = features
        if isinstance(features, (str, os.PathLike)):
            path = Path(features)
            if of_many(path) or (boxes is None and path.is_file() and detect_format(path) == "npz"):
                found = stores.read(path, item if of_many(path) else None)
                assert isinstance(found, Regions)
                return Regions(checked(found.features, dim, str(path), "regions"), found.boxes, found.size), {}
            features = load_array(path)
        if boxes is None or image_size is None:
            raise ValueError(
                "an image's features need its boxes=(regions, 4) in pixels and its image_size=(width, height)"
            )
        content = checked(as_array(features, "the features"), dim, "the features", "regions")
        corners, wanted = as_array(boxes, "boxes"), (len(content), 4)
        if corners.shape != wanted or corners.dtype.kind not in "fiu":
            has = f"{corners.shape}, {corners.dtype}"
            raise ValueError(f"boxes have shape {has}; {len(content)} regions need numbers {wanted}")
        size = as_array(image_size, "image_size").ravel()
        if len(size) != 2 or size.dtype.kind not in "fiu" or not ((size >= 1) & (size <= LARGEST)).all():
            raise ValueError(f"image_size is {brief(image_size)}; give (width, height) in pixels, 1 to {LARGEST}")
        return Regions(content, corners.astype(np.float32), (int(size[0]), int(size[1]))), {}
