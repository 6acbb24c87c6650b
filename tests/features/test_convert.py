"""Each format, written by code of the test's own as its makers write it, comes back exactly (or to float16)."""

import base64
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from relgrounding.features import ClipFeatures, RegionFeatures
from relgrounding.features.convert import convert_features, detect_format
from relgrounding.io import BadFeatures, DataError, MissingFile, UnsafeFile
from tools import prepare

ROOT = Path(__file__).parents[2]
DIM = 6


def clips(count=5, dim=DIM, kind=np.float32):
    random = np.random.default_rng(0)
    return {f"VID{i:02}": random.standard_normal((3 + i, dim)).astype(kind) for i in range(count)}


def images(count=4):
    """Return features, boxes and sizes of images."""
    random = np.random.default_rng(1)
    found = {}
    for i in range(count):
        corner = random.integers(0, 200, (2 + i, 2))
        boxes = np.concatenate([corner, corner + random.integers(1, 100, (2 + i, 2))], 1).astype(np.float32)
        found[str(100 + i)] = (random.standard_normal((2 + i, DIM)).astype(np.float32), boxes, (320 + i, 310))
    return found


def write_npy(folder, content):
    folder.mkdir()
    for number, (key, value) in enumerate(content.items()):
        # both shapes circulate
        np.save(folder / f"{key}.npy", value if number % 2 else value[:, None, None, :])
    return folder


def write_hdf5(path, content):
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file[key] = value
    return path


def write_c3d(path, content):
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file.create_dataset(f"{key}/c3d_features", data=value, chunks=True, compression="gzip")
    return path


def write_tsv(path, content):
    fields = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, delimiter="\t", fieldnames=fields)
        for key, (features, boxes, (width, height)) in content.items():
            row = {"image_id": key, "image_w": width, "image_h": height, "num_boxes": len(boxes)}
            writer.writerow(
                row | {"boxes": base64.b64encode(boxes).decode(), "features": base64.b64encode(features).decode()}
            )
    return path


def write_wide_tsv(path, content):
    lines = []
    for key, (features, boxes, (width, height)) in content.items():
        arrays = [base64.b64encode(a.tobytes()).decode() for a in (boxes, features)]
        lines.append("\t".join([key, str(height), str(width), "AA", "AA", "AA", "AA", str(len(boxes)), *arrays]))
    path.write_text("\n".join(lines))
    return path


def write_npz(folder, content):
    folder.mkdir()
    for number, (key, (features, boxes, (width, height))) in enumerate(content.items()):
        if number % 3 == 0:
            np.savez(folder / f"{key}.npz", features=features, boxes=boxes, width=width, height=height)
        elif number % 3 == 1:  # turned, and with a pickled object that is not looked at
            name = f"COCO_train2014_{int(key):012}.jpg.npz"
            info = np.array({"cls": 1}, dtype=object)
            np.savez(folder / name, x=features.T, bbox=boxes, image_w=width, image_h=height, info=info)
        else:
            np.savez_compressed(folder / f"{key}.npz", x=features, bbox=boxes, size=[width, height])
    return folder


def write_groups(path, content):
    with h5py.File(path, "w") as file:
        for key, (features, boxes, (width, height)) in content.items():
            file[f"{key}/features"], file[f"{key}/boxes"] = features, boxes
            file[key].attrs.update({"image_w": width, "image_h": height})
    return path


CLIP_WRITERS = [(write_npy, "npy"), (write_hdf5, "hdf5-clips"), (write_c3d, "hdf5-clips")]
REGION_WRITERS = [
    (write_tsv, "tsv"), (write_wide_tsv, "tsv"), (write_npz, "npz"), (write_groups, "hdf5-regions")
]  # fmt: skip


def check_regions(path, content, tolerance=0.0):
    store = RegionFeatures(path)
    assert sorted(store.ids) == sorted(content)
    for key, (features, boxes, size) in content.items():
        found = store[key]
        np.testing.assert_allclose(found.features, features, atol=tolerance, rtol=tolerance)
        np.testing.assert_array_equal(found.boxes, boxes)
        assert found.size == size


@pytest.mark.parametrize(("write", "name"), CLIP_WRITERS)
@pytest.mark.parametrize("float16", [False, True])
def test_clips_of_every_format(tmp_path, write, name, float16):
    content = clips()
    source = write(tmp_path / "in", content)
    assert detect_format(source) == name
    made = convert_features(source, tmp_path / "out" / "x.h5", float16=float16)
    assert made[:7] == ("clips", 5, 25, DIM, 0, 0, 1.0)
    store = ClipFeatures(tmp_path / "out" / "x.h5")
    assert sorted(store.ids) == sorted(content)
    for key, value in content.items():
        np.testing.assert_array_equal(store[key], value.astype(np.float16) if float16 else value)
    digest, file = (tmp_path / "out" / "x.h5.sha256").read_text().split()
    assert (digest, file) == (hashlib.sha256((tmp_path / "out" / "x.h5").read_bytes()).hexdigest(), "x.h5")
    assert sorted(os.listdir(tmp_path / "out")) == ["x.h5", "x.h5.sha256"]


def test_half_precision_stays_what_it_was(tmp_path):
    content = clips(kind=np.float16)
    convert_features(write_hdf5(tmp_path / "in", content), tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["VID00"].dtype == np.float16


@pytest.mark.parametrize(("write", "name"), REGION_WRITERS)
def test_regions_of_every_format(tmp_path, write, name):
    content = images()
    source = write(tmp_path / "in", content)
    assert detect_format(source) == name
    assert convert_features(source, tmp_path / "x.h5")[:4] == ("regions", 4, 14, DIM)
    check_regions(tmp_path / "x.h5", content)
    convert_features(tmp_path / "x.h5", tmp_path / "half.h5", float16=True)  # the library's layout is a format too
    check_regions(tmp_path / "half.h5", content, 1e-3)


def test_boxes_with_width_and_height(tmp_path):
    content = images()
    turned = {key: (f, np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1), s) for key, (f, b, s) in content.items()}
    source = write_tsv(tmp_path / "in", turned)
    with pytest.raises(BadFeatures, match=r"is it x y width height\? relgrounding prepare features --box-format xywh"):
        convert_features(source, tmp_path / "x.h5")
    convert_features(source, tmp_path / "x.h5", box_format="xywh")
    check_regions(tmp_path / "x.h5", content)


def test_detections_become_categories_and_geometry(tmp_path):
    found = [
        {"image_id": 7, "bbox": [10, 20, 30, 40], "category_id": 3, "score": 0.5},
        {"image_id": 9, "box": [0, 0, 50, 60], "category_id": 18, "score": 0.25},
        {"image_id": 7, "bbox": [90, 90, 20, 20], "category_id": 18, "score": 0.75},  # hangs over by 10 pixels
    ]
    (tmp_path / "d.json").write_text(json.dumps(found, indent=1))
    with pytest.raises(BadFeatures, match=r"size of image '7' unknown; name COCO's instances\.json with --sizes"):
        convert_features(tmp_path / "d.json", tmp_path / "x.h5")
    sizes = tmp_path / "instances.json"
    sizes.write_text(json.dumps({"images": [{"id": i, "width": 100, "height": 100} for i in (7, 9)]}))
    assert convert_features(tmp_path / "d.json", tmp_path / "x.h5", sizes=sizes)[:4] == ("regions", 2, 3, 8)
    store = RegionFeatures(tmp_path / "x.h5")
    np.testing.assert_array_equal(store["7"].boxes, [[10, 20, 40, 60], [90, 90, 100, 100]])
    np.testing.assert_allclose(
        store["7"].features, [[1, 0, 0.1, 0.2, 0.4, 0.6, 0.12, 0.5], [0, 1, 0.9, 0.9, 1, 1, 0.01, 0.75]], atol=1e-6
    )


@pytest.mark.parametrize("text", ["[", '[{"image_id": 1', "[1, 2", "[{]"])
def test_a_list_that_is_cut_off(tmp_path, text):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(BadFeatures):
        convert_features(tmp_path / "d.json", tmp_path / "x.h5")


def test_pca_agrees_with_the_singular_vectors(tmp_path):
    content = {key: value + 1000 for key, value in clips(30).items()}
    made = convert_features(write_npy(tmp_path / "in", content), tmp_path / "x.h5", pca=3)
    rows = np.concatenate(list(content.values())).astype(np.float64)
    centred = rows - rows.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    assert made.variance == pytest.approx((values[:3] ** 2).sum() / (values**2).sum(), rel=1e-6)
    store = ClipFeatures(tmp_path / "x.h5")
    projected = np.concatenate([store[key] for key in content])
    np.testing.assert_allclose(np.abs(projected), np.abs(centred @ directions[:3].T), atol=2e-3)
    # the same map for further videos
    other = {"other": content["VID03"]}
    convert_features(write_npy(tmp_path / "more", other), tmp_path / "y.h5", pca=tmp_path / "x.h5.pca.npz")
    np.testing.assert_array_equal(ClipFeatures(tmp_path / "y.h5")["other"], store["VID03"])
    with pytest.raises(BadFeatures, match="--pca 9: the features have 6 numbers"):
        convert_features(tmp_path / "in", tmp_path / "z.h5", pca=9)


def test_what_cannot_be_used_stops_or_is_skipped(tmp_path):
    content = clips()
    content["VID03"][0, 0] = np.nan
    source = write_npy(tmp_path / "in", content)
    (source / "torn.npy").write_bytes((source / "VID01.npy").read_bytes()[:-9])
    (source / "object.npy").unlink(missing_ok=True)
    np.save(source / "object.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(BadFeatures, match=r"object\.npy is damaged, cut off or not a NumPy file"):
        convert_features(source, tmp_path / "x.h5")
    made = convert_features(source, tmp_path / "x.h5", on_error="skip")
    assert (made.items, made.skipped) == (4, 3)
    assert sorted(ClipFeatures(tmp_path / "x.h5").ids) == ["VID00", "VID01", "VID02", "VID04"]


def test_what_is_no_source_is_named(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"GIF89a and more")
    with pytest.raises(BadFeatures, match="begins with b'GIF89a and more': no HDF5"):
        convert_features(tmp_path / "x.bin", tmp_path / "x.h5")
    with pytest.raises(MissingFile, match="nothing not found"):
        convert_features(tmp_path / "nothing", tmp_path / "x.h5")
    folder = write_npy(tmp_path / "in", clips(1))
    (folder / "link.npy").symlink_to(tmp_path / "x.bin")
    with pytest.raises(UnsafeFile, match=r"link\.npy is a link out of the folder"):
        convert_features(folder, tmp_path / "x.h5")
    mixed = write_hdf5(tmp_path / "mixed", {"a": np.ones((2, 3)), "b": np.ones((2, 4))})
    with pytest.raises(BadFeatures, match="features of 'b' have width 4, those of 'a' 3"):
        convert_features(mixed, tmp_path / "x.h5")
    twice = write_tsv(tmp_path / "twice", images(1))
    twice.write_text(twice.read_text() * 2)
    with pytest.raises(BadFeatures, match="'100' comes twice"):
        convert_features(twice, tmp_path / "x.h5")


def test_only_one_writes_a_file(tmp_path):
    import fcntl

    source = write_npy(tmp_path / "in", clips())
    with open(tmp_path / "x.h5.journal", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"x\.h5 is being written by another process"):
            convert_features(source, tmp_path / "x.h5")


SLOW = """
import sys, time
from relgrounding.features.convert import _convert as convert, _output as _convert_output
write = _convert_output.Output.write
def slow(self, item):
    time.sleep(0.01)
    write(self, item)
_convert_output.Output.write = slow
convert.convert_features(sys.argv[1], sys.argv[2], pca=int(sys.argv[3]) or None, float16=True)
"""


@pytest.mark.parametrize(("kind", "pca"), [("clips", 0), pytest.param("regions", 2, marks=pytest.mark.slow)])
def test_a_killed_conversion_goes_on_and_ends_the_same(tmp_path, kind, pca):
    source = write_npy(tmp_path / "in", clips(300)) if kind == "clips" else write_tsv(tmp_path / "in", images(100))
    whole, part = tmp_path / "whole.h5", tmp_path / "part.h5"
    convert_features(source, whole, pca=pca or None, float16=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SLOW, source, part, str(pca)], env=environment)
    journal = tmp_path / "part.h5.journal"
    for _ in range(6000):
        if journal.is_file() and journal.read_bytes().count(b"\n") > 2:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not part.exists()
    with open(journal, "ab") as file:
        file.write(b"12")  # a line that was cut off
    made = convert_features(source, part, pca=pca or None, float16=True)
    assert 20 <= made.resumed < made.items
    assert part.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def test_what_was_written_is_compared_with_its_checksum_before_it_is_gone_on_with(tmp_path, monkeypatch):
    from relgrounding.features.convert import _output as _convert_output

    source = write_npy(tmp_path / "in", clips(10))
    convert_features(source, tmp_path / "whole.h5")
    write = _convert_output.Output.write
    monkeypatch.setattr(_convert_output, "SIGN_BYTES", 1)  # after each item

    def stop(self, item):
        if self.done == 6:
            raise KeyboardInterrupt
        write(self, item)

    monkeypatch.setattr(_convert_output.Output, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_features(source, tmp_path / "x.h5")
    monkeypatch.undo()
    with h5py.File(tmp_path / "x.h5.part", "r+") as file:
        file["VID04"][0, 0] += 1
    assert convert_features(source, tmp_path / "x.h5").resumed == 4
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_another_source_starts_anew(tmp_path, monkeypatch):
    from relgrounding.features.convert import _output as _convert_output

    source = write_npy(tmp_path / "in", clips(3))
    monkeypatch.setattr(_convert_output.Output, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert_features(source, tmp_path / "x.h5")
    monkeypatch.undo()
    np.save(source / "VID01.npy", np.zeros((2, DIM), np.float32))
    assert convert_features(source, tmp_path / "x.h5").resumed == 0
    assert not ClipFeatures(tmp_path / "x.h5")["VID01"].any()


def test_the_command(tmp_path, capsys):
    source = write_npy(tmp_path / "in", clips())
    assert prepare.main(["features", str(source), str(tmp_path / "x.h5"), "--pca", "2", "--float16"]) == 0
    assert "x.h5: 5 videos, 25 clips x 2, " in capsys.readouterr().out
    assert prepare.main(["features", str(tmp_path / "x"), str(tmp_path / "x.h5")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
