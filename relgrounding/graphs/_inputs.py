"""Reads boxes, segments, image sizes and edges: NumPy, PyTorch or lists, checked."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

ArrayLike = Tensor | np.ndarray | Sequence

# What turns a row of each format into x1, y1, x2, y2: exact for integers.
BOX_FORMATS = ("xyxy", "xywh", "cxcywh")
LARGEST = 2.0**500
"""Largest coordinate and, inverted, smallest side: squares and areas of such are finite, and not zero."""
DOUBLE, SINGLE = 2.0**-47, 2.0**-20
"""Shares of the largest coordinate: more than the rounding of float64, and of float32, makes of an equality, and less
than integers or decimals of a few digits differ by."""
SMALLEST = 2
"""Pixels: in an image with longer sides, boxes that all end within 1 are fractions of it."""


@dataclass(frozen=True)
class Rows:
    """The rows of all items, one after another.

    Args:
        values: (N, columns).
        counts: (B,) rows of each item.
        single: whether one item was given, not a list.
        given: the number that each item had among those given; None: its own.
        rounding: `SINGLE` if numbers that are no integers were given in float32, else `DOUBLE`.
    """

    values: Float64[Tensor, "rows columns"]
    counts: Int64[Tensor, " items"]
    single: bool
    given: Sequence[int] | None = None
    rounding: float = DOUBLE

    def tolerance(self) -> Float64[Tensor, " items"]:
        """What coordinates of an item may differ by and be the same."""
        largest = torch.segment_reduce(self.values.abs().amax(1), "max", lengths=self.counts, initial=0.0)
        return largest * self.rounding

    def distinct(self) -> tuple["Rows", Int64[Tensor, " items"]]:
        """The items without copies of earlier ones, and for each item its index among them."""
        parts = self.values.cpu().split(self.counts.tolist())
        first: dict[bytes, int] = {}
        first_of_item = [first.setdefault(part.numpy().tobytes(), item) for item, part in enumerate(parts)]
        if len(first) == len(parts):
            return self, torch.arange(len(parts), device=self.counts.device)
        firsts = list(first.values())
        values = torch.cat([parts[item] for item in firsts]).to(self.values.device)
        number = {item: number for number, item in enumerate(firsts)}
        number_of_item = torch.tensor([number[item] for item in first_of_item], device=self.counts.device)
        return replace(self, values=values, counts=self.counts[firsts], given=firsts), number_of_item


def _tensor(values: ArrayLike) -> Tensor:
    """In float64, where integers up to 2^53 are exact; NumPy arrays are copied, as they may be read-only."""
    if isinstance(values, Tensor):
        return values.detach().to(torch.float64)
    return torch.from_numpy(np.array(values, dtype=np.float64))


def read_rows(values: ArrayLike, name: str, columns: int) -> Rows:
    """One (T, columns) item, a (B, T, columns) batch, or a list of items.

    Raises:
        ValueError: another shape, or an empty list.
    """
    parts = values if isinstance(values, (list, tuple)) else (values,)
    # The type's name is the same in NumPy and PyTorch.
    short = any("float32" in str(getattr(part, "dtype", "")) for part in parts)
    if isinstance(values, (list, tuple)):
        # Tensors of one type are converted in one step, once they are joined.
        kinds = {item.dtype if isinstance(item, Tensor) else None for item in values}
        items = list(values) if len(kinds) == 1 and None not in kinds else [_tensor(item) for item in values]
        if items and all(item.ndim == 1 for item in items):
            rows = read_rows(_stacked(items, name, columns), name, columns)
            return replace(rows, rounding=_rounding(rows.values, short))
        single = False
    else:
        whole = _tensor(values)
        items = list(whole) if whole.ndim == 3 else [whole]
        single = whole.ndim != 3
    if not items:
        raise ValueError(
            f"{name}: the list is empty; give at least one item, of shape (0, {columns}) if it has no rows"
        )
    for position, item in enumerate(items):
        if item.ndim != 2 or item.shape[1] != columns:
            raise ValueError(
                f"{name}{_where(position, single)}: shape {tuple(item.shape)}; give (rows, {columns}), a batch of them "
                f"or a list, and (0, {columns}) for an item without rows"
            )
    flat = _tensor(items[0] if len(items) == 1 else torch.cat(items))
    counts = torch.tensor([len(item) for item in items], device=flat.device)
    return Rows(flat, counts, single, rounding=_rounding(flat, short))


def _rounding(values: Tensor, short: bool) -> float:
    """Integers are exact in float32, too."""
    return SINGLE if short and bool((values != values.round()).any()) else DOUBLE


def _stacked(items: list[Tensor], name: str, columns: int) -> Tensor:
    for row, item in enumerate(items):
        if len(item) != columns:
            raise ValueError(f"{name}, row {row}: {len(item)} numbers; a row has {columns}")
    return torch.stack(items)


def _where(item: int, single: bool) -> str:
    return "" if single else f", item {item}"


def check_rows(rows: Rows, name: str, invalid: Tensor, reason: str) -> None:
    """Raise a `ValueError` that names the first invalid row, counted within its item."""
    positions = invalid.nonzero()
    if len(positions) == 0:
        return
    position = int(positions[0])
    ends = rows.counts.cumsum(0)
    item = int((ends <= position).sum())
    row = position - int(ends[item] - rows.counts[item])
    item = item if rows.given is None else rows.given[item]
    raise ValueError(f"{name}{_where(item, rows.single)}, row {row}: {rows.values[position].tolist()} {reason}")


def _check_size(rows: Rows, name: str, what: str) -> None:
    """Raise a `ValueError` for a row with a number that is not finite, or that nothing can be computed with."""
    if not len(rows.values) or rows.values.abs().max() <= LARGEST:
        return
    check_rows(rows, name, ~rows.values.isfinite().all(1), f"is not finite; remove the {what} or correct it")
    large = (rows.values.abs() > LARGEST).any(1)
    check_rows(rows, name, large, f"is beyond {LARGEST:.1g}; remove the {what} or give it in a larger unit")


def read_segments(segments: ArrayLike, name: str = "segments") -> Rows:
    """Segments (start, end) with start < end."""
    rows = read_rows(segments, name, 2)
    _check_size(rows, name, "segment")
    start, end = rows.values.unbind(1)
    check_rows(rows, name, end <= start, "has end <= start; remove the segment or correct it")
    return rows


def read_boxes(boxes: ArrayLike, box_format: str, name: str = "boxes") -> Rows:
    """Boxes as x1, y1, x2, y2 with x1 < x2 and y1 < y2."""
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format {box_format!r} is unknown; give one of {', '.join(map(repr, BOX_FORMATS))}")
    rows = read_rows(boxes, name, 4)
    _check_size(rows, name, "box")
    # Sizes are checked as given: adding a corner to a tiny one could round it away.
    first, second = rows.values[:, :2], rows.values[:, 2:]
    sizes = second - first if box_format == "xyxy" else second
    other = ", or give box_format='xywh' if it is x, y, width, height" if box_format == "xyxy" else ""
    flat = (sizes < 1 / LARGEST).any(1)
    check_rows(rows, name, flat, f"({box_format}) has no area; remove the box or correct it{other}")
    if box_format == "xyxy":
        return rows
    corner = first if box_format == "xywh" else first - second / 2
    return replace(rows, values=torch.cat((corner, corner + second), dim=1))


def read_image_sizes(image_size: ArrayLike, rows: Rows) -> Float64[Tensor, "items 2"]:
    """(width, height) of each item; one pair applies to all of them.

    Raises:
        ValueError: another shape, or a size that is not positive and finite.
    """
    sizes = torch.stack([_tensor(size) for size in image_size]) if _holds_arrays(image_size) else _tensor(image_size)
    items = len(rows.counts)
    if sizes.shape != (2,) and (rows.single or sizes.shape != (items, 2)):
        expected = "(2,)" if rows.single else f"(2,) or ({items}, 2)"
        raise ValueError(
            f"image_size: shape {tuple(sizes.shape)}; give (width, height) as {expected} for {items} item(s) of boxes"
        )
    wrong = ~(sizes.isfinite() & (sizes > 0)).view(-1, 2).all(1)
    if wrong.any():
        item = int(wrong.nonzero()[0])
        where, size = _where(item, sizes.ndim == 1), sizes.view(-1, 2)[item].tolist()
        raise ValueError(f"image_size{where}: {size} is not a positive, finite width and height in pixels; correct it")
    return sizes.to(rows.values.device).expand(items, 2)


def check_positions(rows: Rows, sizes: Float64[Tensor, "items 2"], name: str = "boxes") -> None:
    """Check boxes as x1, y1, x2, y2 against their images; they may extend beyond the edges.

    Raises:
        ValueError: a box that does not intersect its image.
    """
    first, second = rows.values[:, :2], rows.values[:, 2:]
    if not len(first):
        return
    size = sizes[0] if rows.single else torch.repeat_interleave(sizes, rows.counts, dim=0)
    within = torch.minimum(second, size - first)
    if not within.min() > 0:
        reason = "lies wholly outside of its image; remove the box, or give the size of the image that it is of"
        check_rows(rows, name, (within <= 0).any(1), reason)
    # An image of one box has no relations, and that box may be a pixel.
    if len(first) > len(rows.counts) and second.max() <= 1 and (sizes.min() > SMALLEST or sizes.max() <= 1):
        width, height = sizes[0].tolist()
        warnings.warn(
            f"{name}: all coordinates lie within 1 in an image of {width:g} x {height:g}; distances and angles are "
            "those of pixels: multiply boxes that are shares of an image by its width and height",
            stacklevel=4,
        )


def _holds_arrays(values: ArrayLike) -> bool:
    return (
        isinstance(values, (list, tuple)) and len(values) > 0 and all(isinstance(v, Tensor) and v.ndim for v in values)
    )


def read_integers(values: ArrayLike, name: str) -> Int64[Tensor, " values"]:
    """A list of whole numbers.

    Raises:
        ValueError: another type or shape.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if tensor.ndim == 1 and not len(tensor):
        return tensor.long()
    if tensor.ndim != 1 or tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{name}: {tensor.dtype} of shape {tuple(tensor.shape)}; give a list of whole numbers")
    return tensor.long()


def check_edges(
    sources: Tensor, destinations: Tensor, etype: Tensor, edge_types: tuple[str, ...], batch_num_nodes: Tensor
) -> None:
    """Raise the ValueError of `GraphStructure.from_edges` that names what is wrong."""
    if len(set(edge_types)) != len(edge_types):
        raise ValueError(f"edge_types: {edge_types} holds a name twice; give each type its own name")
    if (batch_num_nodes < 0).any():
        raise ValueError(f"batch_num_nodes: {batch_num_nodes.tolist()} holds a negative number of nodes")
    if not len(sources) == len(destinations) == len(etype):
        raise ValueError(
            f"edges: {len(sources)} sources, {len(destinations)} destinations, {len(etype)} types; "
            "give one of each per edge"
        )
    node_item = torch.repeat_interleave(batch_num_nodes)
    ranges = (("source", sources, len(node_item)), ("destination", destinations, len(node_item)))
    for name, values, limit in (*ranges, ("type", etype, len(edge_types))):
        wrong = ((values < 0) | (values >= limit)).nonzero()
        if len(wrong):
            edge = int(wrong[0])
            raise ValueError(
                f"edge {edge}: {name} {int(values[edge])} does not exist; there are {limit}, counted from 0"
            )
    crossing = (node_item[sources] != node_item[destinations]).nonzero()
    if len(crossing):
        edge = int(crossing[0])
        source, destination = int(sources[edge]), int(destinations[edge])
        raise ValueError(
            f"edge {edge}: {source} -> {destination} joins item {int(node_item[source])} to item "
            f"{int(node_item[destination])}; an edge stays inside its item: check batch_num_nodes and the node numbers"
        )
