"""Temporal graphs: segments that overlap enough are joined, in both directions."""

from functools import partial

import torch
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs._inputs import ArrayLike, Rows, read_segments
from relgrounding.graphs._pairs import Pairs, evaluate, graph_of_pairs, structure_of_pairs
from relgrounding.graphs._structure import GraphStructure

EDGE_TYPES = ("overlaps",)


def _overlaps(source: Tensor, destination: Tensor, rounding: Tensor, iou_threshold: float) -> Tensor:
    (start_a, end_a), (start_b, end_b) = source.unbind(0), destination.unbind(0)
    # shared / (length_a + length_b - shared) > threshold, without a quotient.
    share = iou_threshold / (1 + iou_threshold)
    least = ((end_a - start_a) * share + rounding) + (end_b - start_b) * share
    return (torch.minimum(end_a, end_b) - torch.maximum(start_a, start_b) > least).byte()


def _read(segments: ArrayLike, iou_threshold: float) -> Rows:
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold: {iou_threshold} is not an IoU; give a number from 0 to 1")
    return read_segments(segments)


def _numbers(rows: Rows, iou_threshold: float, self_loops: bool) -> list[Pairs]:
    """1 at every pair that is joined."""
    # More than rounding makes of an equality, and less than the gap between integers, or decimals of a few digits.
    latest = torch.segment_reduce(rows.values.abs().amax(1), "max", lengths=rows.counts, initial=0.0)
    function = partial(_overlaps, iou_threshold=iou_threshold)
    return evaluate(function, rows.counts, rows.values.t().contiguous(), latest * 2.0**-47, diagonal=int(self_loops))


def temporal_structure(segments: ArrayLike, iou_threshold: float = 0.3, self_loops: bool = True) -> GraphStructure:
    """The graph of `temporal_graph` as tensors, on the device of the segments.

    >>> temporal_structure([[0, 10], [5, 12], [11, 20]]).indices.tolist()
    [0, 1, 0, 1, 2]
    """
    # Videos share their candidates: each distinct set of them is built once.
    rows, numbers = _read(segments, iou_threshold).distinct()
    structure = structure_of_pairs(_numbers(rows, iou_threshold, self_loops), rows.counts, EDGE_TYPES)
    return structure if len(numbers) == len(rows.counts) else structure.select(numbers)


def temporal_graph(segments: ArrayLike, iou_threshold: float = 0.3, self_loops: bool = True) -> dgl.DGLGraph:
    """Graph of segments: ``i -> j`` and ``j -> i`` where ``temporal IoU(i, j) > iou_threshold``.

    Args:
        segments: (T, 2) start, end in any one unit, start < end; or a list of those, or (B, T, 2).
        iou_threshold: 0 to 1; an IoU equal to it joins nothing. Exact for integers and for decimals of a few digits.
        self_loops: whether every node has an edge to itself, whatever the threshold.

    Returns:
        Graph with node type ``proposal`` and edge type ``overlaps``; batched for a list, `dgl.unbatch` gives the items.

    Raises:
        ValueError: a segment that is not finite or has end <= start (named by its row), another shape, an empty list.

    >>> temporal_graph([[0, 10], [5, 12], [11, 20]]).num_edges()
    5
    """
    rows = _read(segments, iou_threshold)
    return graph_of_pairs(_numbers(rows, iou_threshold, self_loops), rows.counts, EDGE_TYPES)
