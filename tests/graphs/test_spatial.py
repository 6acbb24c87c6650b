import dgl
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relgrounding import graphs
from relgrounding.graphs import SpatialRelation, naive

SIZES = [(100, 80), (640, 480), (37, 53), (300, 30), (3, 3), (5, 12)]


def random_boxes(generator: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Integer boxes on a coarse lattice, so that edges touch, nest, share centres and lie on bin edges often."""
    step = int(generator.choice([1, 2, 5, 10]))
    corner = generator.integers(0, 8, (count, 2)) * step
    extent = generator.integers(1, 7, (count, 2)) * step
    boxes = np.concatenate([corner, corner + extent], 1)
    wide = generator.random(count) < 0.3
    corner, extent_far = generator.integers(0, max(size), (count, 2)), generator.integers(1, max(size) + 1, (count, 2))
    far = np.concatenate([corner, corner + extent_far], 1)
    boxes[wide] = far[wide]
    for row in range(1, count):
        kind, other = generator.integers(0, 8), boxes[generator.integers(0, row)]
        if kind == 0:
            boxes[row] = other
        elif kind == 1:  # the same centre, another shape
            grow = generator.integers(-2, 6, 2)
            boxes[row] = [other[0] - grow[0], other[1] - grow[1], other[2] + grow[0], other[3] + grow[1]]
        elif kind == 2:  # a centre on a bin edge
            shift = (
                int(generator.integers(1, 30)) * np.array([[1, 0], [0, 1], [1, 1], [1, -1]])[generator.integers(0, 4)]
            )
            boxes[row] = other + np.tile(shift * generator.choice([-1, 1]), 2)
        elif kind == 3:  # touching
            boxes[row] = [other[2], other[1], other[2] + extent[row][0], other[3]]
        if (boxes[row][2:] <= boxes[row][:2]).any():
            boxes[row] = other
    # A box outside of the image comes back by whole images.
    outside = (boxes[:, 2:] <= 0).any(1) | (boxes[:, :2] >= size).any(1)
    shift = boxes[:, :2] // size * size * outside[:, None]
    return boxes - np.tile(shift, 2)


def test_no_difference_on_forty_thousand_random_pairs():
    generator = np.random.default_rng(0)
    pairs, seen = 0, np.zeros(12, int)
    items, sizes = [], []
    for index in range(600):
        size = SIZES[index % len(SIZES)]
        boxes = random_boxes(generator, int(generator.integers(1, 18)), size)
        items.append(boxes)
        sizes.append(size)
    batched = graphs.spatial_relations(items, np.array(sizes))
    for boxes, size, found in zip(items, sizes, batched, strict=True):
        expected = np.array(naive.relations(boxes.tolist(), size))
        np.testing.assert_array_equal(found[: len(boxes), : len(boxes)].numpy(), expected)
        assert found.count_nonzero() == np.count_nonzero(expected)
        off_diagonal = expected[~np.eye(len(boxes), dtype=bool)]
        seen += np.bincount(off_diagonal, minlength=12)
        pairs += off_diagonal.size
    assert pairs > 40_000
    assert seen.min() > 100, f"a relation is hardly tested: {seen}"


coordinates = st.integers(1, 13)
boxes_strategy = st.tuples(coordinates, coordinates, st.integers(1, 12), st.integers(1, 12)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(
    st.lists(boxes_strategy, min_size=1, max_size=8),
    st.tuples(st.integers(14, 40), st.integers(14, 40)),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]),
)
@example([(0, 0, 2, 2), (6, 8, 8, 10)], (12, 16), 0.5, 0.5)
@example([(-9, -9, 1, 1), (0, 0, 30, 40)], (1, 1), 0.5, 0.5)
@example([(0, 0, 2, 2), (3, 4, 5, 6)], (30, 40), 0.1, 0.5)
def test_relations_equal_the_reference(boxes, size, ratio, iou):
    found = graphs.spatial_relations(boxes, size, distance_ratio=ratio, overlap_iou=iou)
    assert found.tolist() == naive.relations(boxes, size, ratio, iou)


@settings(max_examples=20)
@given(
    st.lists(boxes_strategy, min_size=2, max_size=8),
    st.tuples(st.integers(14, 40), st.integers(14, 40)),
    st.sampled_from([0.3, 0.5, 0.7]),
    st.sampled_from([0.3, 0.5]),
)
@example([(1, 1, 3, 3), (7, 9, 9, 11), (1, 1, 25, 25)], (12, 16), 0.5, 0.5)
def test_the_unit_of_coordinates_decides_nothing(boxes, size, ratio, iou):
    # Whole numbers that fit into 32 bits, those that do not, and halves.
    expected = naive.relations(boxes, size, ratio, iou)
    rows, sides = np.array(boxes), np.array(size)
    for unit in (400, 1200, 20_000, 10**6, 2.5):
        found = graphs.spatial_relations(rows * unit, sides * unit, distance_ratio=ratio, overlap_iou=iou)
        assert found.tolist() == expected, unit


@given(st.lists(boxes_strategy, min_size=1, max_size=6))
def test_graph_holds_exactly_the_edges_of_the_matrix(boxes):
    graph = graphs.spatial_graph(boxes, (20, 30))
    matrix = torch.zeros(len(boxes), len(boxes), dtype=torch.int64)
    for kind in SpatialRelation:
        source, destination = graph.edges(etype=("proposal", kind.name.lower(), "proposal"))
        assert (matrix[source, destination] == 0).all()
        matrix[source, destination] = int(kind)
    assert torch.equal(matrix, graphs.spatial_relations(boxes, (20, 30)))
    assert graph.num_edges() == int(matrix.count_nonzero())


def pair(a, b, size=(1000, 1000)):
    found = graphs.spatial_relations([a, b], size)
    assert found.tolist() == naive.relations([a, b], size)
    return int(found[0, 1]), int(found[1, 0])


UNIT = (100, 100, 110, 110)


FAR = 10_000_019


@pytest.mark.parametrize(
    ("shift", "forth", "back"),
    [
        ((50, 50), 1, 5),
        ((0, 50), 2, 6),
        ((-50, 50), 3, 7),
        ((-50, 0), 4, 8),
        ((50, 1), 1, 5),
        ((50, -1), 8, 4),
        ((49, 50), 2, 6),
        ((-1, 50), 3, 7),
        ((-50, 1), 4, 8),
        ((-50, -1), 5, 1),
    ],
)
def test_angle_edges_belong_to_the_lower_bin(shift, forth, back):
    moved = (UNIT[0] + shift[0], UNIT[1] + shift[1], UNIT[2] + shift[0], UNIT[3] + shift[1])
    assert pair(UNIT, moved) == (forth + 3, back + 3)
    assert pair(moved, UNIT) == (back + 3, forth + 3)


@pytest.mark.parametrize(
    ("a", "b", "size", "expected"),
    [
        # Angles are exact for large coordinates and half pixels.
        ((0, 0, 1, 1), (FAR, FAR, FAR + 1, FAR + 1), (10**8, 10**8), (4, 8)),
        ((0, 0, 1, 1), (FAR, FAR + 1, FAR + 1, FAR + 2), (10**8, 10**8), (5, 9)),
        ((0, 0, 1, 1), (FAR + 1, FAR, FAR + 2, FAR + 1), (10**8, 10**8), (4, 8)),
        ((0, 0, 1, 1), (FAR, 0, FAR + 1, 2), (10**8, 10**8), (4, 8)),
        # A wide image does not bend them.
        (UNIT, (200, 200, 210, 210), (4000, 300), (4, 8)),
        (UNIT, (200, 200, 210, 210), (300, 4000), (4, 8)),
        # Identical boxes are inside both ways; boxes that share an edge still contain each other.
        (UNIT, UNIT, (1000, 1000), (1, 1)),
        ((0, 0, 10, 10), (0, 0, 10, 5), (1000, 1000), (1, 2)),
        ((0, 0, 10, 10), (5, 5, 10, 10), (1000, 1000), (1, 2)),
        # Concentric boxes overlap where they overlap enough, and otherwise point to the right.
        ((0, 1, 100, 99), (1, 0, 99, 100), (1000, 1000), (3, 3)),
        ((0, 45, 100, 55), (45, 0, 55, 100), (1000, 1000), (11, 11)),
        # An IoU of exactly one half is no overlap, and touching is none.
        ((0, 0, 3, 1), (1, 0, 4, 1), (1000, 1000), (11, 7)),
        ((0, 0, 300, 1), (99, 0, 399, 1), (1000, 1000), (3, 3)),
        ((0, 0, 10, 10), (10, 0, 20, 10), (1000, 1000), (SpatialRelation.ANGLE_8, SpatialRelation.ANGLE_4)),
        # A distance of exactly half the diagonal is no edge.
        ((0, 0, 2, 2), (15, 20, 17, 22), (30, 40), (0, 0)),
        ((0, 0, 2, 2), (15, 20, 17, 22), (30, 41), (5, 9)),
    ],
)
def test_corner_cases_of_a_pair(a, b, size, expected):
    assert pair(a, b, size) == expected


def test_numbers_of_the_relations():
    assert [(r.name, int(r)) for r in SpatialRelation] == [
        ("INSIDE", 1),
        ("COVER", 2),
        ("OVERLAP", 3),
        *((f"ANGLE_{k}", k + 3) for k in range(1, 9)),
    ]


def test_box_formats_agree():
    xyxy = np.array([[0, 0, 11, 7], [3, 2, 30, 31], [5, 5, 6, 6]])
    size = xyxy[:, 2:] - xyxy[:, :2]
    xywh = np.concatenate([xyxy[:, :2], size], 1)
    cxcywh = np.concatenate([xyxy[:, :2] + size / 2, size], 1)
    expected = graphs.spatial_relations(xyxy, (40, 40))
    assert torch.equal(graphs.spatial_relations(xywh, (40, 40), "xywh"), expected)
    assert torch.equal(graphs.spatial_relations(cxcywh, (40, 40), box_format="cxcywh"), expected)
    with pytest.raises(ValueError, match="box_format 'yxyx' is unknown; give one of 'xyxy', 'xywh', 'cxcywh'"):
        graphs.spatial_graph(xyxy, (40, 40), "yxyx")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float32, np.float64])
def test_every_number_type_gives_the_same(dtype):
    boxes = np.random.default_rng(1).integers(0, 100, (12, 4))
    boxes[:, 2:] += boxes[:, :2] + 1
    expected = graphs.spatial_relations(boxes, (200, 200))
    assert torch.equal(graphs.spatial_relations(boxes.astype(dtype), (200, 200)), expected)
    frozen = boxes.astype(dtype)
    frozen.flags.writeable = False
    assert torch.equal(graphs.spatial_relations(frozen, np.array([200, 200])), expected)


def test_a_list_gives_a_batch_that_comes_apart_into_its_items():
    generator = np.random.default_rng(2)
    sizes = [(100, 50), (50, 100), (80, 80), (10, 10), (60, 60)]
    items = [random_boxes(generator, n, s) for n, s in zip([5, 1, 0, 7, 2], sizes, strict=True)]
    items[2] = np.zeros((0, 4))
    batch = graphs.spatial_graph([torch.from_numpy(item) for item in items], sizes)
    parts = dgl.unbatch(batch)
    assert len(parts) == 5
    for part, item, size in zip(parts, items, sizes, strict=True):
        alone = graphs.spatial_graph(item, size)
        assert part.num_nodes() == alone.num_nodes() == len(item)
        for name in alone.canonical_etypes:
            for found, expected in zip(part.edges(etype=name), alone.edges(etype=name), strict=True):
                assert torch.equal(found, expected)
    assert sorted(batch.canonical_etypes) == sorted(("proposal", r.name.lower(), "proposal") for r in SpatialRelation)


@pytest.mark.parametrize("counts", [[6, 6, 6], [7, 5, 6], [12, 1, 0, 2, 1], [0, 0], [150, 150, 1], [150, 150]])
def test_any_mixture_of_sizes_gives_what_each_item_gives(counts):
    generator = np.random.default_rng(5)
    items = [random_boxes(generator, count, (90, 70)) if count else np.zeros((0, 4)) for count in counts]
    batch = graphs.spatial_structure(items, (90, 70))
    matrices = graphs.spatial_relations(items, (90, 70))
    for index, item in enumerate(items):
        alone = graphs.spatial_structure(item, (90, 70))
        part = batch.select(torch.tensor([index]))
        for name in ("indptr", "indices", "etype", "out_indptr", "out_indices", "out_edges"):
            assert torch.equal(getattr(part, name), getattr(alone, name))
        matrix = graphs.spatial_relations(item, (90, 70))
        assert torch.equal(matrices[index, : len(item), : len(item)], matrix)
        assert torch.equal(matrix[alone.indices, alone.destinations], alone.etype + 1)
        assert int(matrix.count_nonzero()) == alone.num_edges


def test_order_of_the_boxes_does_not_matter():
    boxes = random_boxes(np.random.default_rng(3), 15, (100, 80))
    order = np.random.default_rng(4).permutation(15)
    expected = graphs.spatial_relations(boxes, (100, 80))[order][:, order]
    assert torch.equal(graphs.spatial_relations(boxes[order], (100, 80)), expected)


def test_relations_of_a_batch_are_three_dimensional():
    boxes = torch.tensor([[[0, 0, 4, 4], [1, 1, 2, 2]], [[0, 0, 4, 4], [5, 0, 9, 4]]])
    assert graphs.spatial_relations(boxes, (20, 20)).tolist() == [[[0, 1], [2, 0]], [[0, 11], [7, 0]]]
    assert graphs.spatial_relations([boxes[0].numpy()], (20, 20)).shape == (1, 2, 2)


def test_one_box_and_no_box_have_no_edges():
    assert graphs.spatial_graph([[0, 0, 1, 1]], (5, 5)).num_edges() == 0
    empty = graphs.spatial_graph(np.zeros((0, 4)), (5, 5))
    assert (empty.num_nodes(), empty.num_edges()) == (0, 0)
    assert graphs.spatial_relations(np.zeros((0, 4)), (5, 5)).shape == (0, 0)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [[0, 0, 1, 1], [5, 0, 5, 1]],
            r"boxes, row 1: \[5.0, 0.0, 5.0, 1.0\] \(xyxy\) has no area; remove the box or correct it, or give box_f",
        ),
        ([[0, 3, 1, 1]], r"boxes, row 0: .* has no area"),
        ([[0, 0, 1, float("nan")]], r"boxes, row 0: .* is not finite; remove the box or correct it"),
        ([[0, 0, float("inf"), 1]], r"boxes, row 0: .* is not finite"),
        ([[0, 0, 1, 1], [0, 0, 1e200, 1]], r"boxes, row 1: .* is beyond 3e\+150; remove the box or give it in"),
        ([[0, 0, 1, 1], [0, 0, 1, 1e-200]], r"boxes, row 1: .* has no area"),
        ([[[0, 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 0, 1]]], r"boxes, item 1, row 1: .* has no area"),
        (
            [[-4, 2, 0, 5], [0, 0, 4, 4]],
            r"boxes, row 0: \[-4.0, 2.0, 0.0, 5.0\] lies wholly outside of its image; remove",
        ),
        (
            [[[0, 0, 9, 9]], [[0, 0, 1, 1], [2, 10, 5, 12]]],
            r"boxes, item 1, row 1: .* lies wholly outside of its image",
        ),
        ([np.zeros((0, 4)), np.ones((1, 4))], r"boxes, item 1, row 0: "),
        ([[0, 0, 1]], r"boxes, row 0: 3 numbers; a row has 4"),
        (np.zeros((3, 5)), r"boxes: shape \(3, 5\); give \(rows, 4\)"),
        ([np.zeros((2, 3))], r"boxes, item 0: shape \(2, 3\)"),
        ([], r"boxes: the list is empty; give at least one item, of shape \(0, 4\) if it has no rows"),
    ],
)
def test_errors_name_the_row(boxes, message):
    for function in (graphs.spatial_graph, graphs.spatial_relations):
        with pytest.raises(ValueError, match=message):
            function(boxes, (10, 10))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0, 10), r"image_size: \[0.0, 10.0\] is not a positive, finite width and height in pixels"),
        ((10, float("nan")), "image_size: .* is not a positive, finite"),
        ((1, 2, 3), r"image_size: shape \(3,\); give \(width, height\) as \(2,\) for 1 item"),
        ([(1, 2), (3, 4)], r"image_size: shape \(2, 2\)"),
    ],
)
def test_errors_of_image_sizes(size, message):
    with pytest.raises(ValueError, match=message):
        graphs.spatial_graph([[0, 0, 1, 1]], size)


@pytest.mark.parametrize("box_format", ["xywh", "cxcywh"])
def test_only_corners_are_told_of_another_format(box_format):
    with pytest.raises(ValueError, match=rf"\({box_format}\) has no area; remove the box or correct it$"):
        graphs.spatial_graph([[5, 5, 0, 3]], (10, 10), box_format)


def test_boxes_may_stick_out_of_the_image_of_their_item():
    boxes = [[[-5, -5, 1, 1], [9, 9, 30, 12]], [[90, 0, 200, 8], [0, 0, 9, 9]]]
    assert graphs.spatial_graph(boxes, [(10, 10), (100, 10)]).batch_size == 2
    with pytest.raises(ValueError, match=r"boxes, item 1, row 0: .* outside of its image"):
        graphs.spatial_graph(boxes, [(100, 10), (10, 10)])
    with pytest.raises(ValueError, match=r"boxes, row 1: .* outside of its image"):
        graphs.spatial_graph([[0, 0, 9, 9], [9, 0, 3, 9]], (9, 9), "xywh")


@pytest.mark.parametrize("size", [(640, 480), (1, 1), [(640, 480), (30, 20)], [(1, 1), (1, 1)]])
def test_shares_of_an_image_are_named(size):
    shares = [[0.1, 0.2, 0.5, 0.9], [0.6, 0.2, 1.0, 0.7]]
    boxes = [shares, shares] if isinstance(size, list) else shares
    for function in (graphs.spatial_graph, graphs.spatial_relations, graphs.spatial_structure):
        with pytest.warns(
            UserWarning, match="all coordinates lie within 1 in an image of .*: multiply boxes"
        ) as caught:
            function(boxes, size)
        assert len(caught) == 1
    # Multiplied, or in units of the shorter side, they are what the definitions ask for: no warning.
    scaled = np.array(shares) * [640, 480, 640, 480]
    assert torch.equal(
        graphs.spatial_relations(scaled, (640, 480)), graphs.spatial_relations(scaled / 480, (640 / 480, 1))
    )
    graphs.spatial_graph([[[0, 0, 1, 1]], [[0, 0, 1, 1]]], (640, 480))


def test_errors_of_image_sizes_in_a_batch():
    boxes = [np.array([[0, 0, 1, 1]])] * 3
    with pytest.raises(ValueError, match=r"image_size, item 2: \[5.0, -1.0\] is not"):
        graphs.spatial_graph(boxes, [(5, 5), (5, 5), (5, -1)])
    with pytest.raises(ValueError, match=r"give \(width, height\) as \(2,\) or \(3, 2\) for 3 item"):
        graphs.spatial_graph(boxes, [(5, 5), (5, 5)])
    tensors = [torch.tensor([5, 5]), torch.tensor([5, 6]), torch.tensor([7, 8])]
    assert graphs.spatial_graph(boxes, tensors).batch_size == 3


def test_errors_of_thresholds():
    with pytest.raises(
        ValueError, match=r"distance_ratio: -1\.0 is not a distance; give a finite number of at least 0"
    ):
        graphs.spatial_graph([[0, 0, 1, 1]], (5, 5), distance_ratio=-1.0)
    with pytest.raises(ValueError, match=r"overlap_iou: 50\.0 is not an IoU; give a number from 0 to 1"):
        graphs.spatial_graph([[0, 0, 1, 1]], (5, 5), overlap_iou=50.0)


def test_the_nodes_alone_are_those_of_the_graph_and_boxes_are_checked_all_the_same():
    items = [torch.tensor([[0, 0, 40, 40], [10, 10, 20, 20]]), torch.tensor([[1, 1, 5, 5]])]
    whole, alone = (graphs.spatial_structure(items, (90, 70), edges=edges) for edges in (True, False))
    for name in ("indptr", "indices", "etype", "batch_num_nodes", "out_indptr", "out_indices", "out_edges"):
        assert torch.equal(getattr(alone, name), getattr(whole.without_edges(), name))
    assert alone.edge_types == whole.edge_types
    with pytest.raises(ValueError, match="box"):
        graphs.spatial_structure([[5, 5, 5, 9]], (90, 70), edges=False)
