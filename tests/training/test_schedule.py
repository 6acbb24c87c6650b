import copy
import math
from itertools import pairwise

import pytest
import torch

from relgrounding.config import ConfigError, load_config
from relgrounding.runs import RunFolder
from relgrounding.training import Trainer, learning_rate_factor, make_task
from tests.training.tiny import tiny_config


def test_the_learning_rate_rises_linearly_and_falls_to_zero():
    factors = [learning_rate_factor(step, 10, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert all(a >= b for a, b in pairwise(factors[10:]))


def test_inverse_square_root_goes_on_where_the_warm_up_ends_and_does_not_depend_on_the_end():
    factors = [learning_rate_factor(step, 400, 1, "inverse_sqrt") for step in range(6400)]
    assert factors[:400] == [(k + 1) / 400 for k in range(400)]
    assert factors[400] == pytest.approx(math.sqrt(400 / 401))
    assert factors[4 * 400 - 1] == pytest.approx(1 / 2)
    assert factors[16 * 400 - 1] == pytest.approx(1 / 4)
    assert [learning_rate_factor(step, 0, 9, "inverse_sqrt") for step in (0, 3, 8)] == pytest.approx([1, 1 / 2, 1 / 3])


def test_halving_halves_at_every_multiple():
    steps = (0, 7999, 8000, 15999, 16000, 29999)
    factors = [learning_rate_factor(step, 0, 1, "halving", 8000) for step in steps]
    assert factors == [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 8]
    assert [learning_rate_factor(step, 4, 1, "halving", 2) for step in range(5)] == [1 / 4, 1 / 2, 3 / 8, 1 / 2, 1 / 4]


def test_a_step_is_that_of_adam_with_these_rates_and_this_penalty(tmp_path):
    words = "train.betas=[0.8,0.99]", "train.weight_decay=0.05", "train.schedule=inverse_sqrt", "train.warmup_steps=2"
    trainer = Trainer(make_task(tiny_config(*words)), RunFolder(tmp_path / "run"), quiet=True)
    other = copy.deepcopy(trainer.model)
    adam = torch.optim.Adam(other.parameters(), lr=0, betas=(0.8, 0.99), weight_decay=0.05, fused=True)
    trainer.model.train()
    for factor, pieces in zip((1 / 2, 1, math.sqrt(2 / 3)), trainer._loaded(), strict=False):
        trainer._step(pieces)
        for mine, theirs in zip(other.parameters(), trainer.model.parameters(), strict=True):
            mine.grad = theirs.grad
        adam.param_groups[0]["lr"] = 1e-3 * factor
        adam.step()
        trainer.state["step"] += 1
    for mine, theirs in zip(other.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_betas_are_two_and_may_be_equal():
    assert load_config(None, ["train.betas=[0.9,0.9]"]).train.betas == [0.9, 0.9]
    with pytest.raises(ConfigError, match=r"train.betas is \[0.9\]; it needs two numbers"):
        load_config(None, ["train.betas=[0.9]"])
    with pytest.raises(ConfigError, match=r"train\.betas is 1\.0; it must be 0 or more and below 1"):
        load_config(None, ["train.betas=[0.9,1]"])
