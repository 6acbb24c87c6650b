"""Bad features: damaged and hostile files end in a documented error or are read, none in a crash or a hang."""

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from relgrounding.features import ClipFeatures, RegionFeatures
from relgrounding.features.convert import convert_features
from relgrounding.io import BadFeatures, MissingFeatures, UnsafeFile
from tests.io.bad_inputs import clip_file, damaged, read, read_all, region_file

ROOT = Path(__file__).parents[2]


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


def heap(path, change):
    """Write an HDF5 file whose texts lie in the library's global heap, and change the bytes from the heap on."""
    with h5py.File(path, "w") as file:
        file["v0"] = np.ones((2, 3), np.float32)
        file.attrs["source"] = "a text"
    content = bytearray(path.read_bytes())
    begin = content.index(b"GCOL")
    for place, value in change.items():
        content[begin + place : begin + place + len(value)] = value
    path.write_bytes(content)
    return path


# The sizes of the object and of the free space behind it, and of the collection; the number of the object.
HEAPS = [
    {48: bytes(8)},
    {48: b"\1"},
    {24: b"\xff" * 8},
    {24: b"\0\x0f"},
    {8: b"\xff" * 8},
    {16: bytes(2), 24: bytes(8)},
]


def test_texts_whose_storage_would_keep_the_library_busy_for_good(tmp_path):
    paths = [heap(tmp_path / f"{number}.h5", change) for number, change in enumerate(HEAPS)]
    code = (
        "import sys; from relgrounding.features import ClipFeatures; from relgrounding.io import DataError\n"
        "for path in sys.argv[1:]:\n"
        "    try: ClipFeatures(path).attributes\n"
        "    except DataError as error: print(error, flush=True)"
    )
    # In a process of its own: what is not refused cannot be interrupted from Python.
    words = [sys.executable, "-c", code, *paths]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, cwd=ROOT, check=True)
    named = [line.split(" is damaged, cut off or not HDF5: ")[0] for line in done.stdout.splitlines()]
    assert [Path(name).name for name in named] == [path.name for path in paths]


def test_a_text_of_a_kind_that_does_not_exist(tmp_path):
    # Its reading ends the process. Variable lengths are of kind 0, sequences, or 1, texts.
    path = heap(tmp_path / "x.h5", {})
    path.write_bytes(path.read_bytes().replace(b"source\0\0\x19\1", b"source\0\0\x19\3"))
    assert ClipFeatures(path).attributes == {}
    regions = region_file(tmp_path / "r.h5")
    content = regions.read_bytes()
    assert content.count(b"\x19\1\1\0\x10") == 1
    regions.write_bytes(content.replace(b"\x19\1\1\0\x10", b"\x19\3\1\0\x10"))
    for in_memory in (True, False):
        with pytest.raises(BadFeatures, match="must hold one text per image"):
            _ = RegionFeatures(regions, in_memory).ids


def test_a_chunk_that_is_shorter_than_its_checksum(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("v0", data=np.ones((4, 3), np.float32), chunks=(1, 3), fletcher32=True)
    # The places of the four chunks are in one node: size, filters left out, and the place as two numbers of 8 bytes.
    content = path.read_bytes()
    node = content.index(b"TREE\1")
    before = struct.pack("<II", 16, 0)
    assert content.count(before, node) >= 4
    assert ClipFeatures(path)["v0"].all()
    path.write_bytes(content[:node] + content[node:].replace(before, struct.pack("<II", 0, 0), 1))
    with pytest.raises(BadFeatures, match="has a chunk of 0 bytes with a checksum of 4"):
        ClipFeatures(path)["v0"]
    assert read(convert_features, path, tmp_path / "y.h5")


@pytest.mark.parametrize("code", [h5py.h5z.FILTER_NBIT, h5py.h5z.FILTER_SCALEOFFSET])
def test_a_filter_without_its_parameters(tmp_path, code):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("v0", data=np.ones((4, 3), np.float32), chunks=(1, 3), fletcher32=True)
    # Of a filter: its code, the length of its name, flags and number of parameters, two bytes each, and its name.
    content = path.read_bytes()
    name = content.index(b"fletcher32")
    filtered = content[name - 8 : name + 10]
    assert content.count(filtered) == 1
    assert filtered[0] == 3
    path.write_bytes(content.replace(filtered, bytes([code]) + filtered[1:]))
    with pytest.raises(BadFeatures, match="is stored through filter"):
        ClipFeatures(path)["v0"]


def test_texts_that_are_whole(tmp_path):
    path = heap(tmp_path / "x.h5", {})
    assert ClipFeatures(path).attributes == {"source": "a text"}


@pytest.mark.parametrize("chunks", [None, (64, 3)])
def test_a_shape_that_the_file_cannot_hold(tmp_path, chunks):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("v0", (2**26, 3), "f4", chunks=chunks)
    with pytest.raises(BadFeatures, match="more than its file can hold"):
        ClipFeatures(tmp_path / "x.h5")["v0"]
