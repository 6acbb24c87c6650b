import json
import logging
import pickle

import numpy as np
import pytest

from relgrounding.datasets import load_instances, load_refcoco
from relgrounding.features import RegionFeatures
from relgrounding.io import BadAnnotation, Problems
from tests import cases
from tools import prepare

REF = {"ref_id": 7, "ann_id": 5, "image_id": 2, "split": "val"}
DOG = {"id": 5, "image_id": 2, "category_id": 18, "bbox": [1, 2, 3, 4]}


def write(root, refs, annotations):
    folder = root / "refcoco"
    folder.mkdir(exist_ok=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    images = [
        {"id": 1, "width": 10, "height": 20},
        {"id": 2, "width": 30, "height": 40},
        {"id": 3, "width": 5, "height": 5},
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def root(tmp_path):
    sentences = [{"sent_id": 3, "sent": "left dog"}, {"sent_id": 4, "sent": "the dog"}]
    annotations = [
        DOG,
        {"id": 4, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1.5, 2]},
        {"id": 6, "image_id": 2, "category_id": 1, "bbox": [5, 6, 7, 8]},
    ]
    return write(tmp_path, [{**REF, "sentences": sentences}], annotations)


def test_one_query_a_sentence(root):
    queries = load_refcoco(root, "refcoco", "val")
    assert [(q.id, q.item, q.text, q.kind) for q in queries] == [
        ("3", "2", "left dog", "dog"),
        ("4", "2", "the dog", "dog"),
    ]
    assert {q.targets for q in queries} == {((1.0, 2.0, 4.0, 6.0),)}


def test_objects_of_an_image(root):
    instances = load_instances(root, "refcoco")
    assert instances.ids == ("1", "2", "3")
    assert instances.offsets.tolist() == [0, 1, 3, 3]
    size, boxes, category, annotation = instances["2"]
    assert size == (30, 40)
    assert boxes.tolist() == [[1, 2, 4, 6], [5, 6, 12, 14]]
    assert [instances.categories[i] for i in category] == ["dog", "person"]
    assert annotation.tolist() == [5, 6]
    assert instances["3"].boxes.shape == (0, 4)
    assert "1" in instances
    with pytest.raises(KeyError, match="no image '9' among the 3"):
        instances["9"]


def test_errors_name_the_place(root):
    with pytest.raises(ValueError, match="'refclef' is not one of the RefCOCO family: refcoco, refcoco\\+, refcocog"):
        load_refcoco(root, "refclef", "val")
    with pytest.raises(ValueError, match="has no split 'train'; it holds val"):
        load_refcoco(root, "refcoco", "train")
    with pytest.raises(FileNotFoundError, match="not found; download refcocog from"):
        load_instances(root, "refcocog")
    write(root, [{**REF, "sentences": []}], [])
    with pytest.raises(ValueError, match=r"ref 7: instances\.json lacks annotation 5"):
        load_refcoco(root, "refcoco", "val")
    write(root, [{**REF, "sentences": [{"sent_id": 1, "sent": "dog \ud800"}]}], [DOG])
    with pytest.raises(ValueError, match=r"ref 7: sentence 'dog \\ud800' holds a lone surrogate"):
        load_refcoco(root, "refcoco", "val")


COUNTS = [
    ("refcoco", {"train": 16994, "val": 10834, "testA": 5657, "testB": 5095}),
    ("refcoco+", {"val": 10758}),
    ("refcocog", {"train": 10406, "val": 4896}),
]


@pytest.mark.parametrize(("name", "counts"), COUNTS)
def test_published_counts(data_root, name, counts):
    root = data_root / "refcoco"
    instances = load_instances(root, name)
    sizes = dict(zip(instances.ids, instances.sizes.tolist(), strict=True))
    seen = set()
    for split, count in counts.items():
        queries = load_refcoco(root, name, split)
        assert len(queries) == count
        assert seen.isdisjoint(query.id for query in queries)
        seen.update(query.id for query in queries)
        corners = np.array([query.targets[0] for query in queries])
        limits = np.array([sizes[query.item] * 2 for query in queries])
        assert ((corners >= 0) & (corners <= limits + 0.01)).all()
    assert len(seen) == sum(counts.values())


@pytest.mark.slow
def test_training_images_of_refcoco_in_the_validation_of_refcocog(data_root):
    train = {query.item for query in load_refcoco(data_root / "refcoco", "refcoco", "train")}
    other = {query.item for query in load_refcoco(data_root / "refcoco", "refcocog", "val")}
    assert len(train & other) == 634


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_it_costs_no_other_query(case, caplog, on_error):
    root, problems = case(cases.flat_object), Problems(on_error)
    with caplog.at_level(logging.WARNING):
        queries = load_refcoco(root, "refcoco", "train", problems=problems)
    assert [(query.item, query.text, query.kind) for query in queries] == [("1", "man", "person")]
    assert dict(problems.notes) == {"objects without area left out": 1}
    assert problems.total == 0
    assert caplog.messages == [f"note: {root / 'refcoco/instances.json'}: objects without area left out: 1"]
    assert len(load_instances(root, "refcoco")["550395"].boxes) == 0


def test_a_query_about_it_is_a_bad_record(case):
    root = case(cases.flat_object)
    path = root / "refcoco" / "refs(unc).p"
    (ref,) = pickle.loads(path.read_bytes())
    about = {**ref, "ref_id": 1, "ann_id": 2206849, "image_id": 550395}
    path.write_bytes(pickle.dumps([ref, about], protocol=2))
    with pytest.raises(BadAnnotation, match=r"ref 1: the box of annotation 2206849 in instances\.json has no area"):
        load_refcoco(root, "refcoco", "train")
    problems = Problems("skip")
    assert len(load_refcoco(root, "refcoco", "train", problems=problems)) == 1
    assert problems.counts == {"BadAnnotation": 1}


@pytest.mark.parametrize(
    "box", [[9, 9, 0, 5], [9, 9, -3, 5], [500, 9, 1e-9, 5], ["nan", 9, 3, 5], [9, 9, 1e308, 5], [1e308, 9, 1e308, 5]]
)
def test_its_features_are_made_of_the_others(case, capsys, box):
    root = case(cases.flat_object)
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["bbox"] = [float(value) for value in box]
    path.write_text(json.dumps(content))
    assert prepare.main(["coco-categories", str(root / "o.h5"), "--root", str(root)]) == 0
    assert "1 objects of 2 images of refcoco; objects without area left out: 1" in capsys.readouterr().out
    assert RegionFeatures(root / "o.h5").ids == ["1"]
