"""The floors that are published beside the data, reproduced from the annotations."""

from pathlib import Path

import numpy as np
import pytest

from relgrounding.datasets import Instances, load_charades, load_durations, load_flickr30k, load_instances, load_refcoco
from relgrounding.evaluation import (
    ImageEvaluator,
    VideoEvaluator,
    fit_constant_segments,
    image_floors,
    image_oracle,
    video_floors,
)
from relgrounding.features import RegionFeatures


def test_constant_segments_on_charades_test_are_the_published_floor(data_root: Path) -> None:
    root = data_root / "charades_sta"
    durations = load_durations(root)
    train, test = load_charades(root, "train"), load_charades(root, "test")
    evaluator = VideoEvaluator(reversed_targets=True)
    constants = fit_constant_segments(
        evaluator, [q.targets[0] for q in train], [durations[q.item] for q in train], steps=32
    )
    targets, lengths = [q.targets[0] for q in test], [durations[q.item] for q in test]
    floor = video_floors(evaluator, [[(0.0, s)] for s in lengths], targets, lengths, constants)["constant"]

    # The official files hold four moments that end before they start, all for training; nothing overlaps them.
    backwards = [i for i, query in enumerate(train) if query.targets[0][0] >= query.targets[0][1]]
    assert (len(backwards), len(test)) == (4, 3720)
    with pytest.raises(ValueError, match=f"targets of query {backwards[0]}: .* ends before it starts"):
        fit_constant_segments(VideoEvaluator(), [q.targets for q in train], [durations[q.item] for q in train])

    assert constants.fractions["R@1,IoU=0.5"] == ((0.0, 10 / 32),)
    assert constants.fractions["R@1,IoU=0.3"] == ((0.0, 17 / 32),)
    assert round(floor["R@1,IoU=0.5"], 1) == 30.7
    assert round(floor["R@1,IoU=0.3"], 1) == 49.4
    # The published 16.2 is what the segment that is best at 0.5 reaches at 0.7; the best one at 0.7 does better.
    same = evaluator([[(0.0, 10 / 32 * s)] for s in lengths], targets)
    assert round(same["R@1,IoU=0.7"], 1) == 16.2
    assert floor["R@1,IoU=0.7"] > same["R@1,IoU=0.7"]


@pytest.fixture(scope="module")
def instances(data_root: Path) -> Instances:
    return load_instances(data_root / "refcoco", "refcoco")


@pytest.mark.parametrize(
    ("split", "own_box", "own_box_in_category", "largest"),
    [("val", 15.6, 30.2, 29.1), ("testA", 12.2, 28.0, 30.1), ("testB", 20.1, 33.7, 28.8)],
)
def test_floors_of_refcoco(
    data_root: Path, instances: Instances, split: str, own_box: float, own_box_in_category: float, largest: float
) -> None:
    queries = load_refcoco(data_root / "refcoco", "refcoco", split)
    rows = {image: slice(instances.offsets[i], instances.offsets[i + 1]) for i, image in enumerate(instances.ids)}
    boxes, alike = [], []
    for query in queries:
        candidates, category = instances.boxes[rows[query.item]], instances.category[rows[query.item]]
        target = np.abs(candidates - np.array(query.targets[0])).sum(axis=1).argmin()
        boxes.append(candidates)
        alike.append(candidates[category == category[target]])
    targets = [q.targets for q in queries]
    evaluator = ImageEvaluator("single")
    floors = image_floors(evaluator, boxes, targets)

    assert round(floors["largest"]["Acc@0.5"], 1) == largest
    assert image_oracle(evaluator, boxes, targets)["Acc@0.5"] == 100.0
    # The published chances are those of drawing the very object; others that overlap it by more than half count too.
    for candidates, published in ((boxes, own_box), (alike, own_box_in_category)):
        chance = 100 * np.mean([1 / len(b) for b in candidates])
        assert round(chance, 1) == published
        assert chance <= image_floors(evaluator, candidates, targets)["random"]["Acc@0.5"] < chance + 1.5


@pytest.mark.parametrize(("reading", "random", "largest"), [("union", 24.8, 35.5), ("any", 30.6, 33.9)])
def test_floors_of_flickr30k(data_root: Path, reading: str, random: float, largest: float) -> None:
    root = data_root / "flickr30k_entities"
    queries = load_flickr30k(root, "val")
    store = RegionFeatures(root / "region_features.h5")
    boxes = {item: store[item].boxes for item in {q.item for q in queries}}
    floors = image_floors(ImageEvaluator(reading), [boxes[q.item] for q in queries], [q.targets for q in queries])

    assert len(queries) == 3229
    assert round(floors["largest"]["Acc@0.5"], 1) == largest
    # Where the published random floor comes from is not said. The exact expectation (24.6 and 30.1) is within the
    # standard error that one draw a query would have.
    standard_error = 100 * np.sqrt(random / 100 * (1 - random / 100) / len(queries))
    assert floors["random"]["Acc@0.5"] == pytest.approx(random, abs=standard_error)
