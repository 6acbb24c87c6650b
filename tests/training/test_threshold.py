import json

from tests.cases import threshold
from tests.evaluation.recount import recount
from tests.training.tiny import tool


def test_an_overlap_of_exactly_one_half_is_found_and_stays_one_half_in_the_file(case):
    folder = case(threshold)
    assert tool("train").main(["--config", "own.yaml"]) == 0
    for entry in json.loads((folder / "runs/threshold/results.json").read_text()):
        assert entry["oracle"]["R@1,IoU=0.5"] == 100.0
        assert entry["oracle"]["mIoU"] == 50.0
    for written, again in recount(folder / "runs/threshold"):
        assert written == again
