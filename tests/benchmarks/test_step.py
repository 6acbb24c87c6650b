"""The step benchmark measures the same computation twice, and what it says it measures."""

import pytest
import torch

from benchmarks.step import Step, as_double, breakdown, difference, draw_batch, draw_models, round_of, stage_2_of
from benchmarks.step_against import TOLERANCE, disagreement
from benchmarks.step_settings import measure_settings
from benchmarks.step_worker import Steps

models = pytest.mark.parametrize("name", ["vgn", "ign"])


@models
def test_the_eager_rendering_is_the_same_function(name):
    ours, eager = draw_models(name, "naive", seed=0)
    assert difference(ours.double(), eager.double(), as_double(draw_batch(name, 3, 1, seed=0))) < 1e-9


@models
def test_a_difference_shows(name):
    ours, eager = draw_models(name, "naive", seed=0)
    eager.attention.score.weight.data[0, 0] += 0.1
    assert difference(ours, eager, draw_batch(name, 3, 1, seed=0)) > 1e-3


def test_the_parts_make_up_the_step():
    _, eager = draw_models("ign", "naive", seed=0)
    parts = breakdown(Step(eager, draw_batch("ign", 2, 20, seed=0)), repeats=1)
    assert {"word_encoder", "attention", "fusion", "relation", "score", "aggregate", "optimizer"} <= set(parts)
    assert all(time > 0 for time in parts.values())


@models
def test_a_step_of_stage_2_has_all_levels(name):
    ours, _ = draw_models(name, "naive", seed=0)
    step = Step(ours, draw_batch(name, 3, 1, seed=0), stage_2_of(ours))
    _, log = step.objective(step.batch)
    assert {key.split("/")[1] for key in log} == {"feature", "interaction", "relation"}
    step()


@models
def test_a_step_of_a_round_trains_its_member_alone(name):
    ours, _ = draw_models(name, "naive", seed=0)
    objective = round_of(ours, 2)
    *others, member = objective.model.members
    before = [[p.clone() for p in each.parameters()] for each in (*others, member)]
    Step(member, draw_batch(name, 3, 1, seed=0), objective)()
    for each, old in zip((*others, member), before, strict=True):
        same = [torch.equal(p, q) for p, q in zip(each.parameters(), old, strict=True)]
        assert all(same) if each is not member else not all(same)


def test_steps_of_a_configuration_in_each_precision():
    variants, small = [("float32", False), ("bfloat16", False)], ["data.demo_pairs=40", "data.batch_size=8"]
    report = measure_settings("demo", variants, torch.device("cpu"), repeats=1, words=small)
    assert report.startswith("## demo: batches of 8 queries, ")
    assert [line.split("|")[1].strip() for line in report.splitlines() if "float" in line] == ["float32", "bfloat16"]


def test_two_checkouts_are_compared_with_equal_weights_and_a_difference_shows(tmp_path):
    words = ["data.demo_pairs=20", "data.batch_size=6", "mil.negatives=2", "name=step", "device=cpu"]
    files = [str(tmp_path / name) for name in ("before", "same", "other")]
    Steps(words, tmp_path / "before").check("", files[0])
    after = Steps([*words, "model.dropout=0.5"], tmp_path / "after")
    after.trainer.model.score.weight.data += 0.1
    after.check(files[0], files[1])
    after.trainer.model.score.weight.data += 1e-6
    after.check("", files[2])
    expected, same, other = (torch.load(file) for file in files)
    assert disagreement(expected, same) == 0
    assert disagreement(expected, other) > TOLERANCE


def test_a_step_says_how_long_it_took(tmp_path):
    steps = Steps(["data.demo_pairs=20", "data.batch_size=6", "name=step", "device=cpu"], tmp_path)
    weight = steps.trainer.model.score.weight.clone()
    assert all(0 < steps()[clock] < 1e5 for clock in ("cpu", "wall"))
    assert not torch.equal(weight, steps.trainer.model.score.weight)
