"""Temporal graphs: segments that overlap enough are joined, or all are, with Allen's relations as edge types."""

from enum import IntEnum
from functools import partial

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs._inputs import ArrayLike, Rows, check_rows, read_segments
from relgrounding.graphs._nearest import check_count, nearest_pairs
from relgrounding.graphs._pairs import Pairs, evaluate, graph_of_pairs, matrix_of_pairs, structure_of_pairs
from relgrounding.graphs._structure import GraphStructure

EDGE_TYPES = ("overlaps",)


class TemporalRelation(IntEnum):
    """Allen's relation of segment i to segment j for the edge i -> j; 0 in a relation matrix means no edge.

    ``BEFORE``: i ends before j starts. ``MEETS``: i ends where j starts. ``OVERLAPS``: i starts first and ends inside
    j. ``STARTS``: same start, i ends first. ``DURING``: i lies inside j and shares no boundary. ``FINISHES``: same
    end, i starts last. ``EQUAL``: both boundaries are the same. An odd number up to 11 and the next one are converses:
    i BEFORE j is j AFTER i; EQUAL is its own converse. Exactly one of the thirteen holds for two segments.

    Paper: Allen, Maintaining Knowledge about Temporal Intervals, Communications of the ACM 26, 1983.
    """

    BEFORE = 1
    AFTER = 2
    MEETS = 3
    MET_BY = 4
    OVERLAPS = 5
    OVERLAPPED_BY = 6
    STARTS = 7
    STARTED_BY = 8
    DURING = 9
    CONTAINS = 10
    FINISHES = 11
    FINISHED_BY = 12
    EQUAL = 13


TEMPORAL_EDGE_TYPES = tuple(relation.name.lower() for relation in TemporalRelation)

# Relations of segments that share time, by which starts first (rows: i, neither, j) and which ends first (columns).
_SHARING = (
    *(TemporalRelation.OVERLAPS, TemporalRelation.FINISHED_BY, TemporalRelation.CONTAINS),
    *(TemporalRelation.STARTS, TemporalRelation.EQUAL, TemporalRelation.STARTED_BY),
    *(TemporalRelation.DURING, TemporalRelation.FINISHES, TemporalRelation.OVERLAPPED_BY),
)


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
    function = partial(_overlaps, iou_threshold=iou_threshold)
    columns = rows.values.t().contiguous()
    return evaluate(function, rows.counts, columns, rows.tolerance(), diagonal=int(self_loops))


def temporal_structure(segments: ArrayLike, iou_threshold: float = 0.3, self_loops: bool = True) -> GraphStructure:
    """The graph of `temporal_graph` as tensors, on the device of the segments.

    Items of a list with the same segments are built once; what such a batch holds per edge takes memory from when it is
    first read.

    >>> temporal_structure([[0, 10], [5, 12], [11, 20]]).indices.tolist()
    [0, 1, 0, 1, 2]
    """
    # Videos share their candidates: each distinct set of them is built once.
    rows, numbers = _read(segments, iou_threshold).distinct()
    structure = structure_of_pairs(_numbers(rows, iou_threshold, self_loops), rows.counts, EDGE_TYPES)
    return structure if len(numbers) == len(rows.counts) else structure._later(numbers)


def temporal_graph(segments: ArrayLike, iou_threshold: float = 0.3, self_loops: bool = True) -> dgl.DGLGraph:
    """Graph of segments: ``i -> j`` and ``j -> i`` where ``temporal IoU(i, j) > iou_threshold``.

    Args:
        segments: (T, 2) start, end in any one unit, start < end; or a list of those, or (B, T, 2).
        iou_threshold: 0 to 1; an IoU equal to it joins nothing. Exact for integers and for decimals of a few digits; of
            decimals in float32, those are equal that differ by less than a millionth of the largest time.
        self_loops: whether every node has an edge to itself, whatever the threshold.

    Returns:
        Graph with node type ``proposal`` and edge type ``overlaps``; batched for a list, `dgl.unbatch` gives the items.

    Raises:
        ValueError: a segment that is not finite or has end <= start (named by its row), another shape, an empty list.

    >>> temporal_graph([[0, 10], [5, 12], [11, 20]]).num_edges()
    5
    """
    return temporal_structure(segments, iou_threshold, self_loops).to_dgl()


def _ranks(rows: Rows) -> Int32[Tensor, "2 segments"]:
    """Starts and ends numbered in the order of time within each item; times that only rounding separates share one."""
    items = torch.repeat_interleave(rows.counts).repeat(2)
    times = rows.values.t().flatten()
    order = times.argsort()
    order = order[items[order].argsort(stable=True)]
    later = times[order].diff() > rows.tolerance()[items[order[1:]]]
    later |= items[order].diff() > 0
    ranks = torch.zeros(len(times), dtype=torch.int32, device=times.device)
    ranks[order[1:]] = later.cumsum(0).int()
    ranks = ranks.view(2, -1)
    reason = "is no longer than rounding at times of this size; remove the segment, or count time from a later origin"
    check_rows(rows, "segments", ranks[1] <= ranks[0], reason)
    return ranks


def _relation_numbers(i: Tensor, j: Tensor, _: Tensor) -> Tensor:
    """Relation of the edge i -> j by the ranks of their starts and ends, all broadcast against each other."""
    (start_i, end_i), (start_j, end_j) = i.unbind(0), j.unbind(0)
    starts, ends = (start_i - start_j).sign(), (end_i - end_j).sign()
    sharing = torch.tensor(_SHARING, dtype=torch.uint8, device=i.device)[starts * 3 + ends + 4]
    ahead, behind = (end_i - start_j).sign(), (start_i - end_j).sign()
    # -1 where i is before j, 0 where it meets it; 1 where it is after j.
    number = torch.where(ahead > 0, sharing, TemporalRelation.MEETS + 2 * ahead)
    return torch.where(behind < 0, number, TemporalRelation.MET_BY - 2 * behind).byte()


def _related(rows: Rows, nearest: int | None) -> list[Pairs]:
    """Relation number of every pair that is joined."""
    rounding = rows.tolerance()
    pairs = evaluate(_relation_numbers, rows.counts, _ranks(rows), rounding)
    if nearest is None:
        return pairs
    # Twice the centres.
    return nearest_pairs(pairs, rows.values.sum(1, keepdim=True), check_count("nearest", nearest), 2 * rounding)


def temporal_relation_structure(segments: ArrayLike, nearest: int | None = None) -> GraphStructure:
    """The graph of `temporal_relation_graph` as tensors, on the device of the segments; see `temporal_structure`.

    >>> structure = temporal_relation_structure([[0, 10], [10, 12]])
    >>> [structure.edge_types[t] for t in structure.etype]
    ['met_by', 'meets']
    """
    rows, numbers = read_segments(segments).distinct()
    structure = structure_of_pairs(_related(rows, nearest), rows.counts, TEMPORAL_EDGE_TYPES)
    return structure if len(numbers) == len(rows.counts) else structure._later(numbers)


def temporal_relation_graph(segments: ArrayLike, nearest: int | None = None) -> dgl.DGLGraph:
    """Graph of segments with thirteen edge types: ``i -> j`` has the type of the relation of i to j.

    Types are named and numbered as in `TemporalRelation`; two segments are related both ways, by converse relations.

    Args:
        segments: (T, 2) start, end in any one unit, start < end; or a list of those, or (B, T, 2). Times that differ
            by rounding alone are equal: exact for integers and for decimals of a few digits; of decimals in float32,
            those are equal that differ by less than a millionth of the largest time.
        nearest: in-edges per segment, at least 1: from the segments whose centres are nearest, ties by number. None
            joins all pairs.

    Returns:
        Graph with node type ``proposal``, no self-edges; batched for a list, `dgl.unbatch` gives the items.

    Raises:
        ValueError: a segment that is not finite, has end <= start or is shorter than rounding (named by its row),
            another shape, an empty list.

    >>> graph = temporal_relation_graph([[0, 10], [10, 12], [4, 10]])
    >>> {name: graph.num_edges(name) for name in graph.etypes if graph.num_edges(name)}
    {'finished_by': 1, 'finishes': 1, 'meets': 2, 'met_by': 2}
    """
    rows = read_segments(segments)
    return graph_of_pairs(_related(rows, nearest), rows.counts, TEMPORAL_EDGE_TYPES)


def temporal_relations(segments: ArrayLike) -> Int64[Tensor, "*items i j"]:
    """Matrix of the relations i -> j of `temporal_relation_graph`: numbers of `TemporalRelation`, 0 on the diagonal.

    Args:
        segments: as in `temporal_relation_graph`.

    Returns:
        (T, T) int64; (B, T, T) for a batch or a list, where T is the longest item's and the rest is 0.

    Raises:
        ValueError: as in `temporal_relation_graph`.

    >>> temporal_relations([[0.0, 0.3], [0.1 + 0.2, 0.9]]).tolist()
    [[0, 3], [4, 0]]
    """
    rows = read_segments(segments)
    matrix = matrix_of_pairs(_related(rows, None), rows.counts)
    return matrix[0] if rows.single else matrix
