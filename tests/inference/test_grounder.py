import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from relgrounding import Grounder
from relgrounding.data import ClipFeatures, Query, Vocabulary, write_clip_features, write_region_features
from relgrounding.data.scenes import make_scenes
from relgrounding.training import RunError, RunFolder, Split, Task, Trainer, build_model, evaluate_run, evaluate_split
from relgrounding.training import make_task as make_whole_task

_spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parent.parent / "training" / "tiny.py")
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)

SENTENCES = ["person opens the door", "person runs", "the person closes a door quickly"]
VGN = ["data.dataset=charades_sta", "model.name=vgn", "data.widths=[2,4]", "data.max_clips=12"]


@pytest.fixture(scope="module")
def scene_run(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "scenes")
    trainer = Trainer(make_whole_task(_tiny.tiny_config("train.epochs=1")), folder, quiet=True)
    trainer.run()
    evaluate_run(trainer.task, folder, quiet=True)
    return folder.path


def _video_task(path, vectors=None):
    words = Vocabulary.from_texts(SENTENCES[:2])
    store = ClipFeatures(path)
    queries = [Query(f"q{i}", f"v{i}", text, ((1.0, 3.0),)) for i, text in enumerate(SENTENCES)]
    config = _tiny.tiny_config(*VGN)
    split = Split(queries, store)
    durations = {f"v{i}": 10.0 + i for i in range(3)}
    if vectors is not None:
        config.data.word_vectors = "given"
    return Task(config, split, split, words, vectors, durations)


def _save_run(path, task):
    model = build_model(task)
    folder = RunFolder(path)
    folder.write_config(task.config)
    folder.save("best.pt", {"model": model.state_dict(), "vocabulary": task.vocabulary.to_list()})
    return model


@pytest.fixture
def video_run(tmp_path):
    rng = np.random.default_rng(0)
    clips = [(f"v{i}", rng.standard_normal((n, 5), dtype=np.float32)) for i, n in enumerate((6, 9, 20))]
    write_clip_features(tmp_path / "clips.h5", clips, {"description": "random"})
    task = _video_task(tmp_path / "clips.h5")
    return tmp_path, task, _save_run(tmp_path / "run", task)


def test_answers_on_scenes_are_those_of_the_evaluation(scene_run):
    config = RunFolder(scene_run).read_config()
    _, store = make_scenes("test", 2, config.seed, config.data.demo_noise)
    grounder = Grounder.from_run(scene_run)
    assert not grounder.video
    lines = [json.loads(line) for line in (scene_run / "predictions.jsonl").read_text().splitlines()]
    for line in lines:
        regions = store[line["item"]]
        answers = grounder.ground(line["text"], regions)
        assert [a.score for a in answers] == pytest.approx([t["score"] for t in line["top"]], abs=1e-4)
        assert [list(a.proposal) for a in answers] == [t["proposal"] for t in line["top"]]
        same = grounder.ground(line["text"], regions.features, boxes=regions.boxes, image_size=regions.size)
        assert same == answers


@pytest.mark.parametrize("select", ["score", "vote"])
def test_answers_on_videos_are_those_of_the_evaluation(video_run, select):
    folder, task, model = video_run
    task.config.eval.select = [select]
    _, lines = evaluate_split(model, task, "test", task.train, quiet=True)
    grounder = Grounder.from_run(folder / "run")
    for line in lines:
        item = line["item"]
        answers = grounder.ground(
            line["text"], folder / "clips.h5", item=item, duration=task.durations[item], select=select
        )
        assert [a.score for a in answers] == pytest.approx([t["score"] for t in line["top"]], abs=1e-4)
        for answer, expected in zip(answers, line["top"], strict=True):
            assert answer.proposal == pytest.approx(expected["proposal"], abs=0.01)


def test_an_array_a_npy_file_and_an_hdf5_file_say_the_same(video_run):
    folder, task, _ = video_run
    clips = task.train.store["v1"]
    np.save(folder / "v1.npy", clips)
    grounder = Grounder.from_run(folder / "run")
    ways = [(clips, {}), (torch.from_numpy(clips), {}), (folder / "v1.npy", {}), (folder / "clips.h5", {"item": "v1"})]
    answers = [grounder.ground("the door", source, duration=8, **more) for source, more in ways]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert all(0 <= start < end <= 8 for (start, end), _ in answers[0])


def test_a_file_with_one_item_needs_no_name(scene_run, tmp_path):
    _, store = make_scenes("test", 1)
    write_region_features(tmp_path / "one.h5", [("a", store[store.ids[0]])], {})
    write_region_features(tmp_path / "two.h5", [(k, store[k]) for k in store.ids], {})
    grounder = Grounder.from_run(scene_run)
    assert grounder.ground("red", tmp_path / "one.h5") == grounder.ground("red", tmp_path / "one.h5", item="a")
    with pytest.raises(ValueError, match="holds 2 items; say which"):
        grounder.ground("red", tmp_path / "two.h5")
    with pytest.raises(ValueError, match="holds no 'b'; its 2 ids begin with"):
        grounder.ground("red", tmp_path / "two.h5", item="b")


def test_a_word_that_training_never_met_is_unknown_until_the_vectors_are_given(video_run):
    folder, _, _ = video_run
    words = {
        w: np.random.default_rng(k).standard_normal(4) for k, w in enumerate(["person", "opens", "the", "door", "runs"])
    }
    table = torch.zeros(7, 4)
    file = folder / "vectors.txt"
    lines = [f"{w} " + " ".join(f"{v:.4f}" for v in vector) for w, vector in {**words, "quickly": np.ones(4)}.items()]
    file.write_text("\n".join(lines) + "\n")
    known = Vocabulary.from_texts(SENTENCES[:2])
    for number, word in enumerate(known.to_list(), start=2):
        table[number] = torch.tensor([float(f"{v:.4f}") for v in words[word]])
    task = _video_task(folder / "clips.h5", table)
    _save_run(folder / "pretrained", task)
    clips = task.train.store["v0"]
    plain = Grounder.from_run(folder / "pretrained")
    told = Grounder.from_run(folder / "pretrained", word_vectors=file)
    assert plain.unknown_words("the person quickly closes") == ["quickly", "closes"]
    assert told.unknown_words("the person quickly closes") == ["closes"]
    one, other = (g.ground("quickly", clips, duration=8) for g in (plain, told))
    assert one == plain.ground("closes", clips, duration=8) == told.ground("closes", clips, duration=8)
    assert one != other
    assert plain.ground("the person", clips, duration=8) == told.ground("the person", clips, duration=8)
    file.write_text(file.read_text().replace("person 0", "person 1").replace("the ", "the 1"))
    with pytest.raises(ValueError, match="is not the file of word vectors"):
        Grounder.from_run(folder / "pretrained", word_vectors=file)
    with pytest.raises(ValueError, match="trained its word vectors from scratch"):
        Grounder.from_run(folder / "run", word_vectors=file)


def test_what_cannot_be_used_is_named(video_run, scene_run):
    folder, task, _ = video_run
    clips = task.train.store["v0"]
    grounder = Grounder.from_run(folder / "run")
    holed = clips.copy()
    holed[3, 1] = np.nan
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "text.npy").write_text("no array")
    cases = [
        ((clips,), {}, "needs its duration in seconds"),
        ((clips,), {"duration": 0}, "duration is 0"),
        ((clips,), {"duration": float("nan")}, "duration is nan"),
        ((clips[:, :4],), {"duration": 5}, "width 4, but the run was trained on width 5"),
        ((clips[0],), {"duration": 5}, r"shape \(5,\)"),
        ((clips[:0],), {"duration": 5}, r"expected numbers \(clips >= 1, 5\)"),
        ((holed,), {"duration": 5}, "not finite in row 3"),
        ((folder / "object.npy",), {"duration": 5}, "is no plain .npy file"),
        ((folder / "text.npy",), {"duration": 5}, "is no plain .npy file"),
        ((clips,), {"duration": 5, "select": "best"}, "it is 'score' or 'vote'"),
    ]
    for arguments, more, message in cases:
        with pytest.raises(ValueError, match=message):
            grounder.ground("the door", *arguments, **more)
    with pytest.raises(ValueError, match="holds no word"):
        grounder.ground(" !", clips, duration=5)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        grounder.ground("the door", folder / "gone.npy", duration=5)
    regions = make_scenes("test", 1)[1]["test-0-00000-a"]
    images = Grounder.from_run(scene_run)
    for boxes, size, message in [
        (None, None, "need its boxes"),
        (regions.boxes[:1], regions.size, r"boxes have shape \(1, 4\)"),
        (regions.boxes, (640,), "give .width, height."),
        (regions.boxes[:, [2, 3, 0, 1]], regions.size, "box"),
    ]:
        with pytest.raises(ValueError, match=message):
            images.ground("red", regions.features, boxes=boxes, image_size=size)


def test_a_run_that_cannot_be_restored_says_so(video_run, tmp_path):
    folder, _, _ = video_run
    with pytest.raises(RunError, match="is no run"):
        Grounder.from_run(tmp_path / "nothing")
    (folder / "run" / "bad.pt").write_bytes(b"no checkpoint")
    with pytest.raises(RunError, match=r"bad\.pt cannot be restored"):
        Grounder.from_run(folder / "run", checkpoint="bad.pt")
    with h5py.File(folder / "empty.h5", "w"):
        pass
    with pytest.raises(ValueError, match="holds 0 items"):
        Grounder.from_run(folder / "run").ground("the door", folder / "empty.h5", duration=3)


def test_the_package_stays_light():
    code = "import relgrounding, sys; print(any(m in sys.modules for m in ('relgrounding.training', 'matplotlib')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
