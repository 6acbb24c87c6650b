import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from relgrounding import Grounder
from relgrounding.cli.ground import LEAST_WEIGHT, _explained
from relgrounding.datasets.demo import make_scenes
from relgrounding.features import write_region_features
from relgrounding.predictor import Answer, Explanation, Neighbour

pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")

_spec = importlib.util.spec_from_file_location(
    "ground_tool", Path(__file__).parent.parent.parent / "tools" / "ground.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def _is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_npy_file_and_a_sentence(video_run, tmp_path, capsys):
    folder, task, _ = video_run
    np.save(folder / "v1.npy", task.train.store["v1"])
    words = ["--checkpoint", str(folder / "run"), "--video-features", str(folder / "v1.npy"), "--duration", "12"]
    assert tool.main([*words, "--query", "person opens a zebra", "--out", str(tmp_path / "a.png")]) == 0
    printed = capsys.readouterr()
    record = json.loads((tmp_path / "a.json").read_text())
    expected = Grounder.from_run(folder / "run").ground("person opens a zebra", folder / "v1.npy", duration=12)
    assert [(tuple(a["proposal"]), a["score"]) for a in record["answers"]] == expected
    assert f"{expected[0].score:.4f}" in printed.out
    assert record["unknown_words"] == ["a", "zebra"]
    assert "never met: a, zebra" in printed.err
    assert _is_png(tmp_path / "a.png")


def test_words_that_are_not_read_are_counted_and_not_called_unknown(video_run, tmp_path, capsys):
    folder, task, _ = video_run
    most = task.config.data.max_words
    long, whole = (f"zebra{' person' * (most - 1)}{rest}" for rest in (" yak gnu it", ""))
    said = f"only the first {most} of {most + 3} words are read (data.max_words)"
    given = ["--checkpoint", str(folder / "run"), "--video-features", str(folder / "clips.h5"), "--no-figures"]
    for query, expected in ((long, [f"note: {said}"]), (whole, [])):
        words = [*given, "--item", "v1", "--duration", "12", "--query", query, "--out", str(tmp_path / "a")]
        assert tool.main(words) == 0
        assert capsys.readouterr().err.splitlines() == [*expected, "note: words that the model never met: zebra"]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"video": "v1", "duration": 12, "query": q}) + "\n" for q in (whole, long)))
    assert tool.main([*given, "--batch", str(questions), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.splitlines() == [f"note: {questions}, line 2: {said}"]
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [answer["unknown_words"] for answer in answers] == [["zebra"]] * 2
    assert answers[0]["answers"] == answers[1]["answers"]


def test_the_best_answer_is_explained(video_run, scene_run, tmp_path, capsys):
    folder, _, _ = video_run
    moments = ["--checkpoint", str(folder / "run"), "--video-features", str(folder / "clips.h5"), "--item", "v1"]
    scene = ["--checkpoint", str(scene_run), "--image", "test-0-00000-a"]
    for name, words in (("v", [*moments, "--duration", "12"]), ("i", scene)):
        assert tool.main([*words, "--query", "person opens it", "--explain", "--out", str(tmp_path / name)]) == 0
        printed, why = capsys.readouterr().out, json.loads((tmp_path / f"{name}.json").read_text())["explanation"]
        assert "the best answer attends to: person 0." in printed
        assert [word for word, _ in why["attention"]] == ["person", "opens", "it"]
        assert 0 < len(why["neighbours"]) <= 5
        heard = [said for said in why["neighbours"] if said["weight"] >= LEAST_WEIGHT]
        for said in heard:
            assert f"{said['weight']:.2f}" in printed
            assert said["edge_type"] in printed
        others = len(why["neighbours"]) - len(heard)
        assert ("a weight below 0.005" in printed) == (others > 0)
        assert _is_png(tmp_path / f"{name}.png")


def test_an_answer_replaces_answers_alone(video_run, tmp_path, capsys):
    folder, _, _ = video_run
    given = ["--checkpoint", str(folder / "run"), "--video-features", str(folder / "clips.h5")]
    ask = [*given, "--item", "v1", "--duration", "12", "--query", "person opens it", "--out", str(tmp_path / "a")]
    (tmp_path / "q").write_text(json.dumps({"video": "v1", "duration": 12, "query": "it"}))
    batch = [*given, "--batch", str(tmp_path / "q"), "--out", str(tmp_path)]
    for words in (ask, batch) * 2:  # the second time, over what the first one wrote
        assert tool.main(words) == 0
    for name, words in (("a.json", ask), ("a.png", ask), ("answers.jsonl", batch)):
        (tmp_path / name).write_text('{"mine": 1}')
        assert tool.main(words) == 2
        assert f"{name} is a file of another kind, and is not replaced" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == '{"mine": 1}'
        (tmp_path / name).unlink()


def test_messages_without_weight_are_no_empty_table():
    def explained(weights):
        neighbours = [Neighbour((3.0, 4.0), "relation.0", "near", weight, ()) for weight in weights]
        return _explained(Explanation(Answer((1.0, 2.0), 0.5), (), tuple(neighbours)))

    assert explained([0.004, 0.001]) == "\nmessages to it: all of a weight below 0.005"
    assert explained([0.7, 0.001]).splitlines()[1:] == [
        "messages to it:",
        "weight    edge    from       layer       opened by",
        "--------  ------  ---------  ----------  -----------",
        "0.70      near    3.00 4.00  relation.0",
        "and 1 message of a weight below 0.005",
    ]


def test_an_image_by_photo_by_id_and_a_generated_scene(scene_run, tmp_path):
    from PIL import Image

    _, store = make_scenes("test", 2, seed=0, noise=0.3)
    write_region_features(tmp_path / "r.h5", [("581857", store["test-0-00000-a"]), ("7", store["test-0-00001-a"])], {})
    photo = tmp_path / "COCO_train2014_000000581857.jpg"
    Image.new("RGB", (320, 240), "grey").save(photo)
    base = ["--checkpoint", str(scene_run), "--query", "the red circle"]
    ways = {
        "photo": ["--regions", str(tmp_path / "r.h5"), "--image", str(photo)],
        "id": ["--regions", str(tmp_path / "r.h5"), "--image", "581857"],
        "scene": ["--image", "test-0-00000-a"],
    }
    answers = []
    for name, words in ways.items():
        assert tool.main([*base, *words, "--out", str(tmp_path / name)]) == 0
        assert _is_png(tmp_path / f"{name}.png")
        answers.append([a["score"] for a in json.loads((tmp_path / f"{name}.json").read_text())["answers"]])
    assert answers[0] == answers[1] == pytest.approx(answers[2], abs=1e-2)


def test_many_questions_with_one_of_no_use(video_run, tmp_path, capsys):
    folder, task, _ = video_run
    lines = [{"video": f"v{i}", "duration": 9 + i, "query": "person runs"} for i in range(3)]
    lines[1]["video"] = "../v1"
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n\n".join(json.dumps(line) for line in lines) + "\nno json\n")
    words = ["--checkpoint", str(folder / "run"), "--batch", str(questions), "--out", str(tmp_path / "out")]
    words += ["--video-features", str(folder / "clips.h5")]
    assert tool.main(words) == 2
    assert "line 3" in capsys.readouterr().err
    assert tool.main([*words, "--on-error", "skip"]) == 0
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [(a["line"], a["video"]) for a in answers] == [(1, "v0"), (5, "v2")]
    assert "2 answered, 2 skipped" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"answers.jsonl", "00001.png", "00005.png"}
    (folder / "npy").mkdir()
    for i in (0, 1, 2):
        np.save(folder / "npy" / f"v{i}.npy", task.train.store[f"v{i}"])
    words[-1] = str(folder / "npy")
    assert tool.main([*words, "--on-error", "skip", "--no-figures"]) == 0
    again = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert again == answers
    assert "holds a separator of paths" in capsys.readouterr().err


@pytest.mark.parametrize("duration", ["1e308", "NaN", "9" * 400, "1e-300", '"9"', "true"])
def test_a_question_with_a_duration_of_no_video_is_refused(video_run, tmp_path, capsys, duration):
    folder, _, _ = video_run
    questions = tmp_path / "questions.jsonl"
    questions.write_text(f'{{"video": "v0", "query": "person runs", "duration": {duration}}}\n')
    words = ["--checkpoint", str(folder / "run"), "--batch", str(questions), "--out", str(tmp_path / "out")]
    assert tool.main([*words, "--video-features", str(folder / "clips.h5"), "--no-figures"]) == 2
    assert re.search("line 1: duration is .*; give the length of the video in seconds", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --query or --batch"),
        (["--query", "x", "--batch", "y"], "give either --query or --batch"),
        (["--query", "x"], "--video-features is missing"),
        (["--query", "x", "--image", "a"], "answers about videos"),
        (["--query", "x", "--video-features", "gone.npy", "--duration", "3"], "does not exist"),
        (["--batch", "gone.jsonl", "--video-features", "x.npy"], "gone.jsonl"),
    ],
)
def test_what_is_missing_is_said(video_run, capsys, words, message):
    assert tool.main(["--checkpoint", str(video_run[0] / "run"), *words]) == 2
    assert message in capsys.readouterr().err


def test_what_is_missing_for_an_image_is_said(scene_run, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_text("no picture")
    for words, message in [
        (["--video-features", "x.npy"], "answers about images"),
        ([], "--image is missing"),
        (
            ["--image", "test-9-00000-a"],
            "is not a generated image of this run; give --regions, or an id such as test-0-00000-a",
        ),
        (["--image", "test-0-00000-a", "--select", "vote"], "--select are for runs on videos"),
        (["--image", str(tmp_path / "bad.jpg")], "is not a readable picture"),
        (["--image", str(tmp_path / "gone.jpg")], "gone.jpg does not exist; without a picture give the id, as in gone"),
    ]:
        assert tool.main(["--checkpoint", str(scene_run), "--query", "x", *words]) == 2
        assert message in capsys.readouterr().err


def test_without_matplotlib_the_answer_is_still_written(scene_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = [
        "--checkpoint",
        str(scene_run),
        "--query",
        "red",
        "--image",
        "test-0-00000-a",
        "--out",
        str(tmp_path / "a"),
    ]
    assert tool.main(words) == 0
    assert (tmp_path / "a.json").is_file()
    assert not (tmp_path / "a.png").exists()
    assert "pip install 'relgrounding[plot]'" in capsys.readouterr().err


def test_a_missing_duration_is_asked_for_as_the_command_spells_it(video_run, capsys):
    folder, task, _ = video_run
    np.save(folder / "v1.npy", task.train.store["v1"])
    words = ["--checkpoint", str(folder / "run"), "--video-features", str(folder / "v1.npy"), "--query", "a"]
    assert tool.main(words) == 2
    assert capsys.readouterr().err.startswith("error: the length of the video in seconds is missing")
