"""One's own data from a JSON lines file to predictions, with and without right answers, with and without bad lines."""

import json
import os
import shutil

import fsspec
import h5py
import numpy as np
import pytest

from relgrounding.cli import main
from relgrounding.config import ConfigError, load_config
from relgrounding.io import BadAnnotation, BadFeatures, MissingFeatures, MissingFile, UnsafeFile
from relgrounding.runs import RunFolder
from relgrounding.training import Trainer, evaluate_run, make_task, train_run
from relgrounding.training._resume import check_settings
from tests.evaluation.recount import recount
from tests.training.own import COLOURS, images, settings, videos
from tests.training.tiny import TINY


def run(config, folder):
    trainer = Trainer(make_task(config), RunFolder(folder), quiet=True)
    trainer.run()
    table = evaluate_run(trainer.task, trainer.folder, quiet=True)
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for written, again in recount(folder):
        assert written == again
    return table, lines, json.loads((folder / "results.json").read_text())


def test_videos_with_right_answers(tmp_path):
    table, lines, results = run(settings(videos(tmp_path, True), "vgn"), tmp_path / "run")
    assert [entry["protocol"] for entry in results] == ["own, select=score", "own, select=vote"]
    assert results[0]["oracle"]["R@1,IoU=0.7"] == 100  # clips 1 to 3 of 4 are 2 to 6 of 8 seconds
    assert [line["duration"] for line in lines] == [8.0] * 4
    assert "constant" in table


def test_images_with_right_answers(tmp_path):
    _, lines, results = run(settings(images(tmp_path), "ign"), tmp_path / "run")
    assert [(entry["protocol"], entry["queries"]) for entry in results] == [("any", 2)]
    assert {(line["item"], *line["size"]) for line in lines} == {("i10", 10, 10), ("i11", 10, 10)}


def test_results_about_images_by_kind(tmp_path):
    images(tmp_path)
    with (tmp_path / "test.jsonl").open("a") as file:
        for kind, box in (("far", [0, 0, 5, 5]), ("near", [4, 4, 9, 9])):
            line = {"image": "i10", "query": "the red one", "box": box, "kind": kind}
            file.write(f"\n{json.dumps(line)}")
    _, _, results = run(settings(tmp_path, "ign"), tmp_path / "run")
    names = {f"Acc@0.5,kind={kind}" for kind in ("far", "near", "none")}
    assert set(results[0]["metrics"]) == set(results[0]["floors"]["largest"]) == {"Acc@0.5", *names}
    # Of the same sentence about the same image, one of two regions is right each time.
    assert results[0]["metrics"]["Acc@0.5,kind=far"] + results[0]["metrics"]["Acc@0.5,kind=near"] == 100


def test_without_right_answers_there_are_predictions_and_no_metrics(tmp_path):
    table, lines, results = run(settings(videos(tmp_path, False), "vgn"), tmp_path / "run")
    assert table == "no query has a right answer to compare with: 4 predictions, no metrics"
    assert results == []
    assert all(len(line["top"]) >= 1 and line["targets"] == [] for line in lines)


def test_some_right_answers_give_metrics_of_those(tmp_path):
    videos(tmp_path, False)
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write('\n{"video": "v10", "duration": 8.0, "query": "the red one", "segment": [0, 2]}\n')
    table, lines, results = run(settings(tmp_path, "vgn"), tmp_path / "run")
    assert [entry["queries"] for entry in results] == [1, 1]
    assert len(lines) == 6
    assert "constant" not in table


def test_missing_features_stop_or_are_skipped(tmp_path, caplog):
    videos(tmp_path, True)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('\n{"video": "other", "duration": 8.0, "query": "the red one"}\n{"video": "v1", "duration": 8.0}\n')
    with pytest.raises(ConfigError, match="on_error"):
        settings(tmp_path, "vgn", "data.on_error=ignore")
    with pytest.raises(Exception, match="query 'None' is empty"):
        make_task(settings(tmp_path, "vgn"))
    task = make_task(settings(tmp_path, "vgn", "data.on_error=skip"))
    assert len(task.train.queries) + len(task.validation.queries) == 10
    assert "own train: 10 queries left, skipped 1 BadAnnotation, 1 MissingFeatures" in caplog.text
    (tmp_path / "train.jsonl").write_text('{"video": "other", "duration": 8.0, "query": "the red one"}\n')
    with pytest.raises(MissingFeatures, match="no features of 'other', which query '1' asks about"):
        make_task(settings(tmp_path, "vgn"))
    with pytest.raises(ConfigError, match="no query can be used"):
        make_task(settings(tmp_path, "vgn", "data.on_error=skip"))
    (tmp_path / "all.jsonl").write_text('{"split": "hard", "video": "v1", "duration": 8.0, "query": "red"}\n')
    with pytest.raises(ConfigError, match=r"all\.jsonl has no line of split 'train'; it has hard"):
        make_task(settings(tmp_path, "vgn", f"data.queries={tmp_path}/all.jsonl"))


LINE = {"video": "v10", "duration": 8.0, "query": "the red one"}


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([], "own test: no query can be used"),
        ([LINE | {"segment": [2, 2]}], r"test\.jsonl, line 1: \[2, 2\] is empty or below 0"),
        ([LINE | {"query": "?!"}], r"query '1': '\?!' holds no word"),
    ],
)
def test_bad_lines_of_the_test_split_end_a_run_before_its_first_step(tmp_path, monkeypatch, stream, lines, error):
    monkeypatch.setenv("RELGROUNDING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RELGROUNDING_CPP", "0")  # no kernels are compiled anew for that cache
    (videos(tmp_path, True) / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for on_error, message in (("stop", error), ("skip", "own test: no query can be used")):
        config = settings(tmp_path, "vgn", f"data.stream={stream}", f"data.on_error={on_error}")
        with pytest.raises((ConfigError, BadAnnotation), match=message):
            train_run(config, RunFolder(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_bad_lines_of_the_test_split_are_skipped_and_named_once(tmp_path, caplog):
    lines = [LINE | {"segment": segment} for segment in ([2, 2], [2, 9])]
    (videos(tmp_path, True) / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    trained = train_run(settings(tmp_path, "vgn", "data.on_error=skip"), RunFolder(tmp_path / "run"), quiet=True)
    assert [entry["queries"] for entry in trained.results] == [1, 1]
    assert caplog.text.count("line 1: [2, 2] is empty") == 1
    assert caplog.text.count("segments cut at the end of their video: 1") == 1


def test_bad_features_are_skipped_before_they_reach_a_batch(tmp_path, caplog):
    videos(tmp_path, True)
    with h5py.File(tmp_path / "features.h5", "a") as file:
        file["v3"][1, 1] = np.nan
    task = make_task(settings(tmp_path, "vgn"))
    with pytest.raises(BadFeatures, match=r"features of 'v3' in .* hold NaN"):
        task.train.store["v3"]
    make_task(settings(tmp_path, "vgn", "data.on_error=skip"))
    assert "9 queries left, skipped 1 BadFeatures" in caplog.text


def test_the_fingerprint_follows_the_data_and_not_its_place(tmp_path):
    words = "\n".join(f"{word} {number} 0.5" for number, word in enumerate(["the", "one", *COLOURS]))

    def made(folder, *more):
        folder.mkdir(exist_ok=True)
        videos(folder, True)
        (folder / "vectors.txt").write_text(words)
        return settings(folder, "vgn", f"data.word_vectors={folder}/vectors.txt", *more)

    first = make_task(made(tmp_path / "a")).fingerprint()
    assert sorted(first) == ["annotations", "features", "word vectors"]
    config = made(tmp_path / "b")
    shutil.copy(tmp_path / "a" / "features.h5", tmp_path / "b")
    assert make_task(config).fingerprint() == first
    edits = {
        "annotations": ("train.jsonl", lambda content: content.replace(b"[2, 6]", b"[2, 5]", 1)),
        "word vectors": ("vectors.txt", lambda content: content.replace(b"red 2", b"red 3")),
        "features": ("features.h5", lambda content: content + bytes(8)),
    }
    for label, (name, edit) in edits.items():
        path = tmp_path / "b" / name
        before = path.read_bytes()
        path.write_bytes(edit(before))
        after = make_task(config).fingerprint()
        assert [key for key in first if after[key] != first[key]] == [label]
        path.write_bytes(before)
    assert make_task(load_config(None, TINY)).fingerprint() == {}


def test_words_with_one_vector_are_named_and_told_apart_by_an_offset(tmp_path, caplog):
    videos(tmp_path, True)
    vectors = dict(zip(["one", *COLOURS], ["1 2", "3 4", "5 6", "3 4", "7 8"], strict=False))
    (tmp_path / "vectors.txt").write_text("\n".join(f"{word} {numbers}" for word, numbers in vectors.items()))
    words = ["vgn", f"data.word_vectors={tmp_path}/vectors.txt"]
    make_task(settings(tmp_path, *words))
    (record,) = (record for record in caplog.records if "vector" in record.getMessage())
    told = "2 of 5 words have the vector of another word, such as green and red: "
    assert record.getMessage().startswith(told)
    caplog.clear()
    make_task(settings(tmp_path, *words, "data.word_offset=1"))
    assert "vector" not in caplog.text


@pytest.mark.parametrize("model", ["vgn", "ign"])
def test_lengths_and_sizes_that_disagree_stop_or_are_skipped(tmp_path, caplog, model):
    if model == "vgn":
        videos(tmp_path, True)
        with h5py.File(tmp_path / "features.h5", "a") as file:
            for i in range(3):
                file[f"v{i}"].attrs["duration"] = 16.0
        one = r"'v0' is 16 s long in the features and 8 s in the annotations; extract the features from the videos"
    else:
        images(tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
        lines = [line | {"size": [20, 20] if i < 3 else [11, 9]} for i, line in enumerate(lines)]
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
        one = r"'i0' is 10 x 10 pixels in the features and 20 x 20 in the annotations; extract the features from"
    kind = "videos" if model == "vgn" else "images"
    with pytest.raises(BadFeatures, match=rf"features\.h5 and the annotations disagree about 3 of 10 {kind}: {one}"):
        make_task(settings(tmp_path, model))
    task = make_task(settings(tmp_path, model, "data.on_error=skip"))
    assert len(task.train.queries) + len(task.validation.queries) == 7
    assert "own train: 7 queries left, skipped 3 BadFeatures" in caplog.text


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("later", [{}, {"size": [10, 10]}])
def test_boxes_outside_of_images_stop_or_are_skipped(tmp_path, monkeypatch, caplog, stream, later):
    monkeypatch.setenv("RELGROUNDING_CACHE", str(tmp_path / "cache"))
    images(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    lines += [lines[3] | {"box": [0, 0, 5, 20]}, lines[4] | {"box": [0, 0, 11, 11]}, lines[3] | later]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("ign", f"data.stream={stream}")
    where = r"query '11': \[0\.0, 0\.0, 5\.0, 20\.0\] lies outside of 'i3', which is 10 x 10 pixels in .*features\.h5"
    with pytest.raises(BadAnnotation, match=where):
        make_task(settings(tmp_path, *words))
    task = make_task(settings(tmp_path, *words, "data.on_error=skip"))
    kept = sorted([*task.train.queries, *task.validation.queries], key=lambda query: int(query.id))
    assert [query.id for query in kept] == [str(i) for i in range(1, 14) if i != 11]
    assert "own train: 12 queries left, skipped 1 BadAnnotation" in caplog.text
    shutil.copy(tmp_path / "train.jsonl", tmp_path / "test.jsonl")
    assert len(task.test("test").queries) == 12


def test_sentences_that_are_cut_are_named_once(tmp_path, caplog):
    make_task(settings(videos(tmp_path, True), "vgn", "data.max_words=2"))
    (record,) = caplog.records
    assert (
        record.getMessage()
        == "own train: of 10 of 10 sentences (100.0 %) only the first data.max_words=2 words are read"
    )


def test_a_fifo_of_queries_is_named_as_one(tmp_path):
    videos(tmp_path, True)
    (tmp_path / "train.jsonl").unlink()
    os.mkfifo(tmp_path / "train.jsonl")
    with pytest.raises(UnsafeFile, match=r"train\.jsonl is a FIFO, not a regular file"):
        make_task(settings(tmp_path, "vgn"))


def test_queries_that_stay_in_their_file_give_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("RELGROUNDING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RELGROUNDING_CPP", "0")  # no kernels are compiled anew for that cache
    videos(tmp_path, True)
    found = []
    for stream in ("false", "true", "true"):  # in memory, with a new index, with a kept one
        folder = tmp_path / f"run{len(found)}"
        words = (f"data.stream={stream}", "data.block_by=sentence", "data.block_size=2")
        run(settings(tmp_path, "vgn", *words), folder)
        saved = RunFolder(folder).load("last.pt")
        weights = {name: value.tolist() for name, value in saved["model"].items()}
        found.append((weights, saved["vocabulary"], saved["data"], (folder / "predictions.jsonl").read_text()))
    assert found[0] == found[1] == found[2]
    assert len(list((tmp_path / "cache" / "queries").glob("*/facts.json"))) == 2
    # A run may go on either way.
    longer = settings(tmp_path, "vgn", *words[1:], "data.stream=false", "train.epochs=3")
    Trainer(make_task(longer), RunFolder(folder), resume=True, quiet=True).run()


def test_queries_and_features_of_another_file_system(tmp_path, monkeypatch):
    monkeypatch.setenv("RELGROUNDING_CACHE", str(tmp_path / "cache"))
    videos(tmp_path, True)
    there = fsspec.filesystem("memory")
    for name in ("train.jsonl", "test.jsonl", "features.h5"):
        there.pipe(f"/me:secret@own/{name}", (tmp_path / name).read_bytes())
    words = ("data.queries={split}.jsonl", "data.root=memory://me:secret@own", "data.features=features.h5")
    own = make_task(settings(tmp_path, "vgn"))
    task = make_task(settings(tmp_path, "vgn", *words))
    assert list(task.train.queries) == list(own.train.queries)
    assert task.train.store.path.is_relative_to(tmp_path / "cache")
    assert task.fingerprint() == own.fingerprint()
    folder = RunFolder(tmp_path / "run")
    folder.write_config(task.config)
    assert "root: memory://***@own" in (tmp_path / "run" / "config.yaml").read_text()
    check_settings(folder, task.config)
    with pytest.raises(MissingFile, match=r"memory://\*\*\*@own/none.h5 does not exist"):
        make_task(settings(tmp_path, "vgn", *words[:2], "data.features=none.h5"))


def test_errors_name_the_url_of_what_they_refuse(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RELGROUNDING_CACHE", str(tmp_path / "cache"))
    videos(tmp_path, True)
    there = fsspec.filesystem("memory")
    for name in ("train.jsonl", "test.jsonl"):
        there.pipe(f"/damaged/{name}", (tmp_path / name).read_bytes())
    there.pipe("/damaged/features.h5", b"no HDF5")
    words = ["data.dataset=own", "data.queries={split}.jsonl", "data.root=memory://damaged"]
    command = ["train", "charades_vgn", *words, "data.features=features.h5", "--runs", f"{tmp_path}/runs"]
    assert main([*command, "data.word_vectors="]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: memory://damaged/features.h5 ")
    assert error.endswith("features.h5")
    assert f"; memory://damaged/features.h5 was read from its copy {tmp_path / 'cache' / 'remote'}" in error
