"""Runs with rounds of co-training."""

import json

import pytest
import torch

from relgrounding import Grounder
from relgrounding.datasets.demo import make_scenes
from relgrounding.features import load_word_vectors
from relgrounding.objectives import MIL, CoTraining
from relgrounding.runs import RunError, RunFolder
from relgrounding.training import Trainer, evaluate_run, make_task, make_test_task
from relgrounding.training._resume import nothing_left
from tests.training.tiny import same, tiny_config, train, train_until

ROUNDS = ["train.epochs=1", "cotrain.epochs=1", "cotrain.hide=[]", "cotrain.student=[relation=none,dropout=0.2]"]


def _member(saved: dict, number: int) -> dict:
    prefix = f"members.{number}."
    return {k.removeprefix(prefix): v for k, v in saved["model"].items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("cotrain") / "run")
    trainer = train(folder, *ROUNDS)
    evaluate_run(trainer.task, folder, quiet=True)
    return folder, trainer


def test_rounds_follow_the_run_without_them_and_leave_earlier_members_as_they_are(run, tmp_path):
    folder, trainer = run
    alone = RunFolder(tmp_path / "alone")
    train(alone, "train.epochs=1")
    fresh = Trainer(make_task(tiny_config(*ROUNDS)), RunFolder(tmp_path / "fresh"), quiet=True).model.state_dict()
    stage_1, round_1, end = (folder.load(name) for name in ("mil.pt", "cotrain-1.pt", "best.pt"))
    assert [int(saved["model"]["active"]) for saved in (stage_1, round_1, end)] == [1, 2, 3]
    teacher = alone.load("best.pt")["model"]
    assert all(same(_member(saved, 0), teacher) for saved in (stage_1, round_1, end))
    assert same(_member(stage_1, 1), _member({"model": fresh}, 1))
    assert not same(_member(round_1, 1), _member(stage_1, 1))
    assert same(_member(end, 1), _member(round_1, 1))
    assert not same(_member(end, 2), _member(round_1, 2))
    assert not same(_member(stage_1, 2), _member(stage_1, 1))  # fresh members are not copies of each other
    # The optimizer remembers the last member alone.
    trained = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in trainer.model.members[2].parameters()}
    assert trainer.state["epoch"] == 3
    lines = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    assert {line["epoch"] for line in lines if "cotrain/divergence" in line} == {1, 2}


def test_validation_is_that_of_the_committee_so_far(run):
    folder, trainer = run
    from relgrounding.training._evaluate import validation_metrics

    lines = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    logged = [line["validation/Acc@0.5"] for line in lines if "epoch_loss" in line]
    for value, name in zip(logged, ("mil.pt", "cotrain-1.pt", "best.pt"), strict=True):
        trainer.model.load_state_dict(folder.load(name)["model"])
        assert validation_metrics(trainer.model, trainer.task, quiet=True)[1]["Acc@0.5"] == value


def test_the_run_is_read_by_evaluate_and_by_a_grounder(run):
    folder, _ = run
    assert folder.read_results()[0]["model"] == "ign + cotrain, no relation"
    config = folder.read_config()
    again = make_test_task(config, folder)
    before = (folder.path / "predictions.jsonl").read_bytes()
    evaluate_run(again, folder, quiet=True)
    assert (folder.path / "predictions.jsonl").read_bytes() == before
    _, store = make_scenes("test", 2, config.seed, config.data.demo_noise)
    grounder = Grounder.from_run(folder.path)
    for line in map(json.loads, before.splitlines()):
        answers = grounder.ground(line["text"], store[line["item"]])
        assert [a.score for a in answers] == pytest.approx([t["score"] for t in line["top"]], abs=1e-4)
        assert [list(a.proposal) for a in answers] == [t["proposal"] for t in line["top"]]


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in (3, 5, 7, 14)]


@pytest.mark.parametrize("stop_after", [10, *SLOW])
def test_an_interrupted_run_equals_one_that_is_not(run, tmp_path, monkeypatch, stop_after):
    whole, folder = run[0], RunFolder(tmp_path / "parts")
    train_until(monkeypatch, stop_after, folder, *ROUNDS)
    train(folder, *ROUNDS, resume=True)
    for name in ("best.pt", "last.pt", "mil.pt", "cotrain-1.pt"):
        assert same(whole.load(name)["model"], folder.load(name)["model"])
    assert whole.load("last.pt")["random"].keys() == folder.load("last.pt")["random"].keys()


def test_rounds_from_another_run_share_its_model(run, tmp_path):
    first = RunFolder(tmp_path / "first")
    teacher = train(first, "train.epochs=1").task.config
    first.write_config(teacher)
    words = [*ROUNDS, "cotrain.rounds=1", f"cotrain.start_from={first.path}"]
    found = [RunFolder(tmp_path / name) for name in ("one", "other")]
    trainers = [train(found[0], *words), train(found[1], *words, "cotrain.student=[dropout=0.2]", "cotrain.epochs=2")]
    assert [trainer.state["epoch"] for trainer in trainers] == [1, 2]
    assert all(same(_member(folder.load("best.pt"), 0), first.load("best.pt")["model"]) for folder in found)
    # Of a run with co-training, its first member is.
    again = Trainer(make_task(tiny_config(*words[:-1], f"cotrain.start_from={run[0].path}")), RunFolder(tmp_path / "c"))
    assert same(again.model.members[0].state_dict(), _member(run[0].load("best.pt"), 0))
    assert int(again.model.active) == 2
    with pytest.raises(RunError, match=r"first member, but model.relation is 'graph' there and 'none' here"):
        Trainer(make_task(tiny_config(*words, "model.relation=none")), RunFolder(tmp_path / "fourth"), quiet=True)
    with pytest.raises(RunError, match=r"first was trained with data\.word_offset=0, not 1; give data\.word_offset=0"):
        Trainer(make_task(tiny_config(*words, "data.word_offset=1")), RunFolder(tmp_path / "fourth"), quiet=True)
    assert not nothing_left(found[0], tiny_config(*words, "cotrain.epochs=2"))
    with pytest.raises(RunError, match=r"model.relation is 'graph' there"):
        nothing_left(found[0], tiny_config(*words, "model.relation=none"))


def test_a_finished_run_goes_on_with_rounds_and_past_ones_keep_their_epochs(tmp_path):
    folder = RunFolder(tmp_path / "run")
    words = ["train.epochs=1", "model.standardise=true"]
    train(folder, *words)
    alone = folder.load("best.pt")["model"]
    model = train(folder, *words, "cotrain.epochs=1", resume=True).model
    assert same(_member(folder.load("best.pt"), 0), alone)
    first, *others = (member.standardise for member in model.members)
    assert first.mean.any()
    assert all(torch.equal(first.mean, other.mean) for other in others)
    assert [member.hides_geometry for member in model.members] == [False, True, False]
    assert int(folder.load("best.pt")["model"]["active"]) == 3
    with pytest.raises(RunError, match=r"cotrain.epochs cannot rise: .* is past stage 2$"):
        train(folder, *words, "cotrain.epochs=2", resume=True)
    with pytest.raises(RunError, match=r"train.epochs cannot rise: .* is past stage 1$"):
        train(folder, "train.epochs=2", "model.standardise=true", "cotrain.epochs=1", resume=True)


def test_words_that_are_met_later_reach_every_member(tmp_path):
    path = tmp_path / "vectors.txt"
    task = make_task(tiny_config(*ROUNDS))
    words = [*task.vocabulary.to_list(), "zebra"]
    path.write_text("".join(f"{word} {i} {i % 3} 1\n" for i, word in enumerate(words, start=1)))
    task.vocabulary, task.vectors = load_word_vectors(path, task.vocabulary)
    task.config.data.word_vectors = "given"
    folder = RunFolder(tmp_path / "run")
    Trainer(task, folder, quiet=True).run()
    grounder = Grounder.from_run(folder.path, word_vectors=path)
    assert grounder.unknown_words("zebra yak") == ["yak"]
    rows = [system.embedding.vectors[-1].tolist() for system in grounder.model.systems]
    assert rows == [[float(len(words)), len(words) % 3, 1.0]] * 3


def test_a_student_step_scores_each_item_once_and_needs_no_negatives(run):
    _, trainer = run
    task = trainer.task
    assert not CoTraining.needs_negatives(task.config.cotrain)
    seen = []
    hooks = [member.register_forward_hook(lambda *_: seen.append(1)) for member in trainer.model.members]
    trainer.model.begin(2)
    trainer.objectives["cotrain"](task.collator(task.train)(range(4)))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 3
    assert MIL.needs_negatives(task.config.mil)
