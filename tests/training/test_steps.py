"""What a step computes with, what is averaged over steps, and what is written between them."""

import time

import pytest
import torch
from omegaconf import OmegaConf

from relgrounding._ranks import rank
from relgrounding.config import ConfigError
from relgrounding.runs import RunError, RunFolder
from relgrounding.training import Trainer, _trainer, make_task
from relgrounding.training._step import rounded_products
from relgrounding.training._trainer import check_precision
from tests.ranks import together
from tests.reliability.outcome import differences, outcome
from tests.training.stopping import at, run
from tests.training.test_interruptions import Killed, kill
from tests.training.tiny import same, tiny_config, train

DECAY = 0.7


@pytest.fixture
def history(monkeypatch):
    """The weights after each step of each optimizer."""
    steps, step = {}, torch.optim.Adam.step

    def recorded(self, *args, **kwargs):
        step(self, *args, **kwargs)
        weights = [p.detach().double().clone() for group in self.param_groups for p in group["params"]]
        steps.setdefault(id(self), []).append(weights)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    return steps


def averaged(steps):
    """The normalised sum, slowly."""
    shares = [DECAY ** (len(steps) - 1 - i) for i in range(len(steps))]
    return [sum(s * w[k] for s, w in zip(shares, steps, strict=True)) / sum(shares) for k in range(len(steps[0]))]


def close(weights, expected):
    for one, other in zip(weights, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


def test_the_average_is_validated_kept_and_handed_on(tmp_path, monkeypatch, history):
    validated, begun = [], []
    metrics, begin = _trainer.validation_metrics, Trainer._begin_stage

    def validate(model, *args, **kwargs):
        validated.append([p.detach().clone() for p in model.parameters()])
        return metrics(model, *args, **kwargs)

    def begin_stage(self, *args):
        begin(self, *args)
        begun.append([p.detach().clone() for p in self.model.parameters()])

    monkeypatch.setattr(_trainer, "validation_metrics", validate)
    monkeypatch.setattr(Trainer, "_begin_stage", begin_stage)
    words = [f"train.ema={DECAY}", "train.epochs=1", "train.select_metric=last", "ccl.epochs=2", "ccl.bank_size=50"]
    folder = RunFolder(tmp_path / "run")
    model = train(folder, *words).model
    names = [name for name, _ in model.named_parameters()]
    first, second = history.values()
    close(validated[0], averaged(first))
    close([folder.load("mil.pt")["model"][name] for name in names], averaged(first))
    close(begun[-1], averaged(first))
    best, last = folder.load("best.pt"), folder.load("last.pt")
    close([best["model"][name] for name in names], averaged(second))  # of all epochs of its stage
    assert "average" not in best
    close([last["model"][name] for name in names], second[-1])
    close([last["average"][f"module.{k}"] for k in range(len(names))], averaged(second))


def test_the_average_survives_and_a_checkpoint_without_it_is_refused(tmp_path):
    words, folder = [f"train.ema={DECAY}", "train.epochs=1"], RunFolder(tmp_path / "run")
    train(folder, *words)
    saved = folder.load("last.pt")
    folder.save("last.pt", {key: value for key, value in saved.items() if key != "average"})
    with pytest.raises(RunError, match=r"last\.pt cannot be restored: RuntimeError: .*"):
        train(folder, *words, resume=True)


WORDS = [f"train.ema={DECAY}", "train.precision=bfloat16", "train.epochs=2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    runs = tmp_path_factory.mktemp("whole")
    assert run(runs, *WORDS) == 0
    return outcome(runs / "run")


@pytest.mark.parametrize(
    ("often", "kept"), [("train.save_every=3", 12), pytest.param("train.save_minutes=1e-9", 13, marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_from_the_last_write(whole, tmp_path, monkeypatch, often, kept):
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", at(torch.optim.Adam.step, 14, kill))  # 8 steps an epoch
        with pytest.raises(Killed):
            run(tmp_path, *WORDS, often)
    assert RunFolder(tmp_path / "run").load("last.pt")["state"]["step"] == kept
    assert run(tmp_path, *WORDS, "--resume") == 0  # without saving as often, which is free to change
    assert differences(whole, outcome(tmp_path / "run")) == []


def writes(folder, *seconds):
    """The steps after which last.pt is written every minute, where a step takes so many seconds on each process."""
    clock, saved = [0.0], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: clock[0])
        trainer = Trainer(make_task(tiny_config("train.save_minutes=1")), RunFolder(folder), quiet=True)
        patch.setattr(trainer, "_finish_epoch", lambda: trainer.state.update(finished=True))
        step, save = trainer._step, trainer._save

        def slow(*args):
            clock[0] += seconds[rank()]
            return step(*args)

        patch.setattr(trainer, "_step", slow)
        patch.setattr(trainer, "_save", lambda name: (saved.append(trainer.state["step"]), save(name)))
        trainer.run()
    return saved


def test_minutes_count_from_the_last_write(tmp_path):
    assert writes(tmp_path / "run", 25.0) == [0, 3]  # of 5 steps


def test_the_minutes_of_the_main_process_count(tmp_path):
    assert together(2, writes, tmp_path / "run", 25.0, 1000.0) == [[0, 3]] * 2


def test_a_run_in_bfloat16_is_like_one_in_float32(tmp_path, capsys):
    losses = {}
    for precision in ("float32", "bfloat16"):
        words = [f"train.precision={precision}", "train.log_every=1", "train.epochs=2"]
        trainer = Trainer(make_task(tiny_config(*words)), RunFolder(tmp_path / precision))
        trainer.run()
        log = trainer.folder.read_log()
        losses[precision] = torch.tensor([line["loss"] for line in log if "loss" in line])
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        assert OmegaConf.load(tmp_path / precision / "config.yaml").train.precision == precision
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], rtol=0, atol=0.02)
    assert not torch.equal(losses["bfloat16"], losses["float32"])
    said = [line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("precision")]
    assert said == ["float32", "float32, steps in bfloat16 by autocast"]
    best = [RunFolder(tmp_path / precision).load("best.pt")["model"] for precision in losses]
    assert not same(*best)


@pytest.mark.parametrize(
    ("precision", "device", "within"),
    [
        ("float32", "cuda", "highest"),
        ("tf32", "cpu", "highest"),
        ("bfloat16", "cuda", "highest"),
        ("tf32", "cuda", "high"),
    ],
)
def test_tf32_is_for_the_products_of_steps_on_cuda(precision, device, within):
    with rounded_products(precision, device):
        assert torch.get_float32_matmul_precision() == within
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_device_without_bfloat16_says_so():
    with pytest.raises(ConfigError, match=r"bfloat16, which mps cannot compute in; use train\.precision=float32"):
        check_precision(tiny_config("train.precision=bfloat16"), torch.device("mps"))


def test_a_checkpoint_of_the_unfused_adam_goes_on_to_the_same_weights(tmp_path):
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    rate = "train.schedule=inverse_sqrt"  # which does not know the last epoch
    train(whole, rate, "train.epochs=2")
    train(folder, rate, "train.epochs=1")
    saved = folder.load("last.pt")
    (group,) = saved["optimizer"]["param_groups"]
    assert group["fused"]
    group["fused"] = None  # as versions wrote it that did not fuse
    folder.save("last.pt", saved)
    train(folder, rate, "train.epochs=2", resume=True)
    last, expected = folder.load("last.pt"), whole.load("last.pt")
    assert not last["optimizer"]["param_groups"][0]["fused"]
    for name, weight in last["model"].items():
        torch.testing.assert_close(weight, expected["model"][name], rtol=1e-4, atol=1e-5)
