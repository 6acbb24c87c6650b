"""Bootstrap intervals against an enumeration of every resample, and the kinds of queries."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.evaluation import QUERY_KINDS, compare_runs, paired_bootstrap, query_kind

RNG = np.random.default_rng(0)


def every_resample(ours: np.ndarray, theirs: np.ndarray, same_seeds: bool) -> np.ndarray:
    """The difference of the means in every equally likely resample of queries and seeds, one by one."""
    queries = range(len(ours))
    seeds, others = range(ours.shape[1]), range(theirs.shape[1])
    found = []
    for rows in product(queries, repeat=len(queries)):
        for columns in product(seeds, repeat=len(seeds)):
            for pair in [columns] if same_seeds else product(others, repeat=len(others)):
                first = np.mean([[ours[q, s] for s in columns] for q in rows])
                second = np.mean([[theirs[q, s] for s in pair] for q in rows])
                found.append(first - second)
    return np.array(found)


@pytest.mark.parametrize(
    ("shape", "other", "same_seeds"),
    [
        ((3, 2), (3, 2), True),
        ((4, 3), (4, 3), True),
        ((3, 2), (3, 3), False),
        ((5, 1), (5, 1), True),
        ((4, 1), (4, 2), False),
    ],
)
def test_intervals_are_those_of_all_resamples(shape, other, same_seeds):
    ours, theirs = RNG.uniform(0, 100, shape), RNG.uniform(0, 100, other)
    wanted = every_resample(ours, theirs, same_seeds)
    found = paired_bootstrap(ours, theirs, same_seeds=same_seeds, resamples=40_000, confidence=0.8)
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())
    assert (found.ours, found.theirs, found.queries) == (ours.mean(), theirs.mean(), shape[0])
    for end, share in ((found.low, 0.1), (found.high, 0.9)):
        assert (wanted < end - 1e-9).mean() < share + 0.01
        assert (wanted <= end + 1e-9).mean() > share - 0.01


def test_a_paired_interval_is_narrower_than_the_spread_of_each_system():
    hard = RNG.uniform(size=(2000, 1))
    theirs = 100.0 * (RNG.uniform(size=(2000, 3)) < hard)
    ours = np.maximum(theirs, 100.0 * (RNG.uniform(size=(2000, 3)) < 0.03))
    found = paired_bootstrap(ours, theirs)
    assert 0 < found.low < found.mean < found.high
    alone = paired_bootstrap(theirs, np.zeros_like(theirs))
    assert found.high - found.low < 0.5 * (alone.high - alone.low)


def test_many_queries_and_one_seed_give_the_normal_interval():
    ours = RNG.normal(3, 40, (5000, 1))
    found = paired_bootstrap(ours, np.zeros_like(ours), resamples=4000)
    error = ours.std(ddof=1) / math.sqrt(len(ours))
    assert found.low == pytest.approx(ours.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(ours.mean() + 1.96 * error, abs=0.1 * error)


def test_seeds_count():
    """Two seeds that contradict each other on every query leave the difference open, however many queries there are."""
    ours = np.repeat([[10.0, -10.0, 1.0]], 500, axis=0)
    found = paired_bootstrap(ours, np.zeros_like(ours))
    assert found.low < -5
    assert found.high > 5


def test_kinds_are_compared_on_their_own_queries():
    ours = np.array([[100.0], [100.0], [0.0], [0.0], [100.0]])
    theirs = np.zeros((5, 1))
    found = compare_runs(ours, theirs, ["place", "place", "order", "own kind", "place"])
    assert list(found) == ["all", "order", "place", "own kind"]
    assert [d.queries for d in found.values()] == [5, 1, 3, 1]
    assert [d.mean for d in found.values()] == [60, 0, 100, 0]
    assert (found["place"].low, found["place"].high) == (100, 100)
    assert math.isnan(found["order"].low)


@pytest.mark.parametrize(
    ("ours", "theirs", "options", "message"),
    [
        (np.zeros((2, 1)), np.zeros((3, 1)), {}, "ours has 2 queries, theirs 3"),
        (
            np.zeros((2, 1)),
            np.zeros((2, 3)),
            {},
            "ours has 1 seeds, theirs 3; give the same seeds, or same_seeds=False",
        ),
        (np.zeros((0, 1)), np.zeros((0, 1)), {}, r"ours has the shape \(0, 1\)"),
        (np.full((2, 1), np.nan), np.zeros((2, 1)), {}, "ours holds a value that is not finite"),
        *(
            (np.zeros((2, 1)), np.zeros((2, 1)), {"confidence": c}, "confidence is ")
            for c in (2.0, 0.0, -1.0, math.nan)
        ),
        (np.zeros((2, 1)), np.zeros((2, 1)), {"resamples": 0}, "resamples is 0"),
    ],
)
def test_what_cannot_be_compared(ours, theirs, options, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(ours, theirs, **options)


def test_every_query_needs_a_kind():
    with pytest.raises(ValueError, match="1 kinds for 2 queries"):
        compare_runs(np.zeros((2, 1)), np.zeros((2, 1)), ["place"])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Person then opens the door.", "time"),
        ("person starts running in place again.", "time"),
        ("2nd zebra from right", "order"),
        ("the bike from left", "order"),
        ("topmost pizza", "order"),
        ("biggest bear on the left", "order"),
        ("Left guy", "place"),
        ("man in FRONT of the bus", "relation"),
        ("bowl next to the cup", "relation"),
        ("cup on top of the book", "relation"),
        ("dog in front of the man", "relation"),
        ("the left dog in front of the man", "place"),
        ("top of the picture", "place"),
        ("man in front", "place"),
        ("guy on top", "place"),
        ("woman in red", "other"),
        ("person drinking from a glass of water.", "other"),
        ("the almost bright leftover", "order"),
        ("", "other"),
    ],
)
def test_kinds_of_queries(text, kind):
    assert query_kind(text) == kind


@given(st.text())
def test_every_text_has_one_kind(text):
    assert query_kind(text) in QUERY_KINDS
