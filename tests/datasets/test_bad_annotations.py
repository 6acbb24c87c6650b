"""Bad annotations and configurations: each ends in a documented error or is read, nothing is run or left."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.config import load_config
from relgrounding.datasets import (
    load_actions,
    load_activitynet,
    load_charades,
    load_flickr30k,
    load_instances,
    load_own,
    load_refcoco,
)
from relgrounding.features import ClipFeatures, write_clip_features
from relgrounding.io import BadAnnotation, Problems
from tests.io.bad_inputs import FUZZ, JSON, damaged, read, refcoco

VIDEO = {"video": "v", "duration": 31.2, "query": "a door", "segment": [1, 2]}
KEYS = ("video", "image", "duration", "size", "query", "segment", "box", "boxes", "segments", "id", "kind")
IMAGE = {"image": "i", "size": [9, 9], "query": "a car", "box": [1, 2, 3, 4]}


@FUZZ
@given(st.sampled_from([VIDEO, IMAGE]), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
def test_lines_of_own_data(tmp_path, good, change):
    (tmp_path / "q.jsonl").write_text(json.dumps(good | change))
    for policy in ("stop", "skip"):
        failed = read(load_own, tmp_path / "q.jsonl", "video" if good is VIDEO else "image", None, Problems(policy))
        assert not (failed and policy == "skip")


@FUZZ
@given(content=st.dictionaries(
    st.text(max_size=5),
    st.fixed_dictionaries({
        "duration": JSON, "timestamps": st.lists(st.lists(st.floats(), max_size=3) | JSON, max_size=2),
        "sentences": st.lists(JSON, max_size=2),
    }) | JSON,
    max_size=3,
) | JSON)  # fmt: skip
def test_content_of_activitynet(tmp_path, content):
    (tmp_path / "train.json").write_text(json.dumps(content))
    read(load_activitynet, tmp_path, "train")
    read(load_activitynet, tmp_path, "train", Problems("skip"))


@FUZZ
@given(line=st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_lines_of_charades(tmp_path, line):
    (tmp_path / "charades_sta_train.txt").write_bytes(b"AAAAA 1.0 2.5##person opens a door.\n" + line)
    (tmp_path / "Charades_v1_train.csv").write_bytes(b"id,actions,length\nAAAAA,c092 1.0 2.5,10.0\n" + line)
    (tmp_path / "Charades_v1_test.csv").write_bytes(b"id,actions,length\n")
    read(load_charades, tmp_path, "train")
    read(load_charades, tmp_path, "train", "reduced")
    read(load_actions, tmp_path)


@FUZZ
@given(refs=st.lists(st.fixed_dictionaries({"split": st.just("val")}, optional={
    "ann_id": st.just(5) | JSON, "image_id": st.just(2) | JSON, "ref_id": JSON,
    "sentences": st.lists(st.fixed_dictionaries({"sent_id": JSON, "sent": JSON}) | JSON, max_size=2) | JSON,
}), max_size=3) | JSON)  # fmt: skip
def test_content_of_refcoco(tmp_path, refs):
    refcoco(tmp_path, pickle.dumps(refs))
    read(load_refcoco, tmp_path, "refcoco", "val")
    read(load_refcoco, tmp_path, "refcoco", "val", "", Problems("skip"))


@FUZZ
@given(
    text=st.text(max_size=60) | st.sampled_from(["!!python/object/apply:os.system [true]", "a: &a [*a]", "x: !!set"])
)
def test_configurations(tmp_path, text):
    (tmp_path / "c.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    read(load_config, tmp_path / "c.yaml")
    read(load_config, None, [text])
    read(load_config, None, [f"data.queries={text}"])


def flickr(root, name=b"1", xml=b"", sentence=b"[/EN#1/people A man] runs ."):
    (root / "val.txt").write_bytes(name)
    boxes = b"".join(
        b"<object><name>%d</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>%d</xmax><ymax>9</ymax></bndbox></object>"
        % (i, 5 + i)
        for i in (1, 2)
    )
    with zipfile.ZipFile(root / "annotations.zip", "w") as archive:
        archive.writestr("Annotations/1.xml", xml or b"<annotation>" + boxes + b"</annotation>")
        archive.writestr("Sentences/1.txt", sentence)
    return b"<annotation>" + boxes + b"</annotation>", (root / "annotations.zip").read_bytes()


def test_damaged_flickr30k(tmp_path):
    random = np.random.default_rng(5)
    xml, archive = flickr(tmp_path)
    assert not read(load_flickr30k, tmp_path, "val")
    for _ in range(100):
        flickr(tmp_path, xml=damaged(xml, random), sentence=damaged(b"[/EN#1/people A man\xc3\xa9] runs .", random))
        read(load_flickr30k, tmp_path, "val")
        (tmp_path / "annotations.zip").write_bytes(damaged(archive, random))
        read(load_flickr30k, tmp_path, "val")


def test_ids_that_are_paths_read_nothing_outside(tmp_path):
    root = tmp_path / "data"
    for folder in ("Annotations", "Sentences"):
        (root / folder).mkdir(parents=True)
    (root / "x.xml").write_bytes(flickr(tmp_path)[0])
    (root / "val.txt").write_text("../x")
    assert read(load_flickr30k, root, "val")
    (root / "Annotations" / "1.xml").write_text("<a/>")
    for split in ("../val", "/etc/passwd", "", "val\0"):
        assert read(load_flickr30k, root, split)
        assert read(load_activitynet, root, split)
        assert read(load_charades, root, split)
        assert read(load_instances, root, split)
    for name in ("../x", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\nb", "a\0b", "x" * 300):
        (root / "q.jsonl").write_text(json.dumps(VIDEO | {"video": name}))
        assert read(load_own, root / "q.jsonl", "video")
        if name in ("../x", "/etc/passwd", "a/b", "..", ".", ""):
            assert read(write_clip_features, root / "x.h5", [(name, np.ones((1, 2)))])


@pytest.mark.parametrize("entity", ['<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "billion"])
def test_xml_that_reads_or_grows(tmp_path, entity):
    if entity == "billion":
        laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol" * 10}">' for i in range(10))
        entity = f"<!DOCTYPE a [{laughs}]><annotation><object><name>&l9;</name></object></annotation>"
    flickr(tmp_path, xml=entity.encode())
    with pytest.raises(BadAnnotation, match=r"Annotations/1\.xml"):
        load_flickr30k(tmp_path, "val")


def test_short_videos_and_empty_ones(tmp_path):
    write_clip_features(tmp_path / "x.h5", [("one", np.ones((1, 2)))])
    assert ClipFeatures(tmp_path / "x.h5")["one"].shape == (1, 2)
    from relgrounding.graphs import temporal_structure, window_proposals

    assert window_proposals(1, [1, 2, 4], 1).tolist() == [[0, 1]]
    assert temporal_structure(window_proposals(1, [1, 2, 4], 1), 0.3) is not None
    for duration in (0, -1, float("nan"), float("inf"), "8", None, True, [8]):
        (tmp_path / "q.jsonl").write_text(json.dumps(VIDEO | {"duration": duration}))
        assert read(load_own, tmp_path / "q.jsonl", "video")
