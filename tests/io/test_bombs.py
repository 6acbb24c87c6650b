"""Small files that would take gigabytes, and files that never end: one clear error each, and little memory.

They are made in a temporary folder and read in one process of its own, whose memory is limited.
"""

import io
import json
import os
import pickle
import socket
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from relgrounding.datasets import (
    load_activitynet,
    load_charades,
    load_flickr30k,
    load_instances,
    load_own,
    load_refcoco,
)
from relgrounding.features.convert import convert_features
from relgrounding.io import BadAnnotation, BadFeatures, DataError, UnsafeFile
from relgrounding.io._pickle import load_plain_pickle
from relgrounding.io._regular import read_text

ROOT = Path(__file__).parents[2]
READ = """
import json, resource, sys
from pathlib import Path
from relgrounding.features import ClipFeatures, RegionFeatures
from relgrounding.io import DataError
from relgrounding.features.convert import convert_features
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30,) * 2)
said = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    ways = {"convert": lambda: convert_features(path, Path(sys.argv[1]) / "out" / "o.h5")}
    if path.suffix == ".h5":
        kind = RegionFeatures if path.name.startswith("regions") else ClipFeatures
        ways["read"] = lambda: [store[key] for store in [kind(path)] for key in store.ids]
    for way, read in ways.items():
        try:
            read()
            said[f"{path.name} {way}"] = "read"
        except DataError as error:
            said[f"{path.name} {way}"] = str(error)
said["grown"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(json.dumps(said))
"""


def header(shape, kind="<f4", length=None):
    """Return the beginning of a `.npy` file that declares more than follows."""
    file = io.BytesIO()
    np.lib.format.write_array_header_2_0(file, {"shape": shape, "fortran_order": False, "descr": kind})
    content = bytearray(file.getvalue())
    if length is not None:
        content[8:12] = length.to_bytes(4, "little")
    return bytes(content)


def zipped(path, parts, claim=None):
    """Write an archive, whose last part claims another size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (begin, blocks) in parts.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(begin)
                for _ in range(blocks):
                    file.write(bytes(2**24))
        if claim is not None:
            archive.filelist[-1].file_size = claim


def packed(blocks):
    """Return a stream of blocks of 16 MB of zeros, without its end."""
    packer = zlib.compressobj(9, wbits=-15)
    return zlib.compress(b"")[:2] + (packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)) * blocks


def make(folder):
    """Write the bombs."""
    with h5py.File(folder / "zeros.h5", "w") as file:  # 2 GB that were never written, and 1.5 GB in one chunk
        file.create_dataset("v", (2**19, 1024), "f4", chunks=(512, 1024), compression="gzip")
        file["v"].id.write_direct_chunk((0, 0), packed(1))
    with h5py.File(folder / "chunk.h5", "w") as file:
        file.create_dataset("v", (4, 8), "f4", chunks=(2**20, 400), maxshape=(None, None), compression="gzip")
        file["v"].id.write_direct_chunk((0, 0), packed(100))
    with h5py.File(folder / "stream.h5", "w") as file:  # a chunk of 16 kB that unpacks to 2 GB
        file.create_dataset("v", (64, 64), "f4", chunks=(64, 64), compression="gzip")
        file["v"].id.write_direct_chunk((0, 0), packed(128))
    with h5py.File(folder / "twice.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((64, 64))
        for level in (9, 9):
            properties.set_deflate(level)
        space = h5py.h5s.create_simple((64, 64))
        h5py.h5d.create(file.id, b"v", h5py.h5t.IEEE_F32LE, space, properties)
    with h5py.File(folder / "regions.h5", "w") as file:  # ids that all are one long text
        file["features"], file["offsets"] = np.ones((2, 3), "f4"), [0, 1, 2]
        file["boxes"], file["sizes"] = np.array([[0, 0, 5, 5], [1, 1, 6, 6]], "f4"), [[9, 9], [9, 9]]
        file.create_dataset("ids", data=["x" * 2**22, "y"], dtype=h5py.string_dtype())
    (folder / "shape.npy").write_bytes(header((10**9, 10**3)) + bytes(100))
    (folder / "long.npy").write_bytes(header((2, 3), length=2**32 - 1) + bytes(100))
    zipped(folder / "zeros.npz", {"features.npy": (header((2**19, 1024)), 1)})
    zipped(folder / "header.npz", {"features.npy": (header((2, 3), length=2**32 - 1), 24)})
    boxes = np.array([[0, 0, 5, 5]], "<f4")
    parts = {"x.npy": (header((1, 3)) + bytes(12), 0), "bbox.npy": (header((1, 4)) + boxes.tobytes(), 0)}
    zipped(folder / "size.npz", parts | {"size.npy": (header((2**29,)), 1)})
    zipped(folder / "zeros.pt", {"a/data.pkl": (b"\x80\x02}.", 0), "a/data/0": (b"", 1)}, 2**31)
    (folder / "deep.json").write_text("[" * 200_000)
    (folder / "digits.json").write_text('[{"image_id": 1, "bbox": [' + "9" * 100_000 + ", 1, 1, 1]}]")
    (folder / "deep.tsv").write_text("7\t" + '{"objects":' * 100_000 + "\n")


def test_little_memory_is_taken(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    make(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16e6
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ, folder], capture_output=True, text=True, timeout=300, check=True, env=environment
    )
    said = json.loads(done.stdout)
    assert said.pop("grown") < 300  # MB
    assert {key: text for key, text in said.items() if text == "read" or len(text) > 700} == {}
    assert "too large for one item" in said["zeros.h5 read"]
    assert "too large for one item" in said["chunk.h5 read"]
    assert "unpacks to more than it is declared" in said["stream.h5 convert"]
    assert "packed several times over" in said["twice.h5 read"]
    assert "with an object of no or too large a size" in said["regions.h5 convert"]
    for name in ("shape.npy", "zeros.npz", "size.npz"):
        assert "too large for one item" in said[f"{name} convert"]
    for name in ("long.npy", "header.npz"):
        assert "declares a header of 4294967295 bytes" in said[f"{name} convert"]
    assert "unpacks to more than" in said["zeros.pt convert"]
    assert "cut off or not JSON" in said["deep.json convert"]


def test_the_limit_is_the_users(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((100, 8), np.float32))
    with pytest.raises(BadFeatures, match="--max-bytes raises the limit"):
        convert_features(tmp_path / "a.npy", tmp_path / "o.h5", max_bytes=1000)
    assert convert_features(tmp_path / "a.npy", tmp_path / "o.h5", max_bytes=3200).rows == 100
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["v"] = np.ones((100, 8), np.float32)
    with pytest.raises(BadFeatures, match="--max-bytes raises the limit"):
        convert_features(tmp_path / "a.h5", tmp_path / "o.h5", max_bytes=1000)


def test_large_chunks_that_are_honest_are_read(tmp_path):
    content = np.random.default_rng(0).integers(0, 9, (2000, 1024)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("v", data=content, chunks=(2000, 512), compression="gzip", shuffle=True, fletcher32=True)
    assert (tmp_path / "a.h5").stat().st_size > 2**20
    convert_features(tmp_path / "a.h5", tmp_path / "o.h5", max_bytes=2**23)
    with h5py.File(tmp_path / "o.h5") as file:
        np.testing.assert_array_equal(file["v"], content)


def special(folder):
    """Make a FIFO, a socket, a folder and a link to a device."""
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))
    (folder / "folder").mkdir()
    (folder / "device").symlink_to("/dev/zero")
    return {"fifo": "a FIFO", "socket": "a socket", "folder": "a folder", "device": "a device"}


@pytest.mark.parametrize("name", ["fifo", "socket", "folder", "device"])
def test_what_is_no_regular_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    what = special(Path())[name]
    message = f"{name} is {what}, not a regular file"
    readers = [read_text, load_plain_pickle]
    if name != "folder":
        readers.append(lambda path: convert_features(path, "o.h5"))
    for read in readers:
        with pytest.raises(UnsafeFile, match=message):
            read(Path(name))
    os.rename(name, "v.npy")
    os.mkdir("in")
    os.rename("v.npy", "in/v.npy")
    with pytest.raises(UnsafeFile, match="v.npy is a link out of" if name == "device" else f"v.npy is {what}"):
        convert_features("in", "o.h5")


def test_a_link_out_of_an_annotation_folder(tmp_path):
    inside = tmp_path / "charades_sta"
    inside.mkdir()
    (tmp_path / "elsewhere.txt").write_text("AAAAA 0.0 1.0##person runs.\n")
    (inside / "charades_sta_train.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(UnsafeFile, match=r"charades_sta_train\.txt is a link out of its folder"):
        load_charades(inside, "train")
    (inside / "charades_sta_train.txt").unlink()
    (inside / "true.txt").write_text((tmp_path / "elsewhere.txt").read_text())
    (inside / "charades_sta_train.txt").symlink_to("true.txt")
    assert len(load_charades(inside, "train")) == 1
    (tmp_path / "folder").symlink_to(inside)  # a folder may be a link: the user named it
    assert len(load_charades(tmp_path / "folder", "train")) == 1


DATA_SETS = [
    (lambda root: load_charades(root, "train"), "charades_sta_train.txt"),
    (lambda root: load_activitynet(root, "train"), "train.json"),
    (lambda root: load_instances(root, "refcoco"), "refcoco/instances.json"),
    (lambda root: load_refcoco(root, "refcoco", "train"), "refcoco/refs(unc).p"),
    (lambda root: load_flickr30k(root, "train"), "train.txt"),
    (lambda root: load_flickr30k(root, "val"), "Annotations/17.xml"),
    (lambda root: load_own(root / "q.jsonl", "video"), "q.jsonl"),
]


@pytest.mark.parametrize(("load", "name"), DATA_SETS)
@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_no_data_set_reads_a_fifo_or_a_link_out_of_its_folder(tmp_path, load, name, kind):
    path = tmp_path / "data" / name
    for folder in ("refcoco", "Annotations", "Sentences"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "data" / "val.txt").write_text("17\n")
    (tmp_path / "secret").write_text("17\n")
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFile, match="is a FIFO, not a regular file" if kind == "fifo" else "is a link out of its"):
        load(tmp_path / "data")


def test_deep_json_is_one_error(tmp_path):
    (tmp_path / "q.jsonl").write_text("[" * 200_000 + "\n")
    with pytest.raises(BadAnnotation, match=r"line 1 is not JSON.*: its lists or objects are nested too deeply"):
        load_own(tmp_path / "q.jsonl", "video")
    (tmp_path / "d.json").write_text(json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4]}]))
    (tmp_path / "sizes.json").write_text('{"images": ' + "[" * 200_000)
    with pytest.raises(DataError, match="has no list 'images'"):
        convert_features(tmp_path / "d.json", tmp_path / "o.h5", sizes=tmp_path / "sizes.json")


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_and_numpy(tmp_path, protocol):
    from collections import Counter

    from relgrounding.io import load_charades_glove

    content = {"w2id": {"a": 0}, "id2vec": [np.arange(3, dtype=np.float32)], "counter": Counter(a=1)}
    (tmp_path / "x.p").write_bytes(pickle.dumps(content, protocol))
    np.testing.assert_array_equal(load_charades_glove(tmp_path / "x.p").vectors, [[0, 1, 2]])
    other = pickle.dumps(content, protocol).replace(b"numpy._core", b"numpy.core")  # as NumPy 1 names it
    if protocol < 4:  # later ones have the lengths of names before them
        (tmp_path / "x.p").write_bytes(other)
        np.testing.assert_array_equal(load_charades_glove(tmp_path / "x.p").vectors, [[0, 1, 2]])
