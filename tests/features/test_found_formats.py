"""Files as they circulate are converted and answered about; a bad box costs neither its image nor the rest."""

import codecs
import json

import numpy as np
import pytest

from relgrounding.features import ClipFeatures, RegionFeatures
from relgrounding.features.convert import convert_features, detect_format
from relgrounding.io import BadFeatures
from relgrounding.modalities import MODALITIES
from relgrounding.modalities._inputs import Stores
from tests.cases import flat_detection, formats, tsv

IMAGES = [
    ("vl_t5.h5", "hdf5-regions", {"581857": (640, 480)}),
    ("meshed.hdf5", "hdf5-prefix", {"581857": (640, 480)}),
    ("ban_train.hdf5", "hdf5-table", {"1000268201": (60, 60), "1000344755": (200, 150)}),
]


def test_clips_of_moment_detr(case):
    folder = case(formats)
    assert detect_format(folder / "moment_detr") == "npz-clips"
    convert_features(folder / "moment_detr", folder / "o.h5")
    store = ClipFeatures(folder / "o.h5")
    assert store["vid_60.0_210.0"].shape == (75, 16)
    for path, item in ((folder / "moment_detr", "vid_60.0_210.0"), (folder / "moment_detr", None)):
        assert (Stores(MODALITIES.get("video")()).read(path, item) == store["vid_60.0_210.0"]).all()


@pytest.mark.parametrize(("name", "kind", "sizes"), IMAGES)
def test_regions(case, caplog, name, kind, sizes):
    folder = case(formats)
    assert detect_format(folder / name) == kind
    made = convert_features(folder / name, folder / "o.h5")
    assert (made.items, made.rows, made.dim) == (len(sizes), 2 * len(sizes), 8)
    store = RegionFeatures(folder / "o.h5")
    assert {key: store[key].size for key in store.ids} == sizes
    assert ("--sizes instances.json gives the true ones" in caplog.text) == (name == "ban_train.hdf5")
    for key in sizes:
        read = Stores(MODALITIES.get("image")()).read(folder / name, f"{key}.jpg")
        assert (read.features == store[key].features).all()
        assert (read.boxes == store[key].boxes).all()


def test_the_columns_are_those_of_the_header(case):
    folder = case(tsv)
    convert_features(folder / "header.tsv", folder / "o.h5")
    assert RegionFeatures(folder / "o.h5")["7"].size == (500, 375)


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_ten_columns_have_the_short_id(case, mark):
    folder = case(tsv)
    path = folder / "ten_columns.tsv"
    path.write_bytes(mark + path.read_bytes())
    convert_features(path, folder / "o.h5")
    store = RegionFeatures(folder / "o.h5")
    assert store.ids == ["581857"]
    assert store["COCO_train2014_000000581857.jpg"].size == (640, 480)


def test_a_header_that_lacks_a_column_is_an_error(case):
    folder = case(tsv)
    text = (folder / "header.tsv").read_text()
    (folder / "other.tsv").write_text("\ufeff" + text.replace("image_w", "breadth"))
    with pytest.raises(BadFeatures, match=r"other\.tsv, line 1 names the columns .*; expected image_w once among them"):
        convert_features(folder / "other.tsv", folder / "o.h5")


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
