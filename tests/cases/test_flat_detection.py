"""One detection that cannot be a box costs neither its image nor the data set."""

import json

import numpy as np
import pytest

from relgrounding.features import RegionFeatures
from relgrounding.features.convert import convert_features
from relgrounding.io import BadFeatures
from tests.cases.inputs import flat_detection


@pytest.mark.parametrize("name", ["flat", "outside", "tiny"])
def test_one_box_is_left_out_and_the_image_stays(case, caplog, name):
    folder = case(flat_detection)
    made = convert_features(folder / f"{name}.json", folder / "o.h5", sizes=folder / "sizes.json")
    assert (made.items, made.rows, made.skipped, made.boxes_left_out, made.images_left_out) == (2, 40, 0, 1, 0)
    assert [len(RegionFeatures(folder / "o.h5")[key].boxes) for key in ("1", "2")] == [20, 20]
    assert f"{name}.json: 1 box left out" in caplog.text
    assert "image '1'" in caplog.text
    assert "xywh" not in caplog.text


def test_an_image_of_no_other_box_is_left_out(case):
    folder = case(flat_detection)
    entries = json.loads((folder / "flat.json").read_text())
    kept = [entry for entry in entries if entry["image_id"] == 2 or entry["bbox"][2] == 0]
    (folder / "one.json").write_text(json.dumps(kept))
    made = convert_features(folder / "one.json", folder / "o.h5", sizes=folder / "sizes.json")
    assert (made.items, made.rows, made.boxes_left_out, made.images_left_out) == (1, 20, 1, 1)
    assert RegionFeatures(folder / "o.h5").ids == ["2"]


def test_sizes_of_other_pictures_are_an_error(case):
    folder = case(flat_detection)
    sizes = [{"id": i, "width": 12, "height": 8} for i in (1, 2)]
    (folder / "sizes.json").write_text(json.dumps({"images": sizes}))
    with pytest.raises(BadFeatures, match=r"of 41 boxes have no area or lie outside of their image, such as image '1'"):
        convert_features(folder / "flat.json", folder / "o.h5", sizes=folder / "sizes.json")


def test_the_features_that_are_kept_are_those_of_the_boxes_that_are(case):
    folder = case(flat_detection)
    entries = json.loads((folder / "flat.json").read_text())
    (folder / "flat.json").write_text(json.dumps([entries[-1], *entries[:-1]]))  # the first row of its image
    convert_features(folder / "flat.json", folder / "o.h5", sizes=folder / "sizes.json")
    found = RegionFeatures(folder / "o.h5")["1"]
    np.testing.assert_allclose(found.features[:, 1:5] * (640, 480, 640, 480), found.boxes, rtol=1e-5)
    np.testing.assert_allclose(found.features[:, 6], 0.9)
