"""The table of `tools/prepare.py verify`: each fault in its row; of the real data the differences that are known."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from relgrounding.config import ConfigError, load_config
from relgrounding.datasets._verify import format_rows
from relgrounding.features import Regions, write_clip_features, write_region_features
from relgrounding.features.convert import convert_features
from tests.datasets.checking import verify_config
from tools import prepare

ROOT = Path(__file__).parents[2]


def video_line(number, **change):
    return {"id": number, "video": f"v{number}", "duration": 8.0, "query": "the red one", "segment": [2, 6]} | change


def own(folder, train, test, model="vgn", features="features.h5"):
    for split, lines in (("train", train), ("test", test)):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    if model == "vgn" and not (folder / "features.h5").exists():
        write_clip_features(folder / "features.h5", ((f"v{i}", np.ones((3, 2))) for i in range(6)))
    words = [f"data.root={folder}", "data.dataset=own", "data.queries='{split}.jsonl'", f"model.name={model}"]
    return load_config(None, [*words, *([f"data.features={features}"] if features else [])])


def differing(config):
    return {row.check: row.found for row in verify_config(config) if row.status == "DIFFERS"}


def good():
    return [video_line(i) for i in range(4)], [video_line(i) for i in (4, 5)]


def test_good_data_has_no_difference(tmp_path):
    rows = verify_config(own(tmp_path, *good()))
    assert all(row.status == "ok" for row in rows)
    assert "all as it should be" in format_rows(rows)
    assert not any("features" in row.check for row in verify_config(own(tmp_path, *good(), features="")))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"query": "?!"}, {"train: queries without a word": "1"}),
        ({"segment": [3, 3]}, {"train: bad records": "1"}),
        ({"segment": [3, 10.5]}, {"train: bad records": "1"}),
        ({"video": "other"}, {"features: items missing": "1"}),
        ({"video": "v5"}, {"train and test: shared items": "1"}),
        ({"duration": 0}, {"train: bad records": "1"}),
    ],
)
def test_a_fault_of_the_annotations_is_in_its_row(tmp_path, change, expected):
    train, test = good()
    assert differing(own(tmp_path, [*train[:3], video_line(3) | change], test)) == expected


def test_duplicates_are_noted(tmp_path):
    train, test = good()
    rows = verify_config(own(tmp_path, [*train, video_line(0, id=9)], test))
    assert [(row.check, row.found) for row in rows if row.status != "ok"] == [("train: duplicates", "1")]
    rows = verify_config(own(tmp_path, [*train[:3], video_line(3, segment=[3, 8.5])], test))
    note = ("train: segments cut at the end of their video", "1")
    assert [(row.check, row.found) for row in rows if row.status != "ok"] == [note]


def test_faults_of_features_are_in_their_rows(tmp_path):
    config = own(tmp_path, *good())
    with h5py.File(tmp_path / "features.h5", "a") as file:
        file["v1"][0, 0] = np.nan
        del file["v2"]
        file["v2"] = np.ones((3, 5))
    assert differing(config) == {"features: NaN or infinity": "1", "features: shape, box or damage": "1"}
    (tmp_path / "features.h5").write_bytes(b"no HDF5")
    assert differing(config) == {"features: file": "none"}
    config.data.features = "nothing.h5"
    assert differing(config) == {"features: file": "none"}


@pytest.mark.parametrize("content", [np.ones((0, 2)), np.ones(2), np.array([b"a", b"b"])])
def test_features_that_are_not_clips_are_in_one_row(tmp_path, content):
    config = own(tmp_path, *good())
    with h5py.File(tmp_path / "features.h5", "a") as file:
        del file["v1"]
        file["v1"] = content
    assert differing(config) == {"features: shape, box or damage": "1"}


def test_a_duration_that_is_not_one_is_in_the_row_of_durations(tmp_path):
    config = own(tmp_path, *good())
    with h5py.File(tmp_path / "features.h5", "a") as file:
        file["v1"].attrs["duration"] = -1.0
    assert differing(config) == {"features: durations": "1 differ"}


def test_a_file_that_changed_after_its_conversion(tmp_path):
    config = own(tmp_path, *good(), features="new.h5")
    convert_features(tmp_path / "features.h5", tmp_path / "new.h5")
    assert differing(config) == {}
    with h5py.File(tmp_path / "new.h5", "a") as file:
        file["v1"][0, 0] = 7
    assert differing(config) == {"features: SHA-256": "another"}


def test_boxes_of_images(tmp_path):
    boxes = np.array([[0, 0, 5, 5], [4, 4, 9, 9]], np.float32)
    over = np.array([[0, 0, 5, 5], [4, 4, 9, 13]], np.float32)
    items = [(f"i{i}", Regions(np.eye(2, dtype=np.float32), over if i == 2 else boxes, (10, 10))) for i in range(4)]
    write_region_features(tmp_path / "features.h5", items)
    lines = [{"id": i, "image": f"i{i}", "size": [10, 10], "query": "red", "box": [0, 0, 5, 5]} for i in range(4)]
    lines[1]["box"] = [0, 0, 10.8, 5]
    config = own(tmp_path, lines[:3], lines[3:], "ign")
    assert differing(config) == {"train: boxes outside images": "1", "features: boxes outside images": "1"}


def test_boxes_are_compared_with_the_sizes_of_the_features(tmp_path):
    boxes = np.array([[0, 0, 5, 5], [4, 4, 9, 9]], np.float32)
    items = ((f"i{i}", Regions(np.eye(2, dtype=np.float32), boxes, (10, 10))) for i in range(4))
    write_region_features(tmp_path / "features.h5", items)
    lines = [{"id": i, "image": f"i{i}", "query": "red", "box": [0, 0, 11, 5]} for i in range(4)]
    config = own(tmp_path, lines[:3], lines[3:], "ign")
    assert differing(config) == {}
    lines[3]["box"] = [0, 0, 5, 11.5]
    (row,) = [row for row in verify_config(own(tmp_path, lines[:3], lines[3:], "ign")) if row.status == "DIFFERS"]
    assert (row.check, row.found) == ("features: annotated boxes outside images", "1")
    assert row.meaning == (
        f"test, query '3': [0.0, 0.0, 5.0, 11.5] lies outside of 'i3', which is 10 x 10 pixels in "
        f"{tmp_path}/features.h5; is it in pixels of that image?"
    )
    with h5py.File(tmp_path / "features.h5", "a") as file:
        file["features"][6] = np.nan
    assert differing(config) == {"features: NaN or infinity": "1"}


@pytest.mark.parametrize(
    ("annotated", "stated", "agree"),
    [
        (31.0, 30.96, True), (30.0, 32.0, True), (30.0, 32.1, False), (31.2, 62.4, False), (31.2, 15.6, False),
        (4.0, 5.0, True), (4.0, 5.1, False), (3.0, 1.5, False), (700.0, 706.9, True), (700.0, 707.1, False),
    ],
)  # fmt: skip
def test_durations_of_features_are_compared(tmp_path, annotated, stated, agree):
    config = own(tmp_path, [video_line(i, duration=annotated, segment=[0, 1]) for i in range(4)], good()[1])
    assert not any(row.check == "features: durations" for row in verify_config(config))
    with h5py.File(tmp_path / "features.h5", "a") as file:
        file["v1"].attrs["duration"] = stated
    found = {row.check: (row.found, row.status) for row in verify_config(config)}
    assert found["features: durations"] == (("1 the same", "ok") if agree else ("1 differ", "DIFFERS"))
    assert len(differing(config)) == (not agree)


def test_sizes_of_features_are_compared(tmp_path):
    boxes = np.array([[0, 0, 5, 5], [4, 4, 9, 9]], np.float32)
    sizes = [(10, 10), (11, 10), (10, 9), (10, 12)]
    items = [(f"i{i}", Regions(np.eye(2, dtype=np.float32), boxes, size)) for i, size in enumerate(sizes)]
    write_region_features(tmp_path / "features.h5", items)
    lines = [{"id": i, "image": f"i{i}", "size": [10, 10], "query": "red", "box": [0, 0, 5, 5]} for i in range(4)]
    config = own(tmp_path, lines[:2], lines[2:], "ign")
    (row,) = [row for row in verify_config(config) if row.status == "DIFFERS"]
    assert (row.check, row.found) == ("features: image sizes", "1 differ")
    assert row.meaning.startswith("'i3' is 10 x 12 pixels in the features and 10 x 10 in the annotations: extract the")


def test_cut_sentences_are_counted(tmp_path):
    train, test = good()
    config = own(tmp_path, [*train[:3], video_line(3, query="one two three four")], test)
    config.data.max_words = 3
    (row,) = [row for row in verify_config(config) if row.status != "ok"]
    assert (row.check, row.found, row.status) == ("train: sentences cut", "1 (25.0%)", "note")
    assert row.meaning == "of more than data.max_words=3 words, up to 4: the rest of them is not read"


def test_the_embedded_scenes_have_nothing_to_check():
    with pytest.raises(ConfigError, match="have no files to check"):
        verify_config(load_config())


def test_the_exit_status_tells(tmp_path, capsys):
    own(tmp_path, *good())
    path = tmp_path / "c.yaml"
    path.write_text(
        f"data:\n  root: {tmp_path}\n  dataset: own\n  queries: '{{split}}.jsonl'\n  features: features.h5\n"
        "model:\n  name: vgn\n"
    )
    assert prepare.main(["verify", str(path)]) == 0
    assert "all as it should be" in capsys.readouterr().out
    (tmp_path / "features.h5").unlink()
    assert prepare.main(["verify", str(path)]) == 1
    assert prepare.main(["verify", str(path), "--no-features"]) == 0
    assert prepare.main(["verify", str(tmp_path / "no.yaml")]) == 2


REAL = {
    "charades_vgn": {},
    "activitynet_vgn": {},
    "refcoco_ign": {"train: queries": "16,994", "all: objects": "24,589"},
    "refcoco_plus_ign": {
        "train: queries": "none", "testA: queries": "none", "testB: queries": "none",
        "all: objects": "3,804", "all: images": "1,500",
    },
    "refcocog_ign": {
        "train: queries": "10,406", "test: queries": "none", "all: objects": "12,979", "all: images": "11,706"
    },
    "flickr30k_ign": {"train: images of the list": "7,559", "val: images of the list": "247"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_differences_of_the_real_data_are_those_that_are_known(data_root, name):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    if name != "flickr30k_ign":
        config.data.features = ""
    rows = verify_config(config)
    assert {row.check: row.found for row in rows if row.status == "DIFFERS"} == REAL[name]
    notes = {row.check: row.found for row in rows if row.status == "note" and "duplicates" not in row.check}
    if name == "flickr30k_ign":
        assert notes["test: queries"] == "none"  # test.txt is not among the files, and the configuration reads val
        config.data.test_splits = ["val", "test"]
        assert ("test: queries", "DIFFERS") in {(row.check, row.status) for row in verify_config(config)}
    if name == "refcoco_ign":
        assert {k: v for k, v in notes.items() if "cut" not in k} == {"train and refcocog val: shared": "634"}
        assert notes["train: sentences cut"] == "7 (0.0%)"
    if name == "activitynet_vgn":
        assert notes == {
            "train: queries": "37,421",
            "train: segments without length": "4",
            "train: sentences cut": "4,278 (11.4%)",
            "val_1: sentences cut": "2,168 (12.4%)",
            "val_2: sentences cut": "1,265 (7.4%)",
        }
