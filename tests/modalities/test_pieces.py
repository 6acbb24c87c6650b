"""Batches in pieces: every query is in one of them, and what belongs together stays together where it can."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.modalities import Cut


@given(
    size=st.integers(2, 40),
    processes=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    gather=st.booleans(),
    groups=st.lists(st.integers(0, 5), min_size=40, max_size=40),
    blocks=st.lists(st.integers(-1, 3), min_size=40, max_size=40),
)
def test_pieces_share_out_a_batch(size, processes, accumulate, gather, groups, blocks):
    cut = Cut(processes, accumulate, gather)
    unit, block = torch.tensor(sorted(groups[:size])), torch.tensor(sorted(blocks[:size]))
    queries = list(range(100, 100 + size))
    pieces = cut.pieces(queries, unit, block)
    assert len(pieces) == cut.total == processes * accumulate
    assert sum(piece.weight for piece in pieces) == pytest.approx(1)
    parts = [[piece for n, piece in enumerate(pieces) if cut.part(n) == part] for part in range(cut.parts)]
    found = []
    for part in parts:
        together = [i for piece in part for i in piece.queries]
        if part[0].queries and len(part) > 1 and not part[0].counts:  # a few queries: every process does all of them
            assert all(piece == part[0] for piece in part)
            together = part[0].queries
            assert len(together) < processes
        assert len(together) != 1  # it would have no negatives
        for piece in part:
            if piece.counts:
                assert piece.counts == tuple(len(other.queries) for other in part)
            if gather and processes > 1 and piece.queries:
                assert bool(piece.counts) == (len(together) >= processes)
        found += together
    assert found == queries
    if size >= cut.least:
        assert all(piece.queries for piece in pieces)
    filled = [len(together) for part in parts if (together := [i for piece in part for i in piece.queries])]
    assert len(filled) == min(cut.parts, size // 2)


def test_groups_and_blocks_are_not_cut_where_pieces_stay_nearly_equal():
    pairs, none = torch.arange(30) // 2, torch.full((30,), -1)
    sizes = [len(piece.queries) for piece in Cut(2).pieces(list(range(30)), pairs, none)]
    assert sizes == [14, 16]
    blocks = torch.arange(24) // 5
    sizes = [len(piece.queries) for piece in Cut(2).pieces(list(range(24)), torch.arange(24), blocks)]
    assert sizes == [10, 14]
    sizes = [len(piece.queries) for piece in Cut(2).pieces(list(range(8)), torch.zeros(8, dtype=torch.int64), none[:8])]
    assert sizes == [4, 4]  # one group: it cannot be helped


def test_pieces_get_as_many_proposals_as_the_others_where_queries_allow():
    alone, none = torch.arange(12), torch.full((12,), -1)
    heavy = torch.tensor([9, 9, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    for proposals, sizes in [(None, [6, 6]), (heavy, [4, 8]), (heavy.flip(0), [8, 4]), (heavy * 0 + 7, [6, 6])]:
        pieces = Cut(2).pieces(list(range(12)), alone, none, proposals)
        assert [len(piece.queries) for piece in pieces] == sizes
    pieces = Cut(3).pieces(list(range(12)), alone, none, torch.tensor([3, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1]))
    assert [len(piece.queries) for piece in pieces] == [3, 4, 5]
    blocks = torch.arange(12) // 6
    assert [len(p.queries) for p in Cut(2).pieces(list(range(12)), alone, blocks, heavy)] == [6, 6]  # these come first


@given(st.lists(st.integers(1, 50), min_size=2, max_size=40))
def test_the_larger_half_is_as_small_as_the_queries_allow(proposals):
    size = len(proposals)
    alone, none = torch.arange(size), torch.full((size,), -1)
    found = [
        sum(proposals[i] for i in p.queries) for p in Cut(2).pieces(range(size), alone, none, torch.tensor(proposals))
    ]
    reach = max(0, min(-(-(size // 2) // 4), (size // 2 - 2) // 2)) if size > 3 else size
    bounds = range(size // 2 - reach, size // 2 + reach + 1) if size > 3 else [size]
    assert max(found) == min(max(sum(proposals[:at]), sum(proposals[at:])) for at in bounds)
