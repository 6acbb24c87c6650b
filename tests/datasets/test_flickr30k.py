import zipfile

import numpy as np
import pytest

from relgrounding.datasets import load_flickr30k
from relgrounding.features import RegionFeatures
from relgrounding.io import BadAnnotation, Problems

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
XML = (
    "<annotation><object><name>1</name><name>2</name>" + BOX.format(1, 2, 30, 40) + "</object>"
    "<object><name>1</name>" + BOX.format(5, 6, 7, 8) + "</object>"
    "<object><name>3</name><nobndbox>1</nobndbox></object></annotation>"
)
ONE_BOX = "<annotation><object><name>1</name>" + BOX.format(1, 2, 3, 4) + "</object></annotation>"
CAPTIONS = (
    "[/EN#3/scene A park] with [/EN#1/people two dogs] .\n[/EN#2/people/other One , a pup] and [/EN#0/notvisual it] .\n"
)
FILES = {
    "Annotations/a.xml": XML,
    "Sentences/a.txt": CAPTIONS,
    "Annotations/b.xml": ONE_BOX,
    "Sentences/b.txt": "[/EN#1/people A man] .\n",
}


@pytest.fixture(params=["folder", "zip"])
def root(tmp_path, request):
    (tmp_path / "val.txt").write_text("b\na\nnot-here\n")
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "annotations.zip", "w") as archive:
            for name, content in FILES.items():
                archive.writestr(name, content)
    else:
        for name, content in FILES.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)
    return tmp_path


def test_one_query_a_phrase_with_a_box(root):
    queries = load_flickr30k(root, "val")
    assert [(q.id, q.item, q.text, q.kind) for q in queries] == [
        ("a-0-1", "a", "two dogs", "people"),
        ("a-1-0", "a", "One , a pup", "people/other"),
    ]
    assert queries[0].targets == ((1.0, 2.0, 30.0, 40.0), (5.0, 6.0, 7.0, 8.0))
    assert queries[1].targets == ((1.0, 2.0, 30.0, 40.0),)


def test_images_of_few_boxes_can_be_kept(root):
    assert [q.id for q in load_flickr30k(root, "val", min_boxes=1)] == ["b-0-0", "a-0-1", "a-1-0"]
    assert load_flickr30k(root, "val", min_boxes=3) == []


def test_flat_boxes_cost_neither_the_image_nor_phrases_with_other_boxes(tmp_path, caplog):
    (tmp_path / "val.txt").write_text("a\n", encoding="utf-8-sig")
    for name in ("Annotations", "Sentences"):
        (tmp_path / name).mkdir()
    flat = "".join(f"<object><name>{name}</name>{BOX.format(5, 6, 5, 8)}</object>" for name in (1, 3))
    (tmp_path / "Annotations/a.xml").write_text(
        XML.replace("<object><name>3</name><nobndbox>1</nobndbox></object>", flat)
    )
    (tmp_path / "Sentences/a.txt").write_text(CAPTIONS, encoding="utf-8-sig")
    with pytest.raises(BadAnnotation, match=r"Sentences/a\.txt, line 1, entity 3: none of its boxes has an area"):
        load_flickr30k(tmp_path, "val")
    problems = Problems("skip")
    assert [q.id for q in load_flickr30k(tmp_path, "val", problems=problems)] == ["a-0-1", "a-1-0"]
    assert problems.counts == {"BadAnnotation": 1}
    assert dict(problems.notes) == {"boxes without area left out": 2}
    assert caplog.messages[-1] == f"note: {tmp_path}: boxes without area left out: 2"
    (tmp_path / "Sentences/a.txt").write_text(CAPTIONS.replace("[/EN#3/scene A park]", "Here"))
    assert len(load_flickr30k(tmp_path, "val")) == 2


def test_errors_say_what_to_do(root):
    with pytest.raises(FileNotFoundError, match=r"test\.txt not found; download it from"):
        load_flickr30k(root, "test")
    (root / "train.txt").write_text("c d\n")
    with pytest.raises(ValueError, match="annotations of none of the 2 images of 'train'"):
        load_flickr30k(root, "train")


@pytest.mark.parametrize(
    "content", ["<annotation>", "<annotation><object><name>1</name><bndbox/></object></annotation>"]
)
def test_a_damaged_annotation_is_named(tmp_path, content):
    (tmp_path / "val.txt").write_text("a")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(content)
    with pytest.raises(ValueError, match=r"Annotations/a\.xml: .*expected Flickr30k Entities' layout"):
        load_flickr30k(tmp_path, "val")


def test_missing_annotations_say_where_they_come_from(tmp_path):
    (tmp_path / "val.txt").write_text("a")
    with pytest.raises(FileNotFoundError, match=r"annotations\.zip not found; download it from https"):
        load_flickr30k(tmp_path, "val")


def test_published_counts_and_agreement_with_the_features(data_root):
    root = data_root / "flickr30k_entities"
    val = load_flickr30k(root, "val")
    assert len(val) == len({query.id for query in val}) == 3229
    images = {split: {q.item for q in load_flickr30k(root, split, min_boxes=0)} for split in ("train", "val")}
    assert images["train"].isdisjoint(images["val"])
    store = RegionFeatures(root / "region_features.h5")
    assert (len(store), store.dim) == (7806, 256)
    listed = {split: (root / f"{split}.txt").read_text().split() for split in ("train", "val")}
    assert {split: sum(image in store for image in ids) for split, ids in listed.items()} == {"train": 7559, "val": 247}
    for query in val:
        boxes = {tuple(box) for box in store[query.item].boxes.tolist()}
        assert set(query.targets) <= boxes
        assert len(boxes) >= 2
    squares = np.mean([np.mean(store[image].features ** 2) for image in listed["val"] if image in store])
    assert 0.8 < squares < 1.2
