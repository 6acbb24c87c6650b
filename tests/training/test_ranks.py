"""Laws of several processes: their gradients are those of one process, and all of them stay the same."""

import multiprocessing
import os
import shutil
import signal
import time

import pytest
import torch

from relgrounding import _ranks
from relgrounding._signals import Interrupted, caught, look
from relgrounding.config import ConfigError, load_config
from relgrounding.runs import RunFolder
from relgrounding.training import Trainer, make_task, train_run
from tests.cases import several_moments
from tests.objectives import test_arn
from tests.ranks import together
from tests.reliability.outcome import differences, outcome
from tests.training.tiny import tiny_config


def doubled(batch):
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            setattr(batch, name, value.double())
    return batch


def gradients(folder, words, numbers, stage=1):
    """The gradients of steps on batches of training queries, in float64, and the losses; weights stay the same."""
    config = load_config(None, words) if "data.batch_size=32" in words else tiny_config(*words)
    trainer = Trainer(make_task(config), RunFolder(folder), quiet=True)
    trainer.model.double()
    if stage > 1:
        trainer._begin_stage(stage)
    for objective in trainer.objectives.values():
        getattr(objective, "decoder", trainer.model).double()
        for bank in (getattr(objective, "features", None), getattr(objective, "language", None)):
            if bank is not None:
                bank.rows = bank.rows.double()
    trainer.step = type(trainer.step)(
        trainer.objectives, trainer.step.parameters, torch.optim.SGD(trainer.step.parameters), trainer.average,
        trainer.config.train, trainer.draws,
    )  # fmt: skip
    collator, found = trainer.task.collator(trainer.task.train), []
    for queries in numbers:
        unit, block = trainer.sampler.units(queries), trainer.sampler.block(queries)
        pieces = trainer.cut.pieces(queries, unit, block)[trainer.pieces.own]
        loaded = [(piece, doubled(collator(piece.queries)) if piece.queries else None) for piece in pieces]
        for piece, batch in loaded:
            if batch is not None:
                batch.block, batch.counts = trainer.sampler.block(batch.queries), piece.counts
        loss, norm = trainer.step(loaded, 0.0, 0).read()
        grads = [None if p.grad is None else p.grad.clone() for p in trainer.step.parameters]
        found.append((loss, norm, trainer.step.logged(), grads))
    return found


# Whole, uneven, as many queries as two pieces need, fewer than pieces, and the same query twice: no negatives.
NUMBERS = [range(8), range(3, 10), range(4), [9, 1, 4], [2, 5], [3, 3, 3, 3, 3, 3]]
NUMBERS = [list(numbers) for numbers in NUMBERS]
WORDS = ["data.batch_size=12", "mil.negatives=3", "model.dropout=0.3", "train.clip_norm=1e9"]
HARD = ["data.block_by=sentence", "data.block_size=4", "mil.hard_negatives=1"]
SCN = [
    "data.dataset=own", "data.queries={split}.jsonl", "data.features=f.h5", "model.name=scn", "model.width=8",
    "model.heads=2", "model.feed_forward=8", "model.word_dim=8", "model.layers=1", "model.windows=4",
    "train.objectives=[scn]",
]  # fmt: skip
SYSTEMS = {
    "mil": [],
    "contrastive": ["mil.loss=contrastive", "mil.message_dropout=0.5", *HARD],
    "reconstruction": ["train.objectives=[mil,reconstruction]", "reconstruction.width=8"],
    "ccl": ["ccl.epochs=1", "ccl.bank_size=40", "ccl.edges=rewired"],
    "cotrain": ["cotrain.epochs=1", "cotrain.hide=[]"],
    "arn": test_arn.WORDS,
    "scn": ["data.batch_size=32", *SCN],
}
STAGES = {"ccl": 2, "cotrain": 2}


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-12)
        assert one[1] == pytest.approx(other[1], abs=1e-9)
        assert one[2] == pytest.approx(other[2], abs=1e-9)
        for mine, theirs in zip(one[3], other[3], strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def several(folder, words, numbers, stage):
    torch.manual_seed(0)
    return gradients(folder / f"{_ranks.rank()}", words, numbers, stage)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("system", "size"), [("mil", 2), *(slow(system, 2 + (system == "mil")) for system in SYSTEMS), slow("ccl", 3)]
)
def test_processes_have_the_gradients_of_one_that_accumulates(tmp_path, system, size):
    words, stage = [*WORDS, *SYSTEMS[system]], STAGES.get(system, 1)
    if system == "scn":
        several_moments(tmp_path)
        words.append(f"data.root={tmp_path}")
    expected = gradients(tmp_path / "one", [*words, f"train.accumulate={size}"], NUMBERS, stage)
    found = together(size, several, tmp_path, words, NUMBERS, stage)
    for one in found:
        if isinstance(one, Exception):
            raise one
        close(one, expected)
        for mine, main in zip(one, found[0], strict=True):
            assert all(a is b is None or torch.equal(a, b) for a, b in zip(mine[3], main[3], strict=True))
    if system == "mil":  # the law can fail: the whole batch has other negatives
        whole = gradients(tmp_path / "whole", words, NUMBERS[:1], stage)
        assert whole[0][0] != pytest.approx(expected[0][0], abs=1e-6)


GATHERED = {
    "hinge": ["mil.message_dropout=0.5"],
    "hard": ["mil.loss=contrastive", *HARD],
    "parts": ["train.accumulate=2"],
}


@pytest.mark.parametrize(("kind", "size"), [("hard", 3), slow("hinge", 2), slow("hinge", 3), slow("parts", 3)])
def test_with_negatives_from_all_they_have_those_of_one_with_the_whole_batch(tmp_path, kind, size):
    words = [*WORDS, "model.dropout=0", "train.gather_negatives=true", *GATHERED[kind]]
    expected = gradients(tmp_path / "one", words, NUMBERS)
    for one in together(size, several, tmp_path, words, NUMBERS, 1):
        if isinstance(one, Exception):
            raise one
        close(one, expected)


RUN = ["model.dropout=0.2", "mil.negatives=2", "train.epochs=2", "train.patience=2"]
CCL = [*RUN, "data.demo_pairs=40", "train.epochs=1", "ccl.epochs=1", "ccl.bank_size=30"]


def run(folder, words, resume, stop_at, rank):
    """Train, and tell how it ended; a signal comes to one process in a step."""
    step = Trainer._step

    def signalled(self, pieces):
        if self.state["step"] == stop_at - 1 and _ranks.rank() == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, pieces)

    Trainer._step = signalled
    try:
        with caught():
            train_run(tiny_config(*words), RunFolder(folder), resume=resume, quiet=True)
    except Interrupted as stop:
        return stop.number
    except Exception as error:
        return error
    return 0


def trained(size, folder, words, resume=False, stop_at=-1, rank=0):
    return together(size, run, folder, words, resume, stop_at, rank)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "stop_at"), [(RUN, 5), (CCL, 13)])
def test_a_signal_to_one_process_stops_all_and_the_rest_follows_bit_for_bit(tmp_path, words, stop_at):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert trained(2, whole, words) == [0, 0]
    assert trained(2, parts, words, stop_at=stop_at, rank=1) == [signal.SIGTERM] * 2
    assert RunFolder(parts).load("last.pt")["state"]["step"] == stop_at
    for size in (1, 3):  # another number of processes goes on, too
        other = tmp_path / f"on_{size}"
        shutil.copytree(parts, other)
        assert trained(size, other, words, resume=True) == [0] * size
        saved = RunFolder(other).load("last.pt")
        assert saved["state"]["step"] == RunFolder(whole).load("last.pt")["state"]["step"]
        assert len(saved.get("pieces", [0])) == size
    same = tmp_path / "split"
    shutil.copytree(parts, same)
    assert trained(2, parts, words, resume=True) == [0, 0]
    assert differences(outcome(whole), outcome(parts)) == []
    # The same two pieces, one after another: of two numbers, the order of the sum does not matter.
    assert trained(1, same, [*words, "train.accumulate=2"], resume=True) == [0]
    one, other = outcome(whole), outcome(same)
    assert differences(one["last.pt"]["model"], other["last.pt"]["model"]) == []


def stopped_with_workers(folder):
    ended = run(folder, ["data.workers=1"], False, 3, 1)
    return ended, len(multiprocessing.active_children())


def test_processes_that_a_signal_stops_leave_no_loading_process(tmp_path):
    assert together(2, stopped_with_workers, tmp_path / "run") == [(signal.SIGTERM, 0)] * 2


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data.batch_size=8 is the whole batch of 1 processes .* need 10 queries"):
        make_task(tiny_config("train.accumulate=5"))
    with pytest.raises(ConfigError, match=r"train.gather_negatives is not for ccl, whose draws differ"):
        tiny_config("train.gather_negatives=true", "ccl.epochs=1")
    tiny_config("train.gather_negatives=true", "cotrain.epochs=1")


def differing(folder):
    words = [f"seed={_ranks.rank()}", f"data.workers={_ranks.rank()}"]
    train_run(tiny_config(*words), RunFolder(folder), quiet=True)


def test_processes_with_other_settings_are_told_which(tmp_path):
    for error in together(2, differing, tmp_path / "run"):
        assert "process 1 has other settings than process 0: seed is 1 there and 0 here" in str(error)


def test_a_signal_that_comes_twice_to_a_process_of_a_job_is_one(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with caught():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        with pytest.raises(Interrupted):
            look()


def spoiled(folder):
    """Process 1 trains on other weights from step 3 on."""
    step = Trainer._step

    def changed(self, pieces):
        done = step(self, pieces)
        if self.state["step"] == 3 and _ranks.rank() == 1:
            with torch.no_grad():
                next(self.model.parameters()).add_(1e-6)
        return done

    Trainer._step = changed
    train_run(tiny_config(), RunFolder(folder), quiet=True)


def test_processes_whose_weights_differ_end_with_an_error(tmp_path):
    found = together(2, spoiled, tmp_path / "run")
    for rank, error in enumerate(found):
        assert "processes 1 have other weights at the end of an epoch than process 0" in str(error)
        assert _ranks.is_told(error) == (rank == 1)
    assert RunFolder(tmp_path / "run").load("last.pt")["state"]["step"] == 0
