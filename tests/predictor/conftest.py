"""Runs on generated scenes and on made-up videos, without any data set."""

import numpy as np
import pytest

from relgrounding.datasets import Query
from relgrounding.features import ClipFeatures, Vocabulary, load_word_vectors, write_clip_features
from relgrounding.runs import RunFolder
from relgrounding.training import Split, Task, Trainer, build_model, evaluate_run
from relgrounding.training import make_task as make_whole_task
from tests.training.tiny import tiny_config

SENTENCES = ["person opens the door", "person runs", "the person closes a door quickly"]
VGN = ["data.dataset=charades_sta", "model.name=vgn", "data.widths=[2,4]", "data.max_clips=12"]


@pytest.fixture(scope="module")
def scene_run(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "scenes")
    trainer = Trainer(make_whole_task(tiny_config("train.epochs=1")), folder, quiet=True)
    trainer.run()
    evaluate_run(trainer.task, folder, quiet=True)
    return folder.path


def video_task(path, vectors=None, *words_of_config):
    words = Vocabulary.from_texts(SENTENCES[:2])
    store = ClipFeatures(path)
    queries = [Query(f"q{i}", f"v{i}", text, ((1.0, 3.0),)) for i, text in enumerate(SENTENCES)]
    config = tiny_config(*VGN, *words_of_config)
    split = Split(queries, store)
    durations = {f"v{i}": 10.0 + i for i in range(3)}
    if vectors is not None:
        config.data.word_vectors = "given"
    return Task(config, split, split, words, vectors, durations)


def save_run(path, task):
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
    task = video_task(tmp_path / "clips.h5")
    return tmp_path, task, save_run(tmp_path / "run", task)


@pytest.fixture
def pretrained_run(video_run, request):
    """A folder with vectors.txt, and a run that was trained with those of the training words, and an offset."""
    folder, _, _ = video_run
    known, offset = Vocabulary.from_texts(SENTENCES[:2]), getattr(request, "param", 0.0)
    rng = np.random.default_rng(0)
    words = {word: rng.standard_normal(4).round(4) for word in known.to_list()}
    lines = [f"{w} {' '.join(f'{v:.4f}' for v in vector)}" for w, vector in {**words, "quickly": np.ones(4)}.items()]
    (folder / "vectors.txt").write_text("\n".join(lines) + "\n")
    _, vectors = load_word_vectors(folder / "vectors.txt", known, offset=offset)
    task = video_task(folder / "clips.h5", vectors)
    task.config.data.word_offset = offset
    save_run(folder / "pretrained", task)
    return folder, task
