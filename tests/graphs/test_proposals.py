from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding import graphs


@given(
    st.integers(1, 60),
    st.lists(st.integers(1, 70), min_size=1, max_size=4),
    st.one_of(st.integers(1, 9), st.sampled_from([0.1, 0.25, 0.5, 1.0, 3.0])),
)
def test_windows_follow_the_rule(n_clips, widths, stride):
    found = graphs.window_proposals(n_clips, widths, stride)
    assert found.dtype == torch.int64
    rows = [tuple(row) for row in found.tolist()]
    assert rows == sorted(set(rows), key=lambda row: (row[1] - row[0], row[0]))
    fitting = {width for width in widths if width <= n_clips}
    if not fitting:
        assert rows == [(0, n_clips)]
        return
    assert {end - start for start, end in rows} == fitting
    for width in fitting:
        step = stride if stride >= 1 else max(1, round(stride * width))
        starts = [start for start, end in rows if end - start == width]
        assert starts[0] == 0
        assert starts[-1] == n_clips - width
        assert all(start % step == 0 for start in starts[:-1])
        assert all(0 < later - earlier <= step for earlier, later in pairwise(starts))


def test_windows_of_short_videos():
    assert graphs.window_proposals(1, [4, 8], 2).tolist() == [[0, 1]]
    assert graphs.window_proposals(4, [4, 8], 2).tolist() == [[0, 4]]
    assert graphs.window_proposals(10, [8, 8], 0.25).tolist() == [[0, 8], [2, 10]]


def diagonals(n_clips: int, counts: list[int]) -> set[tuple[int, int]]:
    """The map diagonal by diagonal: `counts[k]` lengths at stride 2^k, each that much longer than the last."""
    kept, length, stride = set(), 0, 1
    for count in counts:
        for _ in range(count):
            length += stride
            kept |= {(start, start + length) for start in range(0, n_clips - length + 1, stride)}
        stride *= 2
    return kept


@pytest.mark.parametrize(("n_clips", "counts"), [(16, [16]), (64, [16, 8, 8]), (128, [16, 8, 8, 8]), (50, [16, 8, 4])])
def test_the_map_is_that_of_its_diagonals(n_clips, counts):
    found = [tuple(row) for row in graphs.map_proposals(n_clips).tolist()]
    assert len(found) == len(set(found))
    assert set(found) == diagonals(n_clips, counts)
    assert found == sorted(found, key=lambda row: (row[1] - row[0], row[0]))


def test_short_maps_are_dense():
    assert graphs.map_proposals(1).tolist() == [[0, 1]]
    for n_clips in range(1, 17):
        assert len(graphs.map_proposals(n_clips)) == n_clips * (n_clips + 1) // 2
    assert len(graphs.map_proposals(10, dense_width=1)) < 55


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: graphs.window_proposals(0, [1], 1), "n_clips: 0 is too small; give an integer of at least 1"),
        (lambda: graphs.window_proposals(5, [], 1), "widths: the list is empty; give at least one width in clips"),
        (lambda: graphs.window_proposals(5, [0], 1), "widths: 0 is too small"),
        (lambda: graphs.window_proposals(5, [2], 0), "stride: 0 is neither"),
        (lambda: graphs.window_proposals(5, [2], 1.5), "stride: 1.5 is neither"),
        (lambda: graphs.window_proposals(5, [2], float("nan")), "stride: nan is neither"),
        (lambda: graphs.window_proposals(5, [2], -0.5), "stride: -0.5 is neither"),
        (lambda: graphs.map_proposals(0), "n_clips: 0 is too small"),
        (lambda: graphs.map_proposals(4, 0), "dense_width: 0 is too small"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
