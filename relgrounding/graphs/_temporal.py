"""Temporal graphs: segments that overlap enough are joined, in both directions."""

from functools import partial

from jaxtyping import UInt8
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs._inputs import ArrayLike, read_segments
from relgrounding.graphs._iou import segment_iou
from relgrounding.graphs._pairs import Pairs, graph_of_pairs, structure_of_pairs
from relgrounding.graphs._relations import TEMPORAL_EDGE_TYPES
from relgrounding.graphs._structure import GraphStructure


def _overlaps(source: Tensor, destination: Tensor, item: Tensor, iou_threshold: float) -> Tensor:
    # A correctly rounded quotient lies on the same side of a threshold written in decimals as the exact one.
    return (segment_iou(*source.unbind(0), *destination.unbind(0)) > iou_threshold).byte()


def _numbers(segments: ArrayLike, iou_threshold: float, self_loops: bool) -> tuple[Pairs, UInt8[Tensor, " pairs"]]:
    """1 at every pair that is joined."""
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold: {iou_threshold} is not an IoU; give a number from 0 to 1")
    rows = read_segments(segments)
    pairs = Pairs(rows.counts)
    function = partial(_overlaps, iou_threshold=iou_threshold)
    number = pairs.evaluate(function, rows.values.t().contiguous(), rows.counts, diagonal=int(self_loops))
    return pairs, number


def temporal_structure(segments: ArrayLike, iou_threshold: float = 0.3, self_loops: bool = True) -> GraphStructure:
    """The graph of `temporal_graph` as tensors, on the device of the segments.

    >>> temporal_structure([[0, 10], [5, 12], [11, 20]]).indices.tolist()
    [0, 1, 0, 1, 2]
    """
    return structure_of_pairs(*_numbers(segments, iou_threshold, self_loops), TEMPORAL_EDGE_TYPES)


def temporal_graph(segments: ArrayLike, iou_threshold: float = 0.3, self_loops: bool = True) -> dgl.DGLGraph:
    """Graph of segments: ``i -> j`` and ``j -> i`` where ``temporal IoU(i, j) > iou_threshold``.

    Args:
        segments: (T, 2) start, end in any one unit, start < end; or a list of those, or (B, T, 2).
        iou_threshold: 0 to 1; an IoU equal to it joins nothing. Exact for integer segments.
        self_loops: whether every node has an edge to itself, whatever the threshold.

    Returns:
        Graph with node type ``proposal`` and edge type ``overlaps``; batched for a list, `dgl.unbatch` gives the items.

    Raises:
        ValueError: a segment that is not finite or has end <= start (named by its row), another shape, an empty list.

    >>> temporal_graph([[0, 10], [5, 12], [11, 20]]).num_edges()
    5
    """
    return graph_of_pairs(*_numbers(segments, iou_threshold, self_loops), TEMPORAL_EDGE_TYPES)
