import json
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from relgrounding import Grounder
from relgrounding.datasets.demo import make_scenes
from relgrounding.features import write_region_features
from relgrounding.runs import RunError, RunFolder
from relgrounding.training import Trainer, build_model, evaluate_split
from tests.predictor.conftest import video_task


def test_answers_on_scenes_are_those_of_the_evaluation(scene_run):
    config = RunFolder(scene_run).read_config()
    _, store = make_scenes("test", 2, config.seed, config.data.demo_noise)
    grounder = Grounder.from_run(scene_run)
    assert grounder.modality.item == "image"
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


@pytest.mark.parametrize("select", ["score", "vote"])
@pytest.mark.parametrize("target", ["score", "vote"])
def test_answers_of_a_committee_on_videos_are_those_of_the_evaluation(video_run, select, target):
    folder, _, _ = video_run
    words = ["cotrain.epochs=1", "cotrain.hide=[]", f"cotrain.target={target}", f"eval.select=[{select}]"]
    task = video_task(folder / "clips.h5", None, *words)
    run = RunFolder(folder / "committee")
    Trainer(task, run, quiet=True).run()
    assert int(run.load("best.pt")["model"]["active"]) == 3
    model = build_model(task)
    model.load_state_dict(run.load("best.pt")["model"])
    _, lines = evaluate_split(model, task, "test", task.train, quiet=True)
    grounder = Grounder.from_run(run.path)
    for line in lines:
        answers = grounder.ground(
            line["text"], folder / "clips.h5", item=line["item"], duration=task.durations[line["item"]]
        )
        assert [a.score for a in answers] == pytest.approx([t["score"] for t in line["top"]], abs=1e-4)
        for answer, expected in zip(answers, line["top"], strict=True):
            assert answer.proposal == pytest.approx(expected["proposal"], abs=0.01)


def test_an_explanation_says_what_each_word_does_to_the_messages_of_the_best_answer(scene_run):
    config = RunFolder(scene_run).read_config()
    queries, store = make_scenes("test", 1, config.seed, config.data.demo_noise)
    grounder, query = Grounder.from_run(scene_run), queries[0]
    found = grounder.explain(query.text, store[query.item], most=1000)
    assert found.answer.proposal == grounder.ground(query.text, store[query.item])[0].proposal
    words = query.text.split()
    assert [word for word, _ in found.attention] == words
    number = store[query.item].boxes.tolist().index(list(found.answer.proposal))
    weights = {(n.layer, n.edge_type, n.proposal): n for n in found.neighbours}
    assert len(weights) == len(found.neighbours) > 0
    for left_out in range(len(words)):
        fewer = replace(query, text=" ".join(words[:left_out] + words[left_out + 1 :]))
        (without,) = grounder.predictor.explain(fewer, store, {}, [number], most=1000)
        for n in without.neighbours:
            other = weights[n.layer, n.edge_type, n.proposal]
            assert other.words[left_out] == (words[left_out], pytest.approx(other.weight - n.weight, abs=1e-6))
    lone = grounder.explain("circle", store[query.item])
    assert len(lone.neighbours) == 5
    assert all(n.words == () and n.opened_by() == [] for n in lone.neighbours)


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


@pytest.mark.parametrize("pretrained_run", [0.0, 1.0], indirect=True)
def test_a_word_that_training_never_met_is_unknown_until_the_vectors_are_given(pretrained_run):
    folder, task = pretrained_run
    file = folder / "vectors.txt"
    clips = task.train.store["v0"]
    plain = Grounder.from_run(folder / "pretrained")
    told = Grounder.from_run(folder / "pretrained", word_vectors=file)
    assert plain.unknown_words("the person quickly closes") == ["quickly", "closes"]
    assert told.unknown_words("the person quickly closes") == ["closes"]
    one, other = (g.ground("quickly", clips, duration=8) for g in (plain, told))
    assert one == plain.ground("closes", clips, duration=8) == told.ground("closes", clips, duration=8)
    assert one != other
    assert plain.ground("the person", clips, duration=8) == told.ground("the person", clips, duration=8)
    other_file = folder / "others.txt"
    other_file.write_text("".join(f"{w} 1 2 3 4\n" for w in task.vocabulary.to_list()))
    with pytest.raises(ValueError, match="is not the file of word vectors"):
        Grounder.from_run(folder / "pretrained", word_vectors=other_file)
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
        ((clips,), {"duration": 1e308}, r"duration is 1e\+308; give .* in seconds, 0\.001 to 10000000"),
        ((clips,), {"duration": 1e-300}, "duration is 1e-300"),
        ((clips,), {"duration": 10**400}, "duration is 1000"),
        ((clips[:, :4],), {"duration": 5}, "width 4, but the run was trained on width 5"),
        ((clips[0],), {"duration": 5}, r"shape \(5,\)"),
        ((clips[:0],), {"duration": 5}, r"expected numbers \(clips >= 1, 5\)"),
        ((holed,), {"duration": 5}, "row 3 is not finite"),
        ((folder / "object.npy",), {"duration": 5}, "cannot be read as the features of one item"),
        ((folder / "text.npy",), {"duration": 5}, "cannot be read as the features of one item"),
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
        (regions.boxes.astype(str), regions.size, r"boxes have shape .*, <U\d+; \d+ regions need numbers \(\d+, 4\)"),
        ([[1, 2, 3, 4], [5]], regions.size, "boxes cannot be read as an array: .*inhomogeneous"),
        (regions.boxes, "640x480", "image_size is 640x480; give .width, height."),
        (regions.boxes, (640,), "give .width, height."),
        (regions.boxes, (10**400, 480), r"give .width, height. in pixels, 1 to 1000000"),
        (regions.boxes, np.array([np.nan, 480]), r"image_size is \[ *nan 480"),
        (regions.boxes[:, [2, 3, 0, 1]], regions.size, "box"),
    ]:
        with pytest.raises(ValueError, match=message):
            images.ground("red", regions.features, boxes=boxes, image_size=size)


def test_a_run_that_cannot_be_restored_says_so(video_run, tmp_path):
    folder, _, _ = video_run
    with pytest.raises(RunError, match="nothing is not a run: there is no such folder"):
        Grounder.from_run(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"gone\.pt does not exist; if no epoch of the run is finished, continue"):
        Grounder.from_run(folder / "run", checkpoint="gone.pt")
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


def test_the_duration_may_stand_in_the_file(video_run):
    folder, _, _ = video_run
    grounder = Grounder.from_run(folder / "run")
    with h5py.File(folder / "clips.h5", "a") as file:
        file["v1"].attrs["duration"] = 12.5
        file["v2"].attrs["duration"] = "long"
    told = grounder.ground("the door", folder / "clips.h5", item="v1", duration=12.5)
    assert grounder.ground("the door", folder / "clips.h5", item="v1") == told
    with pytest.raises(ValueError, match=r"is 25 s long as given, but 12\.5 s in .*clips\.h5; leave the duration out"):
        grounder.ground("the door", folder / "clips.h5", item="v1", duration=25)
    with pytest.raises(ValueError, match="has the attribute duration long; expected the seconds of the video"):
        grounder.ground("the door", folder / "clips.h5", item="v2")
    with h5py.File(folder / "clips.h5", "a") as file:
        file["v2"].attrs["duration"] = 1e308
    with pytest.raises(ValueError, match=r"attribute duration 1e\+308; expected .* 0\.001 to 10000000"):
        Grounder.from_run(folder / "run").ground("the door", folder / "clips.h5", item="v2")
    with pytest.raises(ValueError, match="needs its duration in seconds"):
        grounder.ground("the door", folder / "clips.h5", item="v0")
