"""A `.tsv` is read by its header, and its ids are those of the other formats."""

import codecs

import pytest

from relgrounding.features import RegionFeatures
from relgrounding.features.convert import convert_features
from relgrounding.io import BadFeatures
from tests.cases.inputs import tsv


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
