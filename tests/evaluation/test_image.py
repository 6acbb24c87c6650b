import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.evaluation import ImageEvaluator, image_floors, image_oracle


@st.composite
def box(draw: st.DrawFn) -> tuple[float, ...]:
    x, y, w, h = (draw(st.integers(low, 5)) for low in (0, 0, 1, 1))
    return (float(x), float(y), float(x + w), float(y + h))


queries = st.lists(
    st.tuples(st.lists(box(), min_size=1, max_size=5), st.lists(box(), min_size=1, max_size=3)), min_size=1, max_size=5
)


def overlap(a: tuple, b: tuple) -> float:
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def correct(candidate: tuple, targets: list, reading: str) -> bool:
    if reading == "single":
        return overlap(candidate, targets[0]) > 0.5
    if reading == "any":
        return any(overlap(candidate, t) >= 0.5 for t in targets)
    low, high = np.min(targets, axis=0), np.max(targets, axis=0)
    return overlap(candidate, (low[0], low[1], high[2], high[3])) >= 0.5


@pytest.mark.parametrize("reading", ["single", "union", "any"])
@given(cases=queries)
def test_accuracy_floors_and_oracle_agree_with_counting(reading: str, cases: list) -> None:
    if reading == "single":
        cases = [(boxes, targets[:1]) for boxes, targets in cases]
    boxes, targets = zip(*cases, strict=True)
    evaluator = ImageEvaluator(reading)
    table = [[correct(b, ts, reading) for b in bs] for bs, ts in cases]
    largest = [int(np.argmax([(b[2] - b[0]) * (b[3] - b[1]) for b in bs])) for bs in boxes]
    floors = image_floors(evaluator, boxes, targets)
    of_largest = [row[k] for row, k in zip(table, largest, strict=True)]

    assert evaluator.hits([bs[0] for bs in boxes], targets).tolist() == [row[0] for row in table]
    assert evaluator([bs[0] for bs in boxes], targets)["Acc@0.5"] == pytest.approx(100 * np.mean([r[0] for r in table]))
    assert floors["random"]["Acc@0.5"] == pytest.approx(100 * np.mean([np.mean(row) for row in table]))
    assert floors["largest"]["Acc@0.5"] == pytest.approx(100 * np.mean(of_largest))
    assert image_oracle(evaluator, boxes, targets)["Acc@0.5"] == pytest.approx(100 * np.mean([any(r) for r in table]))


def test_half_an_overlap_counts_for_phrases_and_not_for_expressions() -> None:
    half, target = [(0, 0, 10, 5)], [[(0, 0, 10, 10)]]
    assert ImageEvaluator("single")(half, target) == {"Acc@0.5": 0.0}
    assert ImageEvaluator("union")(half, target) == {"Acc@0.5": 100.0}
    assert ImageEvaluator("any")(half, target) == {"Acc@0.5": 100.0}


def test_kinds_split_every_accuracy() -> None:
    boxes = [[(0, 0, 4, 4), (9, 9, 10, 10)], [(0, 0, 4, 4)], [(0, 0, 1, 1)]]
    targets = [[(0, 0, 4, 4)], [(0, 0, 4, 4)], [(5, 5, 6, 6)]]
    kinds = ["relation", "attribute", "attribute"]
    evaluator = ImageEvaluator("single")
    found = evaluator([b[0] for b in boxes], targets, kinds)
    assert found == pytest.approx({"Acc@0.5": 200 / 3, "Acc@0.5,kind=attribute": 50.0, "Acc@0.5,kind=relation": 100.0})
    random = image_floors(evaluator, boxes, targets, kinds)["random"]
    assert random["Acc@0.5,kind=relation"] == 50.0
    assert list(image_oracle(evaluator, boxes, targets, kinds)) == list(found)


def test_unusable_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown reading 'both' of the targets; use one of single, union, any"):
        ImageEvaluator("both")
    with pytest.raises(ValueError, match=r"threshold is 0.0; give an IoU above 0, at most 1"):
        ImageEvaluator("any", threshold=0.0)
    with pytest.raises(ValueError, match="query 1 has 2 targets, but the reading is 'single'; use 'union' or 'any'"):
        ImageEvaluator("single")([(0, 0, 1, 1)] * 2, [[(0, 0, 1, 1)], [(0, 0, 1, 1), (0, 0, 2, 2)]])
    with pytest.raises(ValueError, match="2 predictions for 1 targets; give one entry per query in both lists"):
        ImageEvaluator("any")([(0, 0, 1, 1)] * 2, [[(0, 0, 1, 1)]])
    with pytest.raises(ValueError, match="1 kinds for 2 queries"):
        ImageEvaluator("any")([(0, 0, 1, 1)] * 2, [[(0, 0, 1, 1)]] * 2, kinds=["people"])
    xywh = [10, 20, 5, 6]
    with pytest.raises(
        ValueError, match=r"predictions of query 1: .* has x2 < x1 or y2 < y1; .* is it x y width height"
    ):
        ImageEvaluator("any")([(0, 0, 1, 1), xywh], [[(0, 0, 1, 1)]] * 2)
    with pytest.raises(ValueError, match=r"targets of query 0: .* is it x y width height"):
        ImageEvaluator("any")([(0, 0, 1, 1)], [[(0, 0, 1, 1), xywh]])
    with pytest.raises(ValueError, match=r"targets of query 0: \[0.0, 0.0, 1.0, 0.0\] has no area"):
        ImageEvaluator("any")([(0, 0, 1, 1)], [[(0, 0, 1, 0)]])
    for score in (image_floors, image_oracle):
        with pytest.raises(ValueError, match=r"boxes of query 0: .* is it x y width height"):
            score(ImageEvaluator("any"), [[(0, 0, 1, 1), xywh]], [[(0, 0, 1, 1)]])
        with pytest.raises(ValueError, match=r"boxes of query 0: .* is not finite"):
            score(ImageEvaluator("any"), [[(0, 0, 1, np.nan)]], [[(0, 0, 1, 1)]])
    with pytest.raises(ValueError, match=r"boxes of query 0 have shape \(0,\); expected \(n, 4\) with n >= 1"):
        image_floors(ImageEvaluator("any"), [[]], [[(0, 0, 1, 1)]])
