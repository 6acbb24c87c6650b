"""An annotated object without height is left out and counted; only an expression about it is a bad record."""

import json
import logging
import pickle

import pytest

from relgrounding.datasets import load_instances, load_refcoco
from relgrounding.features import RegionFeatures
from relgrounding.io import BadAnnotation, Problems
from tests.cases import inputs
from tools import prepare


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_it_costs_no_other_query(case, caplog, on_error):
    root, problems = case(inputs.flat_object), Problems(on_error)
    with caplog.at_level(logging.WARNING):
        queries = load_refcoco(root, "refcoco", "train", problems=problems)
    assert [(query.item, query.text, query.kind) for query in queries] == [("1", "man", "person")]
    assert dict(problems.notes) == {"objects without area left out": 1}
    assert problems.total == 0
    assert caplog.messages == [f"note: {root / 'refcoco/instances.json'}: objects without area left out: 1"]
    assert len(load_instances(root, "refcoco")["550395"].boxes) == 0


def test_a_query_about_it_is_a_bad_record(case):
    root = case(inputs.flat_object)
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
    root = case(inputs.flat_object)
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["bbox"] = [float(value) for value in box]
    path.write_text(json.dumps(content))
    assert prepare.main(["coco-categories", str(root / "o.h5"), "--root", str(root)]) == 0
    assert "1 objects of 2 images of refcoco; objects without area left out: 1" in capsys.readouterr().out
    assert RegionFeatures(root / "o.h5").ids == ["1"]
