"""Thousands of bad inputs: each ends in a documented error or is read, none in a crash, and nothing is run or left.

`read` counts what was tried, so that the number of inputs is a fact of the run and not of this text.
"""

import base64
import json
import pickle
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relgrounding.config import ConfigError, load_config
from relgrounding.data import (
    BadAnnotation,
    BadFeatures,
    ClipFeatures,
    DataError,
    MissingFeatures,
    Problems,
    RegionFeatures,
    Regions,
    UnsafeFile,
    load_actions,
    load_activitynet,
    load_charades,
    load_charades_glove,
    load_flickr30k,
    load_instances,
    load_own,
    load_plain_pickle,
    load_refcoco,
    write_clip_features,
    write_region_features,
)
from relgrounding.data.convert import convert_features

TRIED = {"inputs": 0, "errors": 0}
FUZZ = settings(max_examples=150, suppress_health_check=list(HealthCheck), database=None)


def read(function, *arguments):
    """Return whether a documented error came; any other exception is a failure of the test."""
    TRIED["inputs"] += 1
    try:
        function(*arguments)
    except (DataError, ConfigError) as error:
        text = str(error)
        assert len(text) > 20, text
        TRIED["errors"] += 1
        return True
    return False


def damaged(content, random):
    """Return a file's content cut off, or with a few bytes changed, moved in or taken out."""
    kind = random.integers(4)
    place = int(random.integers(len(content)))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes(random.integers(0, 256, 3, dtype=np.uint8)) + content[place:]
    if kind == 2:
        return content[:place] + content[place + int(random.integers(1, 20)) :]
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 8))):
        changed[int(random.integers(len(changed)))] = int(random.integers(256))
    return bytes(changed)


def clip_file(path):
    write_clip_features(path, [(f"v{i}", np.full((2, 3), i)) for i in range(3)], {"description": "x"})
    return path


def region_file(path):
    boxes = np.array([[0, 0, 5, 5], [2, 2, 9, 9]], np.float32)
    write_region_features(path, [(f"i{i}", Regions(np.eye(2, dtype=np.float32), boxes, (10, 10))) for i in range(3)])
    return path


def read_all(store):
    for key in [*store.ids, "v0", "i0"]:
        if key in store:
            store[key]
    _ = store.dim, store.attributes


@pytest.mark.parametrize("layout", ["clips", "regions"])
def test_damaged_hdf5(tmp_path, layout):
    make, open_store = (clip_file, ClipFeatures) if layout == "clips" else (region_file, RegionFeatures)
    content = make(tmp_path / "good.h5").read_bytes()
    random = np.random.default_rng(len(layout))
    for number in range(200):
        path = tmp_path / f"{number}.h5"
        path.write_bytes(damaged(content, random))
        read(lambda: read_all(open_store(path, in_memory=bool(number % 2))))  # noqa: B023 - called at once


def npy(folder):
    np.save(folder / "good", np.ones((2, 3), np.float32))
    return (folder / "good.npy").read_bytes()


def npz(folder):
    boxes = np.array([[0, 0, 5, 5], [2, 2, 9, 9]], np.float32)
    np.savez(folder / "good", x=np.eye(2, dtype=np.float32), bbox=boxes, image_w=10, image_h=10)
    return (folder / "good.npz").read_bytes()


def tsv(folder):
    boxes = base64.b64encode(np.array([[0, 0, 5, 5], [2, 2, 9, 9]], "<f4"))
    return b"\t".join([b"17", b"10", b"10", b"2", boxes, base64.b64encode(np.eye(2, dtype="<f4"))]) + b"\n"


def detections(folder):
    return json.dumps(
        [{"image_id": i, "bbox": [1, 2, 3, 4], "category_id": 1, "score": 0.5, "width": 9, "height": 9} for i in (1, 2)]
    ).encode()


@pytest.mark.parametrize(("make", "name"), [(npy, "npy"), (npz, "npz"), (tsv, "tsv"), (detections, "json")])
def test_damaged_sources_of_features(tmp_path, make, name):
    content = make(tmp_path)
    random = np.random.default_rng(0)
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / f"17.{name}"
    source = folder if name.startswith("np") else path
    kind = {"json": "detections"}.get(name, name)
    for number in range(130):
        path.write_bytes(damaged(content, random))
        read(convert_features, source, tmp_path / "out" / f"{number}.h5", kind)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name not in ("good.npy", "good.npz")) == ["in", "out"]


class Attack:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def refs():
    return [
        {"ref_id": 7, "ann_id": 5, "image_id": 2, "split": "val", "sentences": [{"sent_id": 3, "sent": "left dog"}]}
        for _ in range(3)
    ]


def refcoco(root, content, instances=None):
    folder = root / "refcoco"
    folder.mkdir(exist_ok=True)
    (folder / "refs(unc).p").write_bytes(content)
    entry = {"id": 5, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]}
    good = {
        "images": [{"id": 2, "width": 30, "height": 40}],
        "annotations": [entry],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "instances.json").write_bytes(instances or json.dumps(good).encode())
    return json.dumps(good).encode()


def test_damaged_pickles(tmp_path):
    random = np.random.default_rng(3)
    for protocol in (0, 2, 4):
        content = pickle.dumps(refs(), protocol)
        for _ in range(100):
            refcoco(tmp_path, damaged(content, random))
            read(load_refcoco, tmp_path, "refcoco", "val")


def test_damaged_instances(tmp_path):
    random = np.random.default_rng(4)
    content = refcoco(tmp_path, pickle.dumps(refs()))
    for _ in range(150):
        refcoco(tmp_path, pickle.dumps(refs()), damaged(content, random))
        read(load_refcoco, tmp_path, "refcoco", "val")


CALLS = [("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("shutil", "rmtree"), ("numpy", "load")]
CALLS += [("builtins", name) for name in ("exec", "open", "getattr", "__import__", "compile", "input")]
CALLS += [("pathlib", "Path"), ("relgrounding.data", "write_clip_features"), ("torch", "load"), ("pickle", "loads")]


@pytest.mark.parametrize("load", [load_plain_pickle, load_charades_glove])
def test_pickles_that_call_something(tmp_path, load):
    path, target = tmp_path / "bad.p", tmp_path / "written"
    path.write_bytes(pickle.dumps({"w2id": Attack(target)}))
    with pytest.raises(UnsafeFile, match="asks for "):
        load(path)
    for module, name in CALLS:
        for shape in (b"c%s\n%s\n(S'%s'\ntR.", b"(c%s\n%s\nS'%s'\no.", b"(lc%s\n%s\n(S'%s'\ntRa."):
            path.write_bytes(shape % (module.encode(), name.encode(), str(target).encode()))
            assert read(load, path)
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")  # a memo of 16 GB
    with pytest.raises(UnsafeFile, match="wants a table of 2147483647 places"):
        load(path)
    assert not target.exists()


def links(path, other):
    """Write an HDF5 file with every way to point elsewhere, one an id."""
    with h5py.File(other, "w") as file:
        file["secret"] = np.ones((2, 3), np.float32)
    other.with_name("raw.bin").write_bytes(np.ones(6, "<f4").tobytes())
    with h5py.File(path, "w") as file:
        file["a good one"] = np.ones((2, 3), np.float32)
        file["external"] = h5py.ExternalLink(str(other), "/secret")
        file["relative"] = h5py.ExternalLink("../" + other.name, "/secret")
        file["soft"] = h5py.SoftLink("/external")
        file["dangling"] = h5py.SoftLink("/nothing")
        layout = h5py.VirtualLayout((2, 3), "f4")
        layout[:] = h5py.VirtualSource(str(other), "secret", (2, 3))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (2, 3), "f4", external=[(str(other.with_name("raw.bin")), 0, 24)])
        file.create_group("group")["c3d_features"] = h5py.ExternalLink(str(other), "/secret")
    return path


def test_hdf5_that_points_elsewhere(tmp_path):
    path = links(tmp_path / "links.h5", tmp_path / "other.h5")
    for in_memory in (True, False):
        store = ClipFeatures(path, in_memory)
        assert store["a good one"].all()
        for key in ("external", "relative", "soft", "dangling", "virtual", "raw", "group"):
            assert read(lambda: store[key])  # noqa: B023 - called at once
            with pytest.raises(UnsafeFile, match=r"is a link to|lie in another file"):
                store[key]
        for key in ("external/secret", "/external", "group/c3d_features", "../x", "", "."):
            assert key not in store
            with pytest.raises(MissingFeatures):
                store[key]
    with pytest.raises(UnsafeFile):
        convert_features(path, tmp_path / "x.h5", on_error="skip")
    for name in ("features", "boxes", "ids", "sizes", "offsets"):
        regions = region_file(tmp_path / "r.h5")
        with h5py.File(tmp_path / "other.h5", "a") as other, h5py.File(regions, "a") as file:
            if name not in other:
                file.copy(name, other)
            del file[name]
            file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), f"/{name}")
        for in_memory in (True, False):
            assert read(lambda: RegionFeatures(regions, in_memory)["i0"])  # noqa: B023 - called at once


@pytest.mark.parametrize("shape", [(2**40, 3), (2, 2**40), (2**31, 2**10)])
def test_shapes_that_no_memory_holds(tmp_path, shape):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("v0", shape, "f4", chunks=(1, 64) if shape[1] > 3 else (64, 3))
        file.create_group("v1").create_dataset("c3d_features", shape, "f4", chunks=(1, 3))
    for key in ("v0", "v1"):
        with pytest.raises(BadFeatures, match="too large for one item"):
            ClipFeatures(tmp_path / "x.h5")[key]
    assert read(convert_features, tmp_path / "x.h5", tmp_path / "y.h5")


@pytest.mark.parametrize("kind", ["S3", "V8", h5py.string_dtype(), h5py.ref_dtype, np.complex64])
def test_what_is_no_number(tmp_path, kind):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("v0", (2, 3), kind)
    assert read(lambda: ClipFeatures(tmp_path / "x.h5")["v0"])
    assert read(convert_features, tmp_path / "x.h5", tmp_path / "y.h5")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
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


def test_at_least_two_thousand_inputs_were_tried():
    if TRIED["inputs"] < 1000:
        pytest.skip("the other tests of this file did not run")
    assert TRIED["inputs"] >= 2000, TRIED
    assert TRIED["errors"] >= 1000
