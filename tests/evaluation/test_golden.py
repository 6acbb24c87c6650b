"""Small prediction files, in the format of predictions.jsonl, whose metrics were worked out by hand."""

import json
from pathlib import Path

import pytest

from relgrounding.evaluation import ImageEvaluator, VideoEvaluator

GOLDEN = Path(__file__).parent / "golden"


def read(name: str) -> tuple[list, list]:
    """The proposals of each line, best first, and its targets."""
    lines = [json.loads(line) for line in (GOLDEN / name).read_text().splitlines()]
    return [[answer["proposal"] for answer in line["top"]] for line in lines], [line["targets"] for line in lines]


def test_moments() -> None:
    predictions, targets = read("moments.jsonl")
    found = VideoEvaluator()(predictions, [moment for (moment,) in targets])
    # IoU of the first: 7/10, 5/10, 5/15, 3/10, 1/20, 1, 0, 5/40. Best of five: 1, 6/10, 5/15, 8/10, 1/10, 1, 0, 5/40:
    # the last query's right moment is its sixth.
    assert found == pytest.approx(
        {
            "R@1,IoU=0.1": 75.0,
            "R@1,IoU=0.3": 62.5,
            "R@1,IoU=0.5": 37.5,
            "R@1,IoU=0.7": 25.0,
            "R@5,IoU=0.1": 87.5,
            "R@5,IoU=0.3": 62.5,
            "R@5,IoU=0.5": 50.0,
            "R@5,IoU=0.7": 37.5,
            "mIoU": 100 * (0.7 + 0.5 + 1 / 3 + 0.3 + 0.05 + 1 + 0 + 0.125) / 8,
        }
    )
    assert list(found) == [f"R@{n},IoU={m}" for n in (1, 5) for m in (0.1, 0.3, 0.5, 0.7)] + ["mIoU"]


def test_regions() -> None:
    predictions, targets = read("regions.jsonl")
    boxes = [top[0] for top in predictions]
    # IoU with the bounding box of all targets: 1, 1/2, 1, 4/10, 0, 4/5, 1; the best with one of them: 1, 1/2, 4/10, 1,
    # 0, 1, 2/10.
    assert ImageEvaluator("union").hits(boxes, targets).tolist() == [True, True, True, False, False, True, True]
    assert ImageEvaluator("any").hits(boxes, targets).tolist() == [True, True, False, True, False, True, False]
    assert ImageEvaluator("union")(boxes, targets) == pytest.approx({"Acc@0.5": 500 / 7})
    assert ImageEvaluator("any")(boxes, targets) == pytest.approx({"Acc@0.5": 400 / 7})
    alone = [k for k, boxes_of_query in enumerate(targets) if len(boxes_of_query) == 1]
    found = ImageEvaluator("single").hits([boxes[k] for k in alone], [targets[k] for k in alone])
    assert found.tolist() == [True, False, False]
