import json

import numpy as np
import pytest

from relgrounding.datasets import DATASETS, load_instances
from relgrounding.datasets._boxes import annotated_boxes
from relgrounding.features import RegionFeatures
from relgrounding.io import BadAnnotation, BadFeatures
from tools import prepare

OFFICIAL = [
    ("flickr30k", ["val"]),
    ("refcoco+", ["val"]),
    pytest.param("flickr30k", ["train", "val"], marks=pytest.mark.slow),
    pytest.param("refcoco", ["train", "val", "testA", "testB"], marks=pytest.mark.slow),
    pytest.param("refcocog", ["train", "val"], marks=pytest.mark.slow),
]
"""Splits that the real annotations hold."""


def make(name, root, **settings):
    kind = DATASETS.get(name)
    return kind(kind.Config(dataset=name, root=str(root), **settings), item="image")


@pytest.mark.parametrize(("name", "splits"), OFFICIAL)
def test_boxes_are_all_that_is_annotated_in_the_images_that_are_asked_about(name, splits, data_root, tmp_path):
    out = tmp_path / "boxes.h5"
    words = ["annotated-boxes", str(out), "--dataset", name, "--root", str(data_root), "--splits", *splits]
    assert prepare.main(words) == 0
    store, dataset = RegionFeatures(out), make(name, data_root)
    read = [dataset.read(split) for split in splits]
    asked = {query.item for annotations in read for query in annotations.queries}
    assert set(store.ids) == asked
    assert store[store.ids[0]].features.shape == (len(store[store.ids[0]].boxes), 0)
    with pytest.raises(BadFeatures, match="holds boxes without features; extract images --boxes makes"):
        _ = store.dim
    for annotations in read:
        for query in annotations.queries:
            assert np.float32(query.targets).tolist()[0] in store[query.item].boxes.tolist()
        assert all(store.size(image) == annotations.sizes[image] for image in asked & annotations.sizes.keys())
    counts = {image: count for image, count, _ in store.counts()}
    if name == "flickr30k":
        features = RegionFeatures(data_root / "flickr30k_entities" / "region_features.h5")
        assert {image: count for image, count, _ in features.counts() if image in asked} == counts
        for image in store.ids[::50]:
            given, found = (sorted(map(tuple, kind[image].boxes.tolist())) for kind in (features, store))
            assert given == found
    else:
        instances = load_instances(data_root / "refcoco", name)
        assert counts == {image: len(instances[image].boxes) for image in asked}


def test_a_data_set_that_knows_targets_alone_gives_each_of_them_once(tmp_path):
    first, second = [1, 2, 30, 40], [5.5, 6, 9, 8]
    lines = [
        {"image": "a", "query": "both", "size": [50, 60], "boxes": [second, first]},
        {"image": "a", "query": "one", "size": [50, 60], "box": first},
        {"image": "b", "query": "none", "size": [50, 60]},
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = make("own", tmp_path, queries="{split}.jsonl")
    ((image, regions),) = annotated_boxes(dataset, ["train"])
    assert (image, regions.size, regions.boxes.tolist()) == ("a", (50, 60), [second, first])
    del lines[0]["size"], lines[1]["size"]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(BadAnnotation, match="of own do not state the size of image 'a'"):
        list(annotated_boxes(dataset, ["train"]))


def test_videos_have_no_boxes(tmp_path):
    line = {"video": "a", "query": "one", "duration": 9, "segment": [1, 2]}
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    kind = DATASETS.get("own")
    dataset = kind(kind.Config(dataset="own", root=str(tmp_path), queries="{split}.jsonl"), item="video")
    with pytest.raises(BadAnnotation, match="own asks about videos"):
        list(annotated_boxes(dataset, ["train"]))


def test_missing_annotations_are_one_sentence(tmp_path, capsys):
    words = ["annotated-boxes", str(tmp_path / "x.h5"), "--root", str(tmp_path), "--dataset"]
    assert prepare.main([*words, "flickr30k"]) == 2
    assert "train.txt not found; download it from" in capsys.readouterr().err
    assert prepare.main([*words, "flickr"]) == 2
    assert "did you mean 'flickr30k'?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
