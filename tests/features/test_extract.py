import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.features import ClipFeatures, RegionFeatures, extraction
from relgrounding.features.extraction._windows import clip_count, first_frame, windows
from tools import extract as tool

SOURCE = {"what": "features", "weights": "somebody's", "stride": 8}


@given(st.integers(1, 90), st.integers(1, 20), st.integers(1, 20))
def test_clips_of_a_stream_are_those_of_the_whole_list(frames, clip_frames, stride):
    found = list(windows(iter(range(frames)), clip_frames, stride))
    assert len(found) == clip_count(frames, stride)
    for i, clip in enumerate(found):
        first = first_frame(i, clip_frames, stride)
        assert clip == [min(max(f, 0), frames - 1) for f in range(first, first + clip_frames)]


@given(st.integers(1, 500), st.integers(1, 20), st.integers(1, 20))
def test_a_clip_is_centred_on_its_share_of_the_video(frames, clip_frames, stride):
    n = clip_count(frames, stride)
    assert n == 1 or abs(n * stride - frames) <= stride / 2
    for i in range(n):
        middle = first_frame(i, clip_frames, stride) + clip_frames / 2
        assert abs(middle - (i + 0.5) * stride) <= 0.5


def test_a_stream_is_not_held_in_memory():
    class Frame:
        alive = most = 0

        def __init__(self):
            Frame.alive += 1
            Frame.most = max(Frame.most, Frame.alive)

        def __del__(self):
            Frame.alive -= 1

    assert sum(1 for _ in windows((Frame() for _ in range(500)), 16, 8)) == 63
    assert Frame.most <= 2 * 16


def test_no_frame_no_clip():
    assert list(windows(iter(()), 16, 8)) == []


def _files(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_ids_of_files_and_folders(tmp_path):
    folder = _files(tmp_path / "in", "b.JPG", "a.png", "notes.txt")
    single = _files(tmp_path, "COCO_000012.jpg") / "COCO_000012.jpg"
    assert list(extraction.find_inputs([single, folder], extraction.IMAGES)) == ["COCO_000012", "a", "b"]
    assert list(extraction.find_inputs([single], extraction.IMAGES, numbers=True)) == ["12"]


@pytest.mark.parametrize(
    ("names", "numbers", "message"),
    [
        (["gone.jpg"], False, "gone.jpg does not exist"),
        (["empty"], False, "empty holds no file of a known kind"),
        (["in/a.jpg"], True, "takes the number at the end of a name"),
        (["in/a.jpg", "in/a.png"], False, "would both get the id 'a'"),
    ],
)
def test_inputs_of_no_use(tmp_path, names, numbers, message):
    _files(tmp_path / "in", "a.jpg", "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(extraction.ExtractionError, match=message):
        extraction.find_inputs([tmp_path / name for name in names], extraction.IMAGES, numbers)


class Fake:
    """Features that depend on the id; a file named bad is damaged, and one named stop is where Ctrl-C is pressed."""

    def __init__(self, kind="clips"):
        self.calls, self.kind = [], kind

    def __call__(self, key, path):
        self.calls.append(key)
        if key == "bad":
            raise extraction.ExtractionError("cannot be decoded")
        if key == "stop":
            raise KeyboardInterrupt
        features = np.full((len(key), 3), ord(key[0]), dtype=np.float32)
        if self.kind == "clips":
            return {"features": features, "duration": np.asarray(len(key) / 2)}
        boxes = np.tile(np.float32([1, 2, 3, 4.5]), (len(key), 1))
        return {"features": features, "boxes": boxes, "size": np.array([9, 8]), "scores": features[:, 0]}


def _content(path):
    import h5py

    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: (item[()].tolist(), dict(item.attrs))}))
        return found | dict(file.attrs)


@pytest.mark.parametrize("kind", ["clips", "regions"])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, kind):
    write = extraction.write_clips if kind == "clips" else extraction.write_regions

    def make(out, ids, extract):
        parts = extraction.Parts(out, SOURCE)
        done = extraction.extract_all({key: tmp_path / key for key in ids}, extract, parts, skip=False)
        write(out, done, parts, SOURCE)
        parts.remove()

    make(tmp_path / "whole.h5", ["one", "three", "go"], Fake(kind))
    out, first, second = tmp_path / "resumed.h5", Fake(kind), Fake(kind)
    with pytest.raises(KeyboardInterrupt):
        make(out, ["one", "three", "stop"], first)
    assert not out.exists()
    make(out, ["one", "three", "go"], second)
    assert second.calls == ["go"]
    assert _content(out) == _content(tmp_path / "whole.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"whole.h5", "resumed.h5"}
    if kind == "clips":
        assert ClipFeatures(out)["three"].tolist() == [[ord("t")] * 3] * 5
        assert _content(out)["three"][1] == {"duration": 2.5}
    else:
        regions = RegionFeatures(out)["go"]
        assert (regions.features.shape, regions.boxes.tolist(), regions.size) == ((2, 3), [[1, 2, 3, 4.5]] * 2, (9, 8))
    assert json.loads(ClipFeatures(out).attributes["source"]) == SOURCE


def test_parts_of_other_settings_are_not_mixed_in(tmp_path):
    extraction.Parts(tmp_path / "x.h5", SOURCE | {"stride": 1})  # nothing done yet: may be begun again
    parts = extraction.Parts(tmp_path / "x.h5", SOURCE)
    parts.put("a", Fake()("a", None))
    with pytest.raises(extraction.ExtractionError, match="was begun with stride 8, this is 4"):
        extraction.Parts(tmp_path / "x.h5", SOURCE | {"stride": 4})
    (parts.folder / "a.npz").write_bytes(b"PK damaged")
    with pytest.raises(extraction.ExtractionError, match="remove it and run again"):
        parts.get("a")


def test_a_bad_file_stops_or_is_left_out(tmp_path, capsys):
    inputs = {key: tmp_path / f"{key}.mp4" for key in ("a", "bad", "c")}
    parts = extraction.Parts(tmp_path / "x.h5", SOURCE)
    with pytest.raises(extraction.ExtractionError, match=r"bad\.mp4: cannot be decoded \(--on-error skip"):
        extraction.extract_all(inputs, Fake(), parts, skip=False)
    assert extraction.extract_all(inputs, Fake(), parts, skip=True) == ["a", "c"]
    assert "skipped: " in capsys.readouterr().err
    with pytest.raises(extraction.ExtractionError, match="no features to write"):
        extraction.write_clips(tmp_path / "x.h5", [], parts, SOURCE)


@pytest.mark.parametrize("value", [np.nan, 1e6])
def test_features_that_are_no_numbers_are_refused(tmp_path, value):
    parts = extraction.Parts(tmp_path / "x.h5", SOURCE)
    with pytest.raises(extraction.ExtractionError, match="not finite in float16"):
        parts.put("a", {"features": np.full((1, 2), value, dtype=np.float32)})
    assert "a" not in parts


@pytest.mark.parametrize(
    ("command", "hidden"),
    [("videos", "torchvision.models.video"), ("videos", "av"), ("images", "torchvision.models.detection")],
)
def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch, capsys, command, hidden):
    monkeypatch.setitem(sys.modules, "av", ModuleType("av"))
    monkeypatch.setitem(sys.modules, hidden, None)
    _files(tmp_path, "a.mp4")
    assert tool.main([command, str(tmp_path / "a.mp4"), str(tmp_path / "x.h5"), "--weights", "random"]) == 2
    error = capsys.readouterr().err
    minor = int(torch.__version__.split(".")[1])
    assert (
        f"is not installed, which features of videos and images need: pip install av 'torchvision==0.{minor + 15}.*'"
        in error
    )
    assert error.count("\n") == 1
    assert not (tmp_path / "x.h5").exists()


def test_a_torchvision_of_another_torch_is_named(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(extraction.MissingPackageError, match=r"torchvision does not fit torch .*nms does not exist"):
        extraction._errors.require("torchvision")


def test_an_output_that_exists_is_not_replaced(tmp_path, capsys):
    _files(tmp_path, "a.mp4", "x.h5")
    assert tool.main(["videos", str(tmp_path / "a.mp4"), str(tmp_path / "x.h5")]) == 2
    assert "x.h5 exists; --overwrite replaces it" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--stride", "0"], ["--fps", "nan"], ["--size", "1"], ["--model", "mine"]])
def test_bad_options_are_refused(words):
    with pytest.raises(SystemExit):
        tool.main(["videos", "a.mp4", "x.h5", *words])
