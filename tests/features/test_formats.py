"""Formats of features that circulate: each is written here as its makers write it, and comes back."""

import base64
import json
import os
import pickle

import h5py
import numpy as np
import pytest
import torch

from relgrounding.features import ClipFeatures, RegionFeatures, Regions
from relgrounding.features.convert import convert_features, detect_format
from relgrounding.io import BadFeatures, MissingFile, UnsafeFile
from relgrounding.modalities import MODALITIES
from relgrounding.modalities._inputs import Stores
from tests.io.bad_inputs import damaged, read

BOXES = np.array([[10, 10, 60, 60], [100, 50, 200, 150], [0, 0, 500, 375]], np.float32)
FEATURES = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
SIZE = (500, 375)
VIDEO, IMAGE = (MODALITIES.get(name)() for name in ("video", "image"))


def text(array):
    return base64.b64encode(np.ascontiguousarray(array)).decode()


def check_image(path, key="7", boxes=BOXES, features=FEATURES):
    found = RegionFeatures(path)[key]
    assert found.size == SIZE
    np.testing.assert_array_equal(found.boxes, boxes)
    np.testing.assert_array_equal(found.features, features)


@pytest.mark.parametrize("kind", ["tensor", "dict", "half", "bfloat16", "double"])
def test_tensors(tmp_path, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    tensor = torch.from_numpy(FEATURES)
    types = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}
    tensor = tensor.to(types.get(kind, torch.float32))
    torch.save({"features": tensor} if kind == "dict" else tensor, folder / "vid_0.0_2.0.pt")
    assert detect_format(folder) == "pt"
    convert_features(folder, tmp_path / "o.h5")
    np.testing.assert_array_equal(ClipFeatures(tmp_path / "o.h5")["vid_0.0_2.0"], tensor.float())
    read = VIDEO.read_item(folder / "vid_0.0_2.0.pt", None, Stores(VIDEO), 8, duration=2)[0]
    np.testing.assert_array_equal(read, tensor.float())


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_tensors_that_are_more_than_tensors(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    torch.save(Harmful(), folder / "a.pt")
    with pytest.raises(BadFeatures, match=r"a\.pt holds more than tensors; save the tensor alone"):
        convert_features(folder, tmp_path / "o.h5")
    torch.save(torch.ones(2, 3), folder / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(BadFeatures, match=r"a\.pt is not a file of torch\.save since PyTorch 1\.6"):
        convert_features(folder, tmp_path / "o.h5")
    torch.save([1, 2], folder / "a.pt")
    with pytest.raises(BadFeatures, match="holds no tensor"):
        convert_features(folder, tmp_path / "o.h5")
    torch.save(torch.ones(1).expand(10**7, 10**3), folder / "a.pt")  # one number, said to be ten billion
    with pytest.raises(BadFeatures, match="too large for one item"):
        convert_features(folder, tmp_path / "o.h5")
    assert capsys.readouterr().out == ""


def vinvl(folder, kind):
    folder.mkdir()
    objects = [{"rect": box.tolist(), "class": "dog", "conf": 0.9} for box in BOXES]
    whole = {"image_w": SIZE[0], "image_h": SIZE[1], "objects": objects}
    features = FEATURES
    if kind == "predictions":
        for entry, row in zip(objects, features, strict=True):
            entry["feature"] = text(row)
        (folder / "predictions.tsv").write_text(f"7\t{json.dumps(whole)}\n")
        return folder / "predictions.tsv", features
    if kind == "geometry":  # the size follows from what ends each feature
        shares = BOXES / (*SIZE, *SIZE)
        features = np.concatenate([features, shares, shares[:, 2:] - shares[:, :2]], 1).astype(np.float32)
        whole = objects
    if kind == "json":
        line = json.dumps({"num_boxes": 3, "features": text(features)})
    else:
        line = f"3\t{text(features)}"
    (folder / "train.feature.tsv").write_text(f"7\t{line}\n")
    (folder / "train.label.tsv").write_text(f"7\t{json.dumps(whole)}\n")
    return folder / "train.feature.tsv", features


@pytest.mark.parametrize("kind", ["predictions", "columns", "json", "geometry"])
def test_vinvl(tmp_path, kind):
    source, features = vinvl(tmp_path / "in", kind)
    assert detect_format(source) == "vinvl"
    convert_features(source, tmp_path / "o.h5")
    check_image(tmp_path / "o.h5", features=features)


def test_vinvl_without_boxes(tmp_path):
    source, _ = vinvl(tmp_path / "in", "columns")
    (tmp_path / "in" / "train.label.tsv").unlink()
    with pytest.raises(MissingFile, match=r"has no boxes; put train\.label\.tsv or predictions\.tsv"):
        convert_features(source, tmp_path / "o.h5")
    (tmp_path / "in" / "predictions.tsv").write_text("7\t" + "[" * 100_000 + "\n")
    with pytest.raises(BadFeatures, match=r"predictions\.tsv, line 1 is cut off or not JSON"):
        convert_features(source, tmp_path / "o.h5")


def table(path, shares=False, fixed=False):
    with h5py.File(path, "w") as file:
        features, boxes = np.concatenate([FEATURES] * 2), np.concatenate([BOXES] * 2)
        file["image_features"], file["image_bb"] = features, boxes
        if shares:
            file["spatial_features"] = np.concatenate([boxes / (*SIZE, *SIZE), boxes[:, :2]], 1)
        if fixed:
            for key in list(file):
                content = file[key][()]
                del file[key]
                file[key] = content.reshape(2, 3, -1)
        else:
            file["pos_boxes"] = np.array([[0, 3], [3, 6]])
    index = path.with_name(path.stem + "_imgid2idx.pkl")
    index.write_bytes(pickle.dumps({"COCO_val2014_000000000007": 1, 3: 0}, protocol=2))
    return index


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("shares", [False, True])
def test_a_table_with_an_index(tmp_path, shares, fixed):
    index = table(tmp_path / "train.hdf5", shares, fixed)
    convert_features(tmp_path / "train.hdf5", tmp_path / "o.h5")
    assert RegionFeatures(tmp_path / "o.h5").ids == ["3", "7"]
    check_image(tmp_path / "o.h5")
    index.unlink()
    with pytest.raises(MissingFile, match=r"train_imgid2idx\.pkl not found"):
        convert_features(tmp_path / "train.hdf5", tmp_path / "o.h5")


def test_sizes_that_are_given_come_first(tmp_path):
    table(tmp_path / "train.hdf5")
    images = [{"id": key, "width": 640, "height": 480} for key in (3, 7)]
    (tmp_path / "sizes.json").write_text(json.dumps({"images": images}))
    convert_features(tmp_path / "train.hdf5", tmp_path / "o.h5", sizes=tmp_path / "sizes.json")
    assert RegionFeatures(tmp_path / "o.h5")["7"].size == (640, 480)


def clip_files(folder):
    folder.mkdir()
    for split in ("train", "test"):
        with h5py.File(folder / f"{split}.h5", "w") as file:
            file[f"{split}1.mp4"] = FEATURES
    return [folder / "train.h5", folder / "test.h5"]


def test_a_file_per_split(tmp_path):
    files = clip_files(tmp_path / "in")
    for name, source in (("a", files[::-1]), ("b", tmp_path / "in"), ("c", [str(file) for file in files])):
        made = convert_features(source, tmp_path / f"{name}.h5")
        assert (made.layout, made.items, made.rows) == ("clips", 2, 6)
        np.testing.assert_array_equal(ClipFeatures(tmp_path / f"{name}.h5")["test1"], FEATURES)
    with pytest.raises(BadFeatures, match=r"test\.h5: 'test1\.mp4' comes twice; keep one of them"):
        convert_features([*files, files[1]], tmp_path / "o.h5")
    table(tmp_path / "train.hdf5")
    with pytest.raises(BadFeatures, match="hold clips and regions"):
        convert_features([*files, tmp_path / "train.hdf5"], tmp_path / "o.h5")
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(BadFeatures, match="would not have the same categories"):
        convert_features([tmp_path / "d.json"] * 2, tmp_path / "o.h5")


def test_what_else_lies_in_a_folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "a.npy", FEATURES)
    (folder / "a.npy").rename(folder / "A.NPY")
    (folder / "._A.NPY").write_bytes(b"\0\5\x16\7")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1")
    assert detect_format(folder) == "npy"
    convert_features(folder, tmp_path / "o.h5")
    assert ClipFeatures(tmp_path / "o.h5").ids == ["A"]
    np.savez(folder / "b.npz", FEATURES)
    with pytest.raises(BadFeatures, match=r"holds files of several kinds, \.npy, \.npz"):
        convert_features(folder, tmp_path / "o.h5")
    with h5py.File(folder / "c.h5", "w") as file:
        file["c"] = FEATURES
    with pytest.raises(BadFeatures, match=r"holds files of several kinds, \.h5, \.npy, \.npz"):
        convert_features(folder, tmp_path / "o.h5")


def test_a_folder_of_links(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    folder.mkdir()
    np.save(blobs / "0a1b.npy", FEATURES)
    (folder / "v1.npy").symlink_to(os.path.relpath(blobs / "0a1b.npy", folder))
    with pytest.raises(UnsafeFile, match=r"v1\.npy is a link out of the folder; --follow-links reads it"):
        convert_features(folder, tmp_path / "o.h5")
    convert_features(folder, tmp_path / "o.h5", follow_links=True)
    np.testing.assert_array_equal(ClipFeatures(tmp_path / "o.h5")["v1"], FEATURES)


def damageable(folder):
    """Yield every format, and the file of it that is damaged."""
    for kind in ("predictions", "columns", "json", "geometry"):
        source, _ = vinvl(folder / kind, kind)
        yield source, source
        if kind != "predictions":
            yield source, source.with_name("train.label.tsv")
    for kind in ("tsv", "groups", "prefix", "flat"):
        source = with_flat(kind, folder / f"{kind}.file")
        yield source, source
    yield (folder / "npz"), with_flat("npz", folder / "npz") / "7.npz"
    for kind in (False, True):
        path = folder / f"{kind}.hdf5"
        index = table(path, kind, kind)
        yield path, path
        yield path, index
    for name in ("clips", "tensors"):
        (folder / name).mkdir()
    np.savez_compressed(folder / "clips" / "a.npz", features=FEATURES)
    yield (folder / "clips"), folder / "clips" / "a.npz"
    torch.save({"features": torch.from_numpy(FEATURES)}, folder / "tensors" / "a.pt")
    yield (folder / "tensors"), folder / "tensors" / "a.pt"


def test_damage_ends_in_a_documented_error(tmp_path):
    random = np.random.default_rng(0)
    for source, file in damageable(tmp_path):
        content = file.read_bytes()
        assert not read(convert_features, source, tmp_path / "o.h5")
        for number in range(15):
            file.write_bytes(damaged(content, random))
            read(lambda: convert_features(source, tmp_path / "o.h5", on_error=("stop", "skip")[number % 2]))  # noqa: B023
        file.write_bytes(content)


@pytest.mark.parametrize("sizes", [("9" * 30, "375"), ("500", "-1"), ("0", "375")])
def test_sizes_that_no_image_has(tmp_path, sizes):
    (tmp_path / "r.tsv").write_text("\t".join(["7", *sizes, "3", text(BOXES), text(FEATURES)]) + "\n")
    with pytest.raises(BadFeatures, match=r"r\.tsv, line 1: (its image is said to have|3 boxes do not fit)"):
        convert_features(tmp_path / "r.tsv", tmp_path / "o.h5")


FLAT = np.array([[20, 20, 20, 90], [700, 10, 720, 60]], np.float32)  # no width; outside


def with_flat(kind, path):
    """Write an image two of whose boxes are of no use, before the others and behind them."""
    boxes = np.concatenate([FLAT[:1], BOXES, FLAT[1:]])
    features = np.concatenate([FEATURES[:1], FEATURES, FEATURES[:1]])
    if kind == "tsv":
        path.write_text("\t".join(["7", "500", "375", "5", text(boxes), text(features)]) + "\n")
    elif kind == "npz":
        path.mkdir()
        np.savez(path / "7.npz", x=features, bbox=boxes, image_w=500, image_h=375)
    else:
        with h5py.File(path, "w") as file:
            if kind == "groups":
                file["7/features"], file["7/boxes"], file["7/size"] = features, boxes, SIZE
            elif kind == "prefix":
                file["7_features"], file["7_boxes"], file["7_size"] = features, boxes, SIZE[::-1]
            else:
                file["features"], file["boxes"], file["offsets"] = features, boxes, [0, 5]
                file["sizes"] = [SIZE]
                file.create_dataset("ids", data=["7"], dtype=h5py.string_dtype())
    return path


@pytest.mark.parametrize("kind", ["tsv", "npz", "groups", "prefix", "flat"])
def test_boxes_of_no_use_are_left_out_with_their_features(tmp_path, kind):
    made = convert_features(with_flat(kind, tmp_path / "in"), tmp_path / "o.h5")
    assert (made.rows, made.boxes_left_out, made.skipped) == (3, 2, 0)
    check_image(tmp_path / "o.h5")


@pytest.mark.parametrize("in_memory", [True, False])
def test_boxes_of_no_use_are_left_out_as_they_are_read(tmp_path, caplog, in_memory):
    store = RegionFeatures(with_flat("flat", tmp_path / "r.h5"), in_memory)
    for _ in range(2):
        found = store["7"]
        np.testing.assert_array_equal(found.boxes, BOXES)
        np.testing.assert_array_equal(found.features, FEATURES)
    assert store.left_out == {"7": 2}
    assert caplog.text.count("has no area or lies outside of its image: left out") == 1


def test_an_image_that_has_no_other_box_is_an_error_as_it_is_read(tmp_path):
    with h5py.File(with_flat("flat", tmp_path / "r.h5"), "a") as file:
        file["boxes"][:] = FLAT[0]
    with pytest.raises(BadFeatures, match=r"'7' has no other box; leave it out with data\.on_error=skip"):
        RegionFeatures(tmp_path / "r.h5")["7"]


def test_a_grounder_reads_what_the_converter_reads(tmp_path):
    stores = Stores(IMAGE)
    (tmp_path / "r.tsv").write_text("\t".join(["7", "500", "375", "3", text(BOXES), text(FEATURES)]) + "\n")
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "7.npz", features=FEATURES, boxes=BOXES, width=500, height=375)
    np.save(tmp_path / "wide.npy", FEATURES[:, None, None, :])
    torch.save(torch.from_numpy(FEATURES), tmp_path / "one.pt")
    given = {"boxes": BOXES, "image_size": SIZE}
    ways = [
        ("r.tsv", "COCO_train2014_000000000007.jpg", {}), ("r.tsv", None, {}), ("npz", "7", {}),
        ("npz/7.npz", None, {}), ("wide.npy", None, given), ("one.pt", None, given),
    ]  # fmt: skip
    for name, item, facts in ways:
        found, _ = IMAGE.read_item(tmp_path / name, item, stores, 8, **facts)
        assert isinstance(found, Regions)
        np.testing.assert_array_equal(found.features, FEATURES)
        np.testing.assert_array_equal(found.boxes, BOXES)
        assert found.size == SIZE
    np.testing.assert_array_equal(
        VIDEO.read_item(tmp_path / "wide.npy", None, Stores(VIDEO), 8, duration=2)[0], FEATURES
    )
    with pytest.raises(BadFeatures, match=r"r\.tsv holds regions; this run answers about videos"):
        VIDEO.read_item(tmp_path / "r.tsv", None, Stores(VIDEO), 8)
    with pytest.raises(ValueError, match=r"holds no '8'; its 1 ids begin with 7"):
        IMAGE.read_item(tmp_path / "r.tsv", "8", stores, 8)
