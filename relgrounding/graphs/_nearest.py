"""Nearest graphs: every region receives from the k regions whose centres are nearest, with their offsets."""

import operator
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs._inputs import (
    ArrayLike,
    Rows,
    check_positions,
    read_boxes,
    read_image_sizes,
    read_integers,
)
from relgrounding.graphs._pairs import Pairs, evaluate, structure_of_pairs
from relgrounding.graphs._structure import GraphStructure

EDGE_TYPES = ("nearest",)
AMONG = ("any", "same", "different", "different_first")


def check_count(name: str, value: int) -> int:
    """A number of neighbours."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
        raise ValueError(f"{name}: {value!r} neighbours; give an integer of at least 1")
    return operator.index(value)


def nearest_pairs(
    pairs: list[Pairs],
    centres: Float64[Tensor, "nodes dims"],
    k: int,
    rounding: Float64[Tensor, " items"],
    by_number: bool = False,
) -> list[Pairs]:
    """Of each destination's pairs, those with the k nearest centres; of equally near ones, those with lower indices.

    Args:
        pairs: the pairs that are considered are those whose number is not 0.
        centres: (N, dims) in any one unit.
        k: at least 1.
        rounding: (B,) distances that differ by no more than this are equal.
        by_number: whether all sources of a lower pair number come before those of a higher one.
    """
    result = []
    for group in pairs:
        places = centres[group.nodes]
        distance = torch.linalg.vector_norm(places[:, :, None] - places[:, None], dim=-1)
        distance.masked_fill_(group.number == 0, torch.inf)
        ascending, order = distance.sort(dim=-1)
        farther = ascending.diff(dim=-1) > rounding[group.items, None, None]
        rank = torch.zeros_like(order).scatter_(-1, order[..., 1:], farther.cumsum(-1))
        if by_number:
            rank += group.number * rank.shape[-1]
        # Pairs that are not considered come last, whatever their number.
        rank.masked_fill_(group.number == 0, torch.iinfo(rank.dtype).max)
        first = rank.argsort(dim=-1, stable=True)[..., :k]
        kept = torch.zeros_like(group.number).scatter_(-1, first, 1)
        result.append(replace(group, number=group.number * kept))
    return result


def _category_pairs(j: Tensor, i: Tensor, _: Tensor, among: str) -> Tensor:
    """1 where region j may be a neighbour of region i, 2 where it may be if there are too few of those, else 0."""
    same = (j[0] == i[0]).byte()
    return {"any": same * 0 + 1, "same": same, "different": 1 - same, "different_first": 1 + same}[among]


def _read_categories(categories: ArrayLike | None, among: str, rows: Rows) -> Int64[Tensor, " rows"]:
    """The category of every row, 0 for all where they do not matter."""
    if among not in AMONG:
        raise ValueError(f"among: {among!r} is unknown; give one of {', '.join(map(repr, AMONG))}")
    if among == "any":
        return torch.zeros(len(rows.values), dtype=torch.int64, device=rows.values.device)
    if categories is None:
        raise ValueError(f"categories: among={among!r} compares them; give one whole number per box, or among='any'")
    items = [categories] if rows.single else list(categories)
    parts = [read_integers(item, "categories") for item in items]
    counts, given = rows.counts.tolist(), [len(part) for part in parts]
    if counts != given:
        raise ValueError(f"categories: {given} of them for {counts} boxes (per item); give one per box")
    return torch.cat(parts).to(rows.values.device)


def _numbers(
    boxes: ArrayLike,
    k: int,
    categories: ArrayLike | None,
    among: str,
    image_size: ArrayLike | None,
    box_format: str,
) -> tuple[list[Pairs], Rows]:
    """1 at every pair that is joined, and the boxes."""
    rows = read_boxes(boxes, box_format)
    if image_size is not None:
        check_positions(rows, read_image_sizes(image_size, rows))
    category = _read_categories(categories, among, rows)
    rounding = 2 * rows.tolerance()
    pairs = evaluate(partial(_category_pairs, among=among), rows.counts, category[None], rounding)
    # Twice the centres, which may lie between pixels.
    centres = rows.values[:, :2] + rows.values[:, 2:]
    nearest = nearest_pairs(pairs, centres, check_count("k", k), rounding, by_number=True)
    for group in nearest:
        group.number.clamp_(max=1)
    return nearest, rows


def _offsets(structure: GraphStructure, rows: Rows) -> Float[Tensor, "edges 5"]:
    """Place and size of each edge's source, in units of its destination."""
    source, destination = rows.values[structure.sources], rows.values[structure.destinations]
    centre = (destination[:, :2] + destination[:, 2:]) / 2
    size = destination[:, 2:] - destination[:, :2]
    area = (source[:, 2:] - source[:, :2]).prod(1, keepdim=True) / size.prod(1, keepdim=True)
    corners = (source - centre.repeat(1, 2)) / size.repeat(1, 2)
    return torch.cat((corners, area), dim=1).to(torch.get_default_dtype())


def nearest_structure(
    boxes: ArrayLike,
    k: int = 5,
    categories: ArrayLike | None = None,
    among: str = "any",
    image_size: ArrayLike | None = None,
    box_format: str = "xyxy",
) -> tuple[GraphStructure, Float[Tensor, "edges 5"]]:
    """The graph of `nearest_graph` as tensors, on the device of the boxes, and the offset of each of its edges.

    >>> structure, offset = nearest_structure([[0, 0, 4, 4], [4, 0, 8, 4], [20, 0, 28, 4]], k=1)
    >>> structure.indices.tolist(), offset[0].tolist()
    ([1, 0, 1], [0.5, -0.5, 1.5, 0.5, 1.0])
    """
    pairs, rows = _numbers(boxes, k, categories, among, image_size, box_format)
    structure = structure_of_pairs(pairs, rows.counts, EDGE_TYPES)
    return structure, _offsets(structure, rows)


def nearest_graph(
    boxes: ArrayLike,
    k: int = 5,
    categories: ArrayLike | None = None,
    among: str = "any",
    image_size: ArrayLike | None = None,
    box_format: str = "xyxy",
) -> dgl.DGLGraph:
    """Graph of boxes: ``j -> i`` from the k other boxes j whose centres are nearest to that of box i.

    Args:
        boxes: (T, 4) in pixels; or a list of those, or (B, T, 4).
        k: neighbours per box, at least 1; a box has fewer in-edges where there are fewer other boxes. Of equally
            distant boxes, the lower number comes first: exact for integers, and for decimals of a few digits; of
            decimals in float32, distances are equal that differ by less than two millionths of the largest coordinate.
        categories: (T,) a whole number per box; or a list of those. Equal numbers are one category.
        among: which boxes are neighbours: ``any``, those of the ``same`` category, of a ``different`` one, or
            ``different_first``: those of another category, and the same category's after all of them.
        image_size: (width, height) in pixels, one for all items or one per item, to check the boxes against.
        box_format: ``xyxy`` (corners), ``xywh`` (first corner, size) or ``cxcywh`` (centre, size).

    Returns:
        Graph with node type ``proposal``, edge type ``nearest`` and edge data ``offset`` (E, 5): source j seen from
        destination i, whose centre is (cx, cy) and size (w_i, h_i): ``(x1_j - cx) / w_i, (y1_j - cy) / h_i,
        (x2_j - cx) / w_i, (y2_j - cy) / h_i, w_j h_j / (w_i h_i)``. Batched for a list, `dgl.unbatch` gives the items.

    Raises:
        ValueError: a box that is not finite, has no area or lies wholly outside of its image (named by its row),
            categories that are missing or not one per box, another shape, an empty list.

    Paper: Liu et al., Adaptive Reconstruction Network for Weakly Supervised Referring Expression Grounding, ICCV 2019.

    >>> graph = nearest_graph([[0, 0, 4, 4], [4, 0, 8, 4], [20, 0, 28, 4]], k=1, categories=[7, 2, 7], among="same")
    >>> [ends.tolist() for ends in graph.edges()]
    [[2, 0], [0, 2]]
    """
    pairs, rows = _numbers(boxes, k, categories, among, image_size, box_format)
    structure = structure_of_pairs(pairs, rows.counts, EDGE_TYPES)
    graph = structure.to_dgl()
    graph.edata["offset"] = _offsets(structure, rows).to(graph.device)
    return graph
