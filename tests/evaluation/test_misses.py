import pytest
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.evaluation import Miss, VideoEvaluator, name_misses

segment = st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda x: (float(x[0]), float(x[0] + x[1])))


@pytest.mark.parametrize(
    ("choice", "miss"),
    [
        ((10, 20), Miss.NONE),
        ((10, 17), Miss.NONE),
        ((10, 16.9), Miss.SHORT),
        ((13, 15), Miss.SHORT),
        ((5, 25), Miss.LONG),
        ((0, 19), Miss.LONG),
        ((0, 18), Miss.SHIFTED),
        ((14, 24), Miss.SHIFTED),
        ((20, 30), Miss.ELSEWHERE),
        ((0, 5), Miss.ELSEWHERE),
    ],
)
def test_by_hand(choice, miss):
    assert name_misses([choice], [(10, 20)]) == [miss]


@given(st.lists(st.tuples(segment, segment), min_size=1, max_size=8))
def test_as_many_are_right_as_the_recall_counts(pairs):
    choices, targets = zip(*pairs, strict=True)
    recall = VideoEvaluator(ious=(0.7,), ranks=(1,))([[c] for c in choices], targets)["R@1,IoU=0.7"]
    found = name_misses(choices, targets)
    assert 100 * found.count(Miss.NONE) / len(found) == pytest.approx(recall)


@given(segment, segment, st.integers(1, 9))
def test_short_and_long_change_places_with_choice_and_target_and_shifting_both_changes_nothing(a, b, by):
    swapped = {Miss.SHORT: Miss.LONG, Miss.LONG: Miss.SHORT}
    (miss,), (other,) = name_misses([a], [b]), name_misses([b], [a])
    assert other == swapped.get(miss, miss)
    assert name_misses([(a[0] + by, a[1] + by)], [(b[0] + by, b[1] + by)]) == [miss]


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="choices"):
        name_misses([(0, 1)], [])
