import gc
import os
import pickle
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relgrounding.features import (
    ClipFeatures,
    RegionFeatures,
    Regions,
    _stores,
    open_features,
    write_clip_features,
    write_region_features,
)
from relgrounding.io import BadFeatures

MEMORY = pytest.mark.parametrize("in_memory", [True, False, None])


def regions(count, dim=3, seed=0):
    random = np.random.default_rng(seed)
    features = random.standard_normal((count, dim)).astype(np.float16).astype(np.float32)
    corner = random.integers(0, 50, (count, 2))
    return Regions(features, np.concatenate([corner, corner + 5], 1).astype(np.float32), (64, 64))


@pytest.fixture
def clip_file(tmp_path):
    path = tmp_path / "new" / "clips.h5"
    write_clip_features(path, [("b", np.ones((2, 3))), ("a", np.full((1, 3), 0.5))], {"description": "ones", "seed": 1})
    return path


@pytest.fixture
def region_file(tmp_path):
    path = tmp_path / "regions.h5"
    write_region_features(path, [("b", regions(2)), ("empty", regions(0)), ("a", regions(1, seed=1))], {"k": "v"})
    return path


@MEMORY
def test_clips_come_back(clip_file, in_memory):
    store = ClipFeatures(clip_file, in_memory)
    assert (store.dim, set(store.ids), len(store)) == (3, {"a", "b"}, 2)
    assert store.attributes == {"description": "ones", "seed": 1}
    assert "a" in store
    assert "c" not in store
    assert "a\0b" not in store  # HDF5 reads a name up to its first NUL
    for _ in range(2):
        np.testing.assert_array_equal(store["b"], np.ones((2, 3), dtype=np.float32))
    assert store["b"].dtype == np.float32
    with pytest.raises(KeyError, match=r"no features of 'c' in .*clips\.h5 \(2 ids"):
        store["c"]


def test_a_first_read_opens_its_dataset_once(clip_file, monkeypatch):
    store, opened, member = ClipFeatures(clip_file), [], _stores.member
    assert store.dim == 3
    monkeypatch.setattr(_stores, "member", lambda file, key, where: opened.append(key) or member(file, key, where))
    for key in ("b", "a", "b", "b.avi"):
        store[key]
    assert opened == ["b", "a", "b.avi"]


@MEMORY
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_regions_come_back(tmp_path, in_memory, counts):
    written = {f"image {i}": regions(count, seed=i) for i, count in enumerate(counts)}
    write_region_features(tmp_path / "r.h5", written.items())
    store = RegionFeatures(tmp_path / "r.h5", in_memory)
    assert (store.ids, store.dim, len(store)) == (list(written), 3, len(counts))
    assert "image 0" in store
    assert "x" not in store
    for key, expected in written.items():
        found = store[key]
        np.testing.assert_array_equal(found.features, expected.features)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        assert found.size == expected.size
        assert found.features.dtype == found.boxes.dtype == np.float32
    with pytest.raises(KeyError, match="no features of 'x'"):
        store["x"]


# what Python 3.12 warns of is what is tested: a process with threads that forks
NUMBERS = st.sampled_from([0.0, 0.5, 1.0, 3.0, 40.0, 90.0, 200.0, -5.0, 3e38, np.inf, np.nan])
FINE = (1.0, 2.0, 30.0, 20.0)
BOX = st.sampled_from([FINE, FINE, (3.0, 2.0, 3.0, 9.0), (-5.0, 2.0, 3.0, 9.0), (0.0, 0.0, 1.0, 1.0)]) | st.tuples(
    *[NUMBERS] * 4
)
FEATURE = st.sampled_from([0.0, 1.0, -3e38, 3e38, np.inf, np.nan])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(images=st.lists(st.lists(st.tuples(BOX, FEATURE), max_size=3), min_size=1, max_size=3), data=st.data())
def test_a_store_in_memory_refuses_and_leaves_out_what_one_on_disk_does(tmp_path, images, data):
    sizes = data.draw(
        st.lists(st.sampled_from([(100, 50), (1, 1), (2, 1)]), min_size=len(images), max_size=len(images))
    )
    rows = [row for image in images for row in image]
    with h5py.File(tmp_path / "any.h5", "w") as file:
        file["boxes"] = np.array([box for box, _ in rows], dtype=np.float32).reshape(-1, 4)
        file["features"] = np.array([[3e38, feature] for _, feature in rows], dtype=np.float32).reshape(-1, 2)
        file["offsets"] = np.cumsum([0, *map(len, images)]).astype(data.draw(st.sampled_from(["u1", "i4", "u8"])))
        file["ids"], file["sizes"] = [f"i{k}" for k in range(len(images))], sizes

    def answers(in_memory):
        store = RegionFeatures(tmp_path / "any.h5", in_memory)
        for key in store.ids:
            try:
                yield [np.asarray(part).tolist() for part in store[key]]
            except BadFeatures as error:
                yield str(error)

    assert list(answers(in_memory=True)) == list(answers(in_memory=False))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@MEMORY
@pytest.mark.parametrize("kind", ["clips", "regions"])
def test_a_used_store_survives_pickle_and_fork(clip_file, region_file, kind, in_memory):
    store = ClipFeatures(clip_file, in_memory) if kind == "clips" else RegionFeatures(region_file, in_memory)
    expected = pickle.dumps(store["b"])
    assert pickle.dumps(pickle.loads(pickle.dumps(store))["b"]) == expected
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(
            writer,
            bytes([pickle.dumps(store["b"]) == expected, store._owner in (0, os.getpid()) or in_memory is not False]),
        )
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 2) == b"\1\1"


def test_nothing_is_opened_before_use(clip_file):
    store = ClipFeatures(clip_file)
    assert store._file is None
    assert len(pickle.dumps(store)) < 1000


@MEMORY
def test_what_a_caller_changes_is_the_callers(clip_file, region_file, in_memory):
    clips, images = ClipFeatures(clip_file, in_memory), RegionFeatures(region_file, in_memory)
    for get in (lambda: clips["b"], lambda: images["b"].features, lambda: images["b"].boxes):
        before = get().copy()
        torch.from_numpy(get()).add_(1)
        np.testing.assert_array_equal(get(), before)


def test_missing_file_says_what_to_do(tmp_path):
    for store in (ClipFeatures, RegionFeatures):
        with pytest.raises(FileNotFoundError, match=r"x\.h5 not found; relgrounding prepare makes such files"):
            store(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(3), r"'v' in .* is shape \(3,\); expected one dataset \(clips >= 1, dim\)"),
        (np.zeros((0, 3)), r"is shape \(0, 3\)"),
        (None, "is a group"),
        (np.zeros((1, 4)), "'v' in .* has features of width 4, others 3"),
        (np.array([[0, np.nan, 0]]), "'v' in .* hold NaN or infinity"),
    ],
)
def test_bad_clips_are_named(tmp_path, content, message):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["a"] = np.zeros((1, 3))
        if content is None:
            file.create_group("v")
        else:
            file["v"] = content
    with pytest.raises(ValueError, match=message):
        ClipFeatures(tmp_path / "c.h5")["v"]


def test_empty_clip_file(tmp_path):
    write_clip_features(tmp_path / "c.h5", [])
    with pytest.raises(ValueError, match="is empty"):
        _ = ClipFeatures(tmp_path / "c.h5").dim


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sizes", None, "lacks sizes; docs/features.md has the flat ragged layout"),
        ("features", None, "lacks features; docs/features.md"),
        ("features", np.zeros(3), r"features in .* has shape \(3,\), expected \(regions, dim\)"),
        ("boxes", np.zeros((2, 4)), r"boxes in .* has shape \(2, 4\), expected \(3, 4\)"),
        ("offsets", np.array([0, 2, 2, 4]), "must rise from 0 to the number of regions, 3"),
        ("offsets", np.array([0, 3, 2, 3]), "must rise from 0"),
        ("ids", np.array([b"a", b"a", b"b"]), "repeat: 3 ids, 2 different ones"),
    ],
)
def test_bad_region_files_are_named(region_file, name, content, message):
    with h5py.File(region_file, "a") as file:
        del file[name]
        if content is not None:
            file[name] = content
    for read in (lambda store: store["a"], lambda store: store.dim):
        with pytest.raises(ValueError, match=message):
            read(RegionFeatures(region_file))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("a/b", np.zeros((1, 2)))], "'a/b' cannot name a dataset"),
        ([("a", np.zeros((1, 2)))] * 2, "video id 'a' comes twice"),
        ([("a", np.full((1, 2), 1e6))], "features of 'a' are not finite in float16"),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, items, message):
    path = tmp_path / "c.h5"
    write_clip_features(path, [("old", np.zeros((1, 2)))])
    with pytest.raises(ValueError, match=message):
        write_clip_features(path, items)
    assert os.listdir(tmp_path) == ["c.h5"]
    assert ClipFeatures(path).ids == ["old"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no images to write"),
        ([("a", regions(1)), ("a", regions(1))], "image id 'a' comes twice"),
        ([("a", regions(2)._replace(boxes=np.zeros((1, 4), np.float32)))], "image 'a' has 2 features and 1 boxes"),
    ],
)
def test_bad_regions_are_not_written(tmp_path, items, message):
    with pytest.raises(ValueError, match=message):
        write_region_features(tmp_path / "r.h5", items)
    assert os.listdir(tmp_path) == []


def test_examples_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(example, {})


def test_a_name_that_is_not_utf_8_is_damage(tmp_path):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file[b"v\xae"] = np.zeros((1, 3))
    with pytest.raises(ValueError, match="has a name that is not UTF-8"):
        _ = ClipFeatures(tmp_path / "c.h5").dim


@pytest.mark.parametrize("size", [(640, 480), (1, 1)])
def test_boxes_that_are_shares_of_an_image_are_refused(tmp_path, size):
    boxes = np.array([[0.1, 0.1, 0.5, 1.0], [0.2, 0.4, 0.9, 0.9]], np.float32)
    write_region_features(tmp_path / "r.h5", [("a", Regions(np.ones((2, 3), np.float32), boxes, size))])
    store = RegionFeatures(tmp_path / "r.h5")
    assert store.size("a") == size
    with pytest.raises(
        ValueError, match=rf"boxes of 'a' in .* an image of {size[0]} x {size[1]}; shares of the image\?"
    ):
        store["a"]
    with pytest.raises(KeyError, match="no features of 'b'"):
        store.size("b")


@pytest.mark.parametrize("kind", ["clips", "regions"])
def test_a_file_is_closed_with_its_store(clip_file, region_file, kind):
    store = ClipFeatures(clip_file) if kind == "clips" else RegionFeatures(region_file)
    _ = store["b"]
    file = store._file
    assert file
    del store
    gc.collect()
    assert not file  # an open one may call into an interpreter that has ended


def test_a_file_of_regions_is_not_read_as_clips_and_a_video_may_be_called_offsets(tmp_path):
    write_region_features(tmp_path / "regions.h5", [("a", regions(2))])
    assert open_features(tmp_path / "regions.h5").ids == ["a"]
    with pytest.raises(BadFeatures, match=r"regions\.h5 holds features of regions, expected clips; name another store"):
        open_features(tmp_path / "regions.h5", "clips")
    write_clip_features(tmp_path / "clips.h5", [("offsets", np.ones((2, 3)))])
    for kind in ("", "clips"):
        assert open_features(tmp_path / "clips.h5", kind)["offsets"].shape == (2, 3)
