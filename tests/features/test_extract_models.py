"""With torchvision and PyAV: a generated video and generated pictures, small models of random weights."""

import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from relgrounding.features import ClipFeatures, RegionFeatures, Regions, extraction, write_region_features
from relgrounding.features.extraction._frames import Frames
from tools import extract as tool
from tools import prepare, train

try:
    import av
    import torchvision
    from PIL import Image
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, fasterrcnn_resnet50_fpn
    from torchvision.models.video import R3D_18_Weights, r3d_18
except (ImportError, RuntimeError) as problem:
    pytest.skip(f"torchvision or av cannot be imported: {problem}", allow_module_level=True)

FRAMES, RATE = 50, 20
SMALL = ["--weights", "random", "--size", "32"]
# The smaller detectors, with random weights, give all boxes the same feature, which would test nothing.
DETECTOR = ["--model", "fasterrcnn_resnet50_fpn", "--weights", "random", "--min-score", "0", "--size", "64"]
SMALLEST = "fasterrcnn_mobilenet_v3_large_320_fpn"
PHOTOS = {"7": (80, 60), "12": (70, 90)}
"""Sizes of the pictures by their COCO ids."""
ROOT = Path(__file__).parents[2]


def write_video(path, frames=FRAMES, size=64, seed=0):
    """Write a square that crosses noise and grows darker: every frame differs."""
    noise = np.random.default_rng(seed).integers(0, 100, (size, size, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            picture = noise.copy()
            picture[20:36, i : i + 16] = 250 - 2 * i
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "walk.mp4")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, shape in (("COCO_000007.png", (60, 80, 3)), ("COCO_000012.png", (90, 70, 3))):
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(folder / name)
    return folder


def run(*words):
    assert tool.main([str(word) for word in words]) == 0


def all_frames(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_clip_features_are_those_of_the_network_run_by_hand(video, tmp_path, capsys):
    run("videos", video, tmp_path / "x.h5", *SMALL, "--seed", 3)
    captured = capsys.readouterr()
    assert "MEANINGLESS" in captured.err
    assert "walk: 6 clips, --duration 2.50" in captured.out
    found = ClipFeatures(tmp_path / "x.h5")
    assert found["walk"].shape == (6, 512)
    torch.manual_seed(3)
    network = r3d_18(weights=None).eval()
    pooled = []
    network.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    transform = R3D_18_Weights.KINETICS400_V1.transforms(crop_size=(32, 32), resize_size=(37, 49))
    frames = torch.from_numpy(all_frames(video)).permute(0, 3, 1, 2)
    for clip in range(6):
        rows = [min(max(row, 0), FRAMES - 1) for row in range(8 * clip - 4, 8 * clip + 12)]
        with torch.no_grad():
            network(transform(frames[rows])[None])
    expected = torch.cat(pooled).numpy()
    np.testing.assert_allclose(found["walk"], expected, rtol=2e-3, atol=1e-4)  # float16 in the file
    assert np.abs(expected[0] - expected[3]).max() > 1e-3  # clips differ, or the comparison says nothing
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["walk"].attrs["duration"] == pytest.approx(FRAMES / RATE)
    source = json.loads(found.attributes["source"])
    assert source["model"] == "torchvision r3d_18"
    assert source["weights"] == "random, seed 3"
    assert (source["clip_frames"], source["stride"], source["size"]) == (16, 8, 32)
    assert "meaningless" in found.attributes["warning"]


def test_frames_at_another_rate(video):
    every = all_frames(video)
    for fps, rows in ((5.0, range(0, 50, 4)), (20.0, range(50)), (40.0, [i // 2 for i in range(100)])):
        frames = Frames(video, fps)
        found = [frame.permute(1, 2, 0).numpy() for frame in frames]
        assert len(found) == len(rows)
        assert all((a == every[row]).all() for a, row in zip(found, rows, strict=True))
        assert frames.duration == pytest.approx(2.5)


@pytest.mark.parametrize("model", ["mc3_18", "r2plus1d_18"])
def test_other_networks_and_a_file_of_weights(video, tmp_path, model):
    torch.manual_seed(5)
    state = getattr(torchvision.models.video, model)(num_classes=7).state_dict()  # another classifier does not matter
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    words = ["--model", model, "--size", "16", "--clip-frames", "4", "--stride", "20"]
    run("videos", video, tmp_path / "a.h5", *words, "--weights", tmp_path / "w.pth")
    run("videos", video, tmp_path / "b.h5", *words, "--weights", tmp_path / "w.pth", "--batch", "1")
    found = ClipFeatures(tmp_path / "a.h5")
    assert found["walk"].shape == (3, 512)
    np.testing.assert_allclose(found["walk"], ClipFeatures(tmp_path / "b.h5")["walk"], rtol=2e-3, atol=1e-4)
    assert "w.pth, sha256 " in found.attributes["source"]
    assert "warning" not in found.attributes


def test_the_seed_decides_about_random_weights(video, tmp_path):
    words = [*SMALL, "--clip-frames", "4", "--stride", "25"]
    before = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run("videos", video, tmp_path / f"{name}.h5", *words, "--seed", seed)
    a, b, c = (ClipFeatures(tmp_path / f"{name}.h5")["walk"] for name in "abc")
    assert (a == b).all()
    assert (a != c).any()
    assert torch.equal(torch.get_rng_state(), before)


def test_boxes_and_features_are_those_of_the_detector_run_by_hand(photos, tmp_path, monkeypatch):
    run("images", photos, tmp_path / "x.h5", *DETECTOR, "--regions", "9", "--number-ids", "--seed", 2)
    store = RegionFeatures(tmp_path / "x.h5")
    assert store.ids == ["7", "12"]
    assert store.dim == 1024
    torch.manual_seed(2)
    options = {"min_size": 64, "max_size": 106, "box_detections_per_img": 9, "box_score_thresh": 0}
    detector = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **options).eval()
    heads = []
    detector.roi_heads.box_head.register_forward_hook(lambda module, inputs, output: heads.append(output))
    for key, name in (("7", "COCO_000007.png"), ("12", "COCO_000012.png")):
        pixels = torch.from_numpy(np.array(Image.open(photos / name))).permute(2, 0, 1) / 255
        with torch.no_grad():
            (found,) = detector([pixels])
            # The second stage is shown the boxes as if the first had proposed them: its head then gives their features.
            height, width = detector.transform([pixels])[0].image_sizes[0]
            shown = found["boxes"] * torch.tensor([width / pixels.shape[2], height / pixels.shape[1]] * 2)
            with monkeypatch.context() as patch:
                patch.setattr(detector.rpn, "forward", lambda *_, boxes=shown: ([boxes], {}))
                detector([pixels])
        regions = store[key]
        assert regions.size == (pixels.shape[2], pixels.shape[1])
        np.testing.assert_allclose(regions.boxes, found["boxes"], atol=1e-3)
        np.testing.assert_allclose(regions.features, heads[-1].numpy(), rtol=2e-3, atol=1e-2)  # float16 in the file
        assert regions.features.std(0).max() > 1
        assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
        assert len(regions.boxes) == 9
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["scores"].shape == (18,)
        assert "random, seed 2" in file.attrs["source"]


def test_given_boxes_get_the_features_that_detected_ones_had(photos, tmp_path, capsys):
    run("images", photos, tmp_path / "x.h5", *DETECTOR, "--regions", "5")
    run("images", photos, tmp_path / "y.h5", *DETECTOR, "--boxes", tmp_path / "x.h5")
    detected, given = RegionFeatures(tmp_path / "x.h5"), RegionFeatures(tmp_path / "y.h5")
    for key in detected.ids:
        np.testing.assert_array_equal(given[key].boxes, detected[key].boxes)
        np.testing.assert_allclose(given[key].features, detected[key].features, rtol=5e-3, atol=1e-2)
    words = ["images", photos / "COCO_000007.png", tmp_path / "z.h5", *DETECTOR, "--boxes", tmp_path / "x.h5"]
    assert tool.main([*map(str, words), "--number-ids"]) == 2
    assert "x.h5 holds no box of '7'" in capsys.readouterr().err
    Image.new("RGB", (10, 10)).save(tmp_path / "COCO_000007.png")
    words[1] = tmp_path / "COCO_000007.png"
    assert tool.main([str(word) for word in words]) == 2
    assert "has 10 x 10 pixels, the boxes of 'COCO_000007'" in capsys.readouterr().err


@pytest.fixture
def boxes(tmp_path):
    """Boxes of the photos, without features: one inside, one across the edge, one of a pixel in the corner."""
    rows = np.float32([[10, 5, 40, 30], [50, 40, 90, 64], [69, 59, 70, 60]])
    items = [(key, Regions(np.zeros((3, 0), np.float16), rows, size)) for key, size in PHOTOS.items()]
    write_region_features(tmp_path / "boxes.h5", items)
    return tmp_path / "boxes.h5"


CROPS = ["--model", "resnet18", "--weights", "random", "--size", "48", "--number-ids"]


def test_features_of_crops_are_those_of_the_network_run_by_hand(photos, boxes, tmp_path, capsys):
    folder = shutil.copytree(photos, tmp_path / "more")
    Image.new("RGB", (10, 10)).save(folder / "COCO_000099.png")
    run("images", folder, tmp_path / "x.h5", *CROPS, "--seed", 4, "--boxes", boxes)
    assert "boxes.h5: boxes of 2 of 3 files, no file for 0 images" in capsys.readouterr().out
    store = RegionFeatures(tmp_path / "x.h5")
    assert store.ids == ["7", "12"]  # of the boxes
    torch.manual_seed(4)
    network = torchvision.models.resnet18(weights=None).eval()
    network.fc = torch.nn.Identity()
    mean, std = (torch.tensor(value)[:, None, None] for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for key, name in (("7", "COCO_000007.png"), ("12", "COCO_000012.png")):
        picture = Image.open(photos / name)
        np.testing.assert_array_equal(store[key].boxes, RegionFeatures(boxes)[key].boxes)
        for box, found in zip(store[key].boxes, store[key].features, strict=True):
            margin = 0.1 * (box[2:] - box[:2])
            low = np.maximum(np.floor(box[:2] - margin), 0).astype(int)
            high = np.minimum(np.ceil(box[2:] + margin), picture.size).astype(int)
            crop = torchvision.transforms.functional.to_tensor(picture.crop((*low, *high)))
            crop = torchvision.transforms.functional.resize(crop, [48, 48], antialias=True)
            with torch.no_grad():
                expected = network(((crop - mean) / std)[None])[0]
            np.testing.assert_allclose(found, expected, rtol=5e-3, atol=5e-3)
    assert store["7"].features.std(0).max() > 0.1
    source = json.loads(store.attributes["source"])
    assert (source["model"], source["size"], source["context"]) == ("torchvision resnet18", 48, 0.1)
    assert source["boxes"].startswith("of boxes.h5, sha256 ")


@pytest.mark.parametrize("model", ["shufflenet_v2_x0_5", "vit_b_32", "mobilenet_v3_small"])
def test_other_networks_of_crops_and_a_file_of_weights(photos, boxes, tmp_path, model):
    torch.manual_seed(5)
    state = getattr(torchvision.models, model)(num_classes=7).state_dict()  # another classifier does not matter
    torch.save(state, tmp_path / "w.pth")
    words = ["--number-ids", "--model", model, "--weights", tmp_path / "w.pth"]
    run("images", photos, tmp_path / "x.h5", *words, "--boxes", boxes)
    width = {"shufflenet_v2_x0_5": 1024, "vit_b_32": 768, "mobilenet_v3_small": 1024}[model]
    assert RegionFeatures(tmp_path / "x.h5")["7"].features.shape == (3, width)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "resnet18"], "resnet18 is not a detector; there are fasterrcnn_resnet50_fpn_v2"),
        (["--model", "squeezenet1_0", "--boxes", "boxes.h5"], "does not end in a linear layer"),
        (["--model", "fcn_resnet50", "--boxes", "boxes.h5"], "is not a classification network"),
        (["--model", "vit_b_32", "--size", "64", "--boxes", "boxes.h5"], "cannot see 64 x 64 pixels"),
        (["--model", "resnet18", "--boxes", "boxes.h5", "--pca", "513"], "keep at most that many"),
        (["--model", "resnet18", "--boxes", "other.h5"], "of none of the 2 files; --number-ids"),
        (["--model", "resnet18", "--boxes", "none.h5"], "none.h5 not found"),
    ],
)
def test_models_and_boxes_of_no_use(photos, boxes, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    regions = RegionFeatures(boxes)["7"]
    write_region_features("other.h5", [("unknown", regions)])
    assert tool.main(["images", str(photos), "x.h5", "--weights", "random", "--number-ids", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.h5").exists()


def test_principal_components_are_those_of_all_features(photos, boxes, tmp_path, capsys):
    words = ["images", photos, *CROPS, "--boxes", boxes]
    for name, more in (("all", []), ("few", ["--pca", "2"]), ("same", ["--pca", tmp_path / "few.h5.pca.npz"])):
        run(*words[:2], tmp_path / f"{name}.h5", *words[2:], *more)
    every, few, same = (RegionFeatures(tmp_path / f"{name}.h5") for name in ("all", "few", "same"))
    rows = np.concatenate([every[key].features for key in every.ids]).astype(np.float64)
    _, _, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    expected = (rows - rows.mean(0)) @ axes[:2].T
    found = np.concatenate([few[key].features for key in few.ids])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-2, atol=1e-2)
    assert all((few[key].features == same[key].features).all() for key in few.ids)
    assert json.loads(few.attributes["source"])["pca"].startswith("2 of 512 numbers, fitted on them, ")
    assert json.loads(same.attributes["source"])["pca"].startswith("2 of 512 numbers, of few.h5.pca.npz, ")
    assert not list(tmp_path.glob("*.parts"))
    wrong = ["--number-ids", "--boxes", boxes, "--pca", tmp_path / "few.h5.pca.npz"]
    assert tool.main([str(word) for word in ["images", photos, tmp_path / "x.h5", *DETECTOR, *wrong]]) == 2
    assert "is for features of width 512, these have 1024" in capsys.readouterr().err


def test_from_real_annotations_to_a_trained_run(data_root, tmp_path, monkeypatch):
    """The recipe of docs/data.md, with generated pictures of the annotated sizes and random weights."""
    monkeypatch.chdir(tmp_path)
    source, root = data_root / "flickr30k_entities", tmp_path / "data" / "flickr30k_entities"
    root.mkdir(parents=True)
    with zipfile.ZipFile(source / "annotations.zip") as archive:
        for split, count in (("train", 24), ("val", 6)):
            names = [f"Annotations/{image}.xml" for image in (source / f"{split}.txt").read_text().split()]
            images = [Path(name).stem for name in names if name in archive.NameToInfo][:count]
            (root / f"{split}.txt").write_text("\n".join(images))
            files = [name for image in images for name in (f"Annotations/{image}.xml", f"Sentences/{image}.txt")]
            archive.extractall(root, files)
    words = ["annotated-boxes", "boxes.h5", "--dataset", "flickr30k", "--root", "data", "--splits", "train", "val"]
    assert prepare.main(words) == 0
    Path("pictures").mkdir()
    random = np.random.default_rng(0)
    for image, _, (width, height) in RegionFeatures("boxes.h5").counts():
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(f"pictures/{image}.jpg")
    out = root / "region_features.h5"
    run("images", "pictures", out, *CROPS, "--boxes", "boxes.h5", "--pca", 16)
    config = [str(ROOT / "configs" / "flickr30k_ign.yaml"), "data.root=data", "data.word_vectors="]
    assert prepare.main(["verify", *config]) == 0
    assert train.main(["--config", *config, "train.epochs=1", "data.batch_size=32"]) == 0
    (result,) = {entry["queries"] for entry in json.loads(Path("runs/flickr30k_ign/results.json").read_text())}
    assert result > 10


def test_the_default_detector(photos, tmp_path):
    photo = photos / "COCO_000007.png"
    run("images", photo, tmp_path / "x.h5", "--weights", "random", "--size", "32", "--min-score", "0")
    regions = RegionFeatures(tmp_path / "x.h5")["COCO_000007"]
    assert regions.features.shape == (50, 1024)


def test_an_interrupted_run_goes_on(video, tmp_path, monkeypatch, capsys):
    other = write_video(tmp_path / "other.mp4", frames=20, seed=1)
    words = [video, other, "--clip-frames", "4", *SMALL]
    run("videos", *words[:2], tmp_path / "whole.h5", *words[2:])
    extract = extraction.ClipExtractor.__call__

    def interrupted(self, key, path):
        if key == "other":
            raise KeyboardInterrupt
        return extract(self, key, path)

    again = ["videos", *map(str, words[:2]), str(tmp_path / "x.h5"), *words[2:]]
    monkeypatch.setattr(extraction.ClipExtractor, "__call__", interrupted)
    assert tool.main(again) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "x.h5").exists()
    monkeypatch.setattr(extraction.ClipExtractor, "__call__", extract)
    run(*again)
    with h5py.File(tmp_path / "x.h5") as one, h5py.File(tmp_path / "whole.h5") as two:
        assert list(one) == list(two) == ["other", "walk"]
        assert all((one[key][()] == two[key][()]).all() for key in one)
        assert all(dict(one[key].attrs) == dict(two[key].attrs) for key in one)
        assert dict(one.attrs) == dict(two.attrs)


def test_bad_files_are_named_or_left_out(video, photos, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "half.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    (tmp_path / "text.png").write_text("no picture")
    picture = (photos / "COCO_000007.png").read_bytes()
    (tmp_path / "half.png").write_bytes(picture[: len(picture) // 2])
    cases = [("videos", name, "cannot be decoded", SMALL) for name in ("text.mp4", "half.mp4")]
    cases += [("images", name, "is not a readable picture", DETECTOR) for name in ("text.png", "half.png")]
    for command, name, message, words in cases:
        assert tool.main([command, str(tmp_path / name), str(tmp_path / f"{command}.h5"), *words]) == 2
        error = capsys.readouterr().err
        assert f"{name} {message}" in error
        assert "--on-error skip" in error
    run("videos", tmp_path / "text.mp4", video, tmp_path / "x.h5", *SMALL, "--stride", "30", "--on-error", "skip")
    captured = capsys.readouterr()
    assert "1 videos, 1 skipped" in captured.out
    assert "skipped: " in captured.err
    assert ClipFeatures(tmp_path / "x.h5").ids == ["walk"]


def test_a_video_that_ends_before_its_header_says(video, tmp_path):
    long = write_video(tmp_path / "long.mp4", frames=80)
    frames = Frames(long)

    class Stream:
        duration, time_base = 10, 1

    list(frames)
    frames._check_end(type("Whole", (), {"duration": 4, "time_base": 1}))
    with pytest.raises(extraction.ExtractionError, match=r"long\.mp4 ends after 4\.0 of 10\.0 seconds: it is damaged"):
        frames._check_end(Stream)


def test_a_sound_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(extraction.ExtractionError, match=r"a\.wav holds no video"):
        list(Frames(tmp_path / "a.wav"))


def test_weights_of_no_use(video, tmp_path, capsys):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save(r3d_18, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("nothing")
    for weights, message in [
        ("KINETICS9", "are neither a file nor weights of r3d_18; torchvision has KINETICS400_V1"),
        (tmp_path / "other.pth", "does not fit r3d_18: it lacks stem.0.weight"),
        (tmp_path / "code.pth", "is not a state_dict that can be read safely"),
        (tmp_path / "list.pth", "holds no state_dict"),
        (tmp_path / "text.pth", "is not a state_dict that can be read safely"),
    ]:
        assert tool.main(["videos", str(video), str(tmp_path / "x.h5"), "--weights", str(weights)]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("x.h5*"))


def test_weights_that_cannot_be_fetched(video, tmp_path, capsys, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    assert tool.main(["videos", str(video), str(tmp_path / "x.h5")]) == 2
    error = capsys.readouterr().err
    assert "KINETICS400_V1 could not be fetched (no network); download https://" in error
    assert "checkpoints" in error


def test_weights_by_name_are_those_of_a_file(video, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: torch.load(tmp_path / "w.pth")
    )
    torch.manual_seed(1)
    detector = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).state_dict()
    frozen = {key: value for key, value in detector.items() if not key.endswith("num_batches_tracked")}
    for command, source, state, words in (
        ("videos", video, r3d_18(weights=None).state_dict(), ["--size", "16", "--stride", "30"]),
        ("images", photos, frozen, ["--model", SMALLEST, "--size", "64", "--min-score", "0"]),
    ):
        torch.save(state, tmp_path / "w.pth")
        name = "KINETICS400_V1" if command == "videos" else "COCO_V1"
        run(command, source, tmp_path / "name.h5", *words, "--overwrite")
        run(command, source, tmp_path / "file.h5", *words, "--weights", tmp_path / "w.pth", "--overwrite")
        with h5py.File(tmp_path / "name.h5") as one, h5py.File(tmp_path / "file.h5") as two:
            assert json.loads(one.attrs["source"])["weights"] == name
            dataset = "walk" if command == "videos" else "features"
            np.testing.assert_allclose(one[dataset][()], two[dataset][()], rtol=5e-3, atol=1e-3)


def test_a_detector_whose_file_does_not_tell_all_is_refused(photos, tmp_path, capsys):
    torch.save({}, tmp_path / "w.pth")
    words = ["--model", "fasterrcnn_resnet50_fpn", "--weights", str(tmp_path / "w.pth")]
    assert tool.main(["images", str(photos), str(tmp_path / "x.h5"), *words]) == 2
    assert "give torchvision's name of its weights" in capsys.readouterr().err
