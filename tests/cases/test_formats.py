"""Formats in the wild are converted, and answered about as they are."""

import pytest

from relgrounding.features import ClipFeatures, RegionFeatures
from relgrounding.features.convert import convert_features, detect_format
from relgrounding.modalities._inputs import Stores
from tests.cases.inputs import formats

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
        assert (Stores(True).read(path, item) == store["vid_60.0_210.0"]).all()


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
        read = Stores(False).read(folder / name, f"{key}.jpg")
        assert (read.features == store[key].features).all()
        assert (read.boxes == store[key].boxes).all()
