"""One rule for ids, whatever the format."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from relgrounding.config import load_config
from relgrounding.features import ClipFeatures, RegionFeatures, Regions, write_clip_features, write_region_features
from relgrounding.features.convert import convert_features
from relgrounding.io import BadFeatures, MissingFeatures
from relgrounding.io._ids import canonical_id
from tests.cases import clips, ids, lines
from tests.datasets.checking import verify_config


def test_a_video_is_found_with_and_without_its_ending(case):
    folder = case(ids)
    convert_features(folder / "npy", folder / "o.h5")
    store = ClipFeatures(folder / "o.h5")
    assert "s13-d21.avi" in store
    np.testing.assert_array_equal(store["s13-d21.avi"], store["s13-d21"])
    assert store.duration("s13-d21.avi") is None


def test_an_image_is_found_by_its_number_and_by_cocos_name(case):
    folder = case(ids)
    convert_features(folder / "npz", folder / "o.h5")
    store = RegionFeatures(folder / "o.h5")
    assert store.ids == ["581857"]
    for name in ("581857", "000000581857", "COCO_train2014_000000581857.jpg", "COCO_val2014_000000581857"):
        assert store[name].size == (640, 480)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1000268201.jpg", "1000268201"),
        ("a.avi.npy", "a"),
        ("A.MP4", "A"),
        (".npy", ".npy"),
        ("000", "0"),
        ("vid_60.0_210.0", "vid_60.0_210.0"),
        ("007-b", "007-b"),
        ("٠٠٧", "٠٠٧"),
        ("COCO_train2014_000000581857_0", "COCO_train2014_000000581857_0"),
    ],
)
def test_the_rule(text, expected):
    assert canonical_id(text) == expected == canonical_id(expected)


def test_an_exact_match_comes_first_and_two_others_are_named(tmp_path):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        for number, name in enumerate(("007", "07", "b.avi")):
            file[name] = np.full((1, 2), number, "f4")
    store = ClipFeatures(tmp_path / "c.h5")
    assert [store[name][0, 0] for name in ("007", "07", "b", "b.mp4")] == [0, 1, 2, 2]
    with pytest.raises(BadFeatures, match=r"'7' may be '007' or '07'; ask by one of these"):
        store["7"]
    with pytest.raises(BadFeatures, match=r"'007' and '07' both have the id '7'; rename or remove one of them"):
        convert_features(tmp_path / "c.h5", tmp_path / "o.h5")


def test_what_is_missing_names_what_is_near(tmp_path):
    clips(tmp_path / "f.h5", [f"v_clip{i}" for i in range(4)])
    with pytest.raises(MissingFeatures, match="did you mean 'v_clip2'"):
        ClipFeatures(tmp_path / "f.h5")["clip2.mp4"]
    for split, number in (("train", 1), ("test", 2)):
        row = {"video": f"clip{number}", "duration": 8, "query": "a person talks", "segment": [1, 2]}
        lines(tmp_path / f"{split}.jsonl", [row])
    settings = [f"data.root={tmp_path}", "data.dataset=own", "data.features=f.h5", "model.name=vgn"]
    rows = {row.check: row for row in verify_config(load_config(None, [*settings, "data.queries='{split}.jsonl'"]))}
    found = rows["features: items missing"]
    assert (found.found, found.status) == ("2", "DIFFERS")
    assert "2 missing, 4 unused; 'clip1' against 'v_clip1'?; 'clip2' against 'v_clip2'?" in found.meaning


def test_other_spellings_are_not_missing(tmp_path):
    clips(tmp_path / "f.h5", ["clip1.avi", "clip2.avi"])
    for split, number in (("train", 1), ("test", 2)):
        row = {"video": f"clip{number}", "duration": 8, "query": "a person talks", "segment": [1, 2]}
        lines(tmp_path / f"{split}.jsonl", [row])
    settings = [f"data.root={tmp_path}", "data.dataset=own", "data.features=f.h5", "model.name=vgn"]
    rows = {row.check: row for row in verify_config(load_config(None, [*settings, "data.queries='{split}.jsonl'"]))}
    assert rows["features: items missing"].found == "0"
    assert "features: items unused" not in rows


def test_an_id_that_is_not_text_is_an_error_that_says_so(tmp_path):
    write_clip_features(tmp_path / "clips.h5", [("7", np.zeros((2, 3), np.float32))], {"description": "zeros"})
    regions = Regions(np.zeros((1, 3), np.float32), np.array([[0, 0, 5, 5]], np.float32), (9, 9))
    write_region_features(tmp_path / "regions.h5", [("7", regions)], {"description": "zeros"})
    code = (  # without the type checker of the tests, whose own error would come first
        "import sys; from relgrounding.features import open_features\n"
        "for path in sys.argv[1:]:\n"
        "    store = open_features(path)\n"
        "    assert 7 not in store\n"
        "    for ask in (lambda: store[7], lambda: store.find(7), lambda: list(store)):\n"
        "        try:\n"
        "            ask()\n"
        "        except TypeError as error:\n"
        "            print(error)\n"
    )
    paths = [str(tmp_path / "clips.h5"), str(tmp_path / "regions.h5")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    message = "an id is text, such as '581857', not {} (int); the attribute ids lists them all"
    assert done.stdout.splitlines() == [message.format(number) for number in (7, 7, 0)] * 2
