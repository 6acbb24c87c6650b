import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.datasets import ActionInterval, ImageObjects, load_instances
from relgrounding.datasets.charades_sta import action_coverage
from relgrounding.datasets.refcoco import category_features
from relgrounding.features import ClipFeatures, RegionFeatures
from tools import prepare

TENTHS = st.integers(-20, 120)


@given(st.lists(st.tuples(st.integers(0, 2), TENTHS, TENTHS), max_size=6), st.integers(1, 7), st.integers(1, 100))
def test_coverage_agrees_with_counting_small_steps(intervals, clips, tenths):
    share = action_coverage([ActionInterval(a, s / 10, e / 10) for a, s, e in intervals], tenths / 10, clips)
    # the video in steps of 1 / (10 clips) second: all edges of clips and intervals fall on edges of steps
    middle = np.arange(tenths * clips) + 0.5
    for action in range(3):
        covered = np.zeros(len(middle), dtype=bool)
        for other, start, end in intervals:
            if other == action:
                covered |= (middle > start * clips) & (middle < end * clips)
        np.testing.assert_allclose(share[:, action], covered.reshape(clips, -1).mean(1), atol=1e-9)
    assert not share[:, 3:].any()


def test_category_features():
    objects = ImageObjects(
        (100, 50), np.array([[10.0, 20, 60, 30], [0, 0, 100, 50]]), np.array([1, 0]), np.array([4, 5])
    )
    expected = [[0, 1, 0, 0.1, 0.4, 0.6, 0.6, 0.1], [1, 0, 0, 0, 0, 1, 1, 1]]
    np.testing.assert_allclose(category_features(objects, 3), expected)


@pytest.fixture
def charades(tmp_path):
    root = tmp_path / "charades_sta"
    root.mkdir()
    csv = "id,actions,length\nAAAAA,c001 0.0 4.0,8.0\nBBBBB,,5.5\nCCCCC,,1.0\n"
    (root / "Charades_v1_train.csv").write_text(csv)
    (root / "Charades_v1_test.csv").write_text("id,actions,length\n")
    (root / "charades_sta_train.txt").write_text("AAAAA 1.0 2.5##a.\nBBBBB 1.0 2.0##b.\n")
    (root / "charades_sta_test.txt").write_text("")
    return root


def test_charades_actions(charades, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RELGROUNDING_DATA", str(tmp_path))
    assert prepare.main(["charades-actions", str(tmp_path / "x.h5"), "--clips", "4", "--noise", "0"]) == 0
    captured = capsys.readouterr()
    assert "not visual features" in captured.err
    assert captured.out.endswith("2 videos x 4 clips x 157 actions, noise 0\n")
    store = ClipFeatures(tmp_path / "x.h5")
    assert store.ids == ["AAAAA", "BBBBB"]
    assert store["AAAAA"][:, 1].tolist() == [1, 1, 0, 0]
    assert not store["BBBBB"].any()
    assert "not visual features" in store.attributes["warning"]
    assert (store.attributes["clips"], store.attributes["noise"], store.attributes["seed"]) == (4, 0, 0)


def test_noise_depends_on_seed_and_video_alone(charades, tmp_path):
    def make(*words):
        command = ["charades-actions", str(tmp_path / "x.h5"), "--root", str(charades), "--noise", "0.5", *words]
        assert prepare.main(command) == 0
        return ClipFeatures(tmp_path / "x.h5")["BBBBB"]

    first = make()
    assert 0.45 < first.std() < 0.55
    assert (make("--seed", "1") != first).any()
    (charades / "charades_sta_train.txt").write_text("BBBBB 1.0 2.0##b.\n")
    np.testing.assert_array_equal(make(), first)


@pytest.mark.parametrize("words", [["--clips", "0"], ["--noise", "-1"], ["--noise", "nan"], ["--seed", "-1"]])
def test_bad_options_are_refused(tmp_path, words, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["charades-actions", str(tmp_path / "x.h5"), *words])
    assert "is less than" in capsys.readouterr().err


def test_missing_annotations_say_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RELGROUNDING_DATA", raising=False)
    assert prepare.main(["coco-categories", str(tmp_path / "x.h5")]) == 2
    assert "give --root, or set RELGROUNDING_DATA to what holds refcoco" in capsys.readouterr().err
    assert prepare.main(["coco-categories", str(tmp_path / "x.h5"), "--root", str(tmp_path)]) == 2
    assert "not found; download refcoco from" in capsys.readouterr().err


def test_coco_categories_on_real_annotations(data_root, tmp_path):
    root = tmp_path / "refcoco"
    shutil.copytree(data_root / "refcoco" / "refcoco+", root / "refcoco+")
    assert prepare.main(["coco-categories", str(tmp_path / "x.h5"), "--root", str(root), "--name", "refcoco+"]) == 0
    instances, store = load_instances(root, "refcoco+"), RegionFeatures(tmp_path / "x.h5")
    assert "not visual features" in store.attributes["warning"]
    assert (store.dim, len(store)) == (85, 1500)
    for image in instances.ids[:100]:
        objects, regions = instances[image], store[image]
        assert regions.size == objects.size
        np.testing.assert_allclose(regions.boxes, objects.boxes, rtol=1e-6)
        np.testing.assert_array_equal(regions.features[:, :80].argmax(1), objects.category)
        np.testing.assert_array_equal(regions.features[:, :80].sum(1), 1)
        corners = objects.boxes / (*objects.size, *objects.size)
        np.testing.assert_allclose(regions.features[:, 80:84], corners, atol=1e-3)
