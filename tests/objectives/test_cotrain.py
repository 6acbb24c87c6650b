"""What members of a committee learn from, and how they answer together."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relgrounding.config import ConfigError, load_config, model_name
from relgrounding.graphs import window_proposals
from relgrounding.modalities import Scored
from relgrounding.models import Committee, log_odds
from relgrounding.objectives import CoTraining, posterior_loss
from relgrounding.predictor import untrained
from relgrounding.training import build_model, make_task
from tests.objectives.videos import video_batch
from tests.training.tiny import tiny_config

ON = ["cotrain.epochs=1", "cotrain.hide=[]"]


def _softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(values)) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def _product(*factors: tuple[list[float], float]) -> list[float]:
    """The distribution proportional to a product of powers of distributions."""
    values = [math.prod(p[i] ** power for p, power in factors) for i in range(len(factors[0][0]))]
    return [value / sum(values) for value in values]


def _committee(count: int, *words: str) -> tuple[Committee, object]:
    task = make_task(tiny_config(*ON, f"cotrain.rounds={count - 1}", "model.dropout=0.3", *words))
    model = build_model(task)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter))  # members that disagree
    model.begin(count - 1)
    return model.double().eval(), _double(task.collator(task.train)([3, 0, 7, 5]))


def _double(batch):
    floating = {k: v.double() for k, v in vars(batch).items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    return type(batch)(**{**vars(batch), **floating})


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 1000))
def test_the_loss_is_the_mean_cross_entropy_of_the_items(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(sum(counts), generator=generator, dtype=torch.float64).mul(3).requires_grad_()
    q = torch.cat([torch.rand(n, generator=generator, dtype=torch.float64).softmax(0) for n in counts])
    expected, start = 0.0, 0
    for n in counts:
        p = _softmax(f[start : start + n].tolist())
        expected -= sum(a * math.log(b) for a, b in zip(q[start : start + n].tolist(), p, strict=True)) / len(counts)
        start += n
    found = posterior_loss(f, q, torch.tensor(counts))
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, f)
    p = torch.cat([part.softmax(0) for part in f.detach().split(counts)])
    torch.testing.assert_close(gradient, (p - q) / len(counts))


@pytest.mark.parametrize("members", [2, 3, 4])
def test_targets_and_answers_are_those_combined_by_hand(members):
    model, batch = _committee(members, "cotrain.temperature=0.5", "cotrain.earlier_weight=0.5")
    counts = batch.structure.batch_num_nodes.tolist()
    odds = [log_odds(member(batch)).split(counts) for member in model.members]
    target, score = model.target(batch).split(counts), model(batch).split(counts)
    for item in range(len(counts)):
        p = [_softmax((f[item] / (0.5 if m == 0 else 1)).tolist()) for m, f in enumerate(odds)]
        q = p[0]
        for number in range(1, members - 1):
            q = _product((q, 0.5), (p[number], 1))
        assert target[item].tolist() == pytest.approx(q)
        answer = _product((q, 1), (p[-1], 1))
        assert score[item].argsort().tolist() == torch.tensor(answer).argsort().tolist()
        # The same, at the temperature of a mean of log-odds.
        total = sum(0.5 ** (members - 2 - m) / (0.5 if m == 0 else 1) for m in range(members - 1)) + 1
        assert score[item].tolist() == pytest.approx(_product((answer, 1 / total)))


def test_the_rounds_of_the_finding():
    """q = p_T^(1/2) p_S, and the answers p_T p_S and p_T^(1/2) p_S p_S2, with p_T = softmax(2 f_T)."""
    model, batch = _committee(3, "cotrain.temperature=0.5")
    counts = batch.structure.batch_num_nodes.tolist()
    teacher, first, second = (log_odds(member(batch)) for member in model.members)

    def posterior(f):
        return torch.cat([part.softmax(0) for part in f.split(counts)])

    torch.testing.assert_close(model.target(batch), posterior(teacher + first))
    torch.testing.assert_close(model(batch), posterior((teacher + first + second) / 3))
    model.begin(1)
    torch.testing.assert_close(model.target(batch), posterior(2 * teacher))
    torch.testing.assert_close(model(batch), posterior((2 * teacher + first) / 3))
    model.begin(0)
    assert torch.equal(model(batch), model.members[0](batch))


def test_members_that_learn_apart_learn_from_the_first_and_answer_together():
    model, batch = _committee(3, "cotrain.temperature=0.5", "cotrain.teachers=first")
    counts = batch.structure.batch_num_nodes.tolist()
    posterior = torch.cat([part.softmax(0) for part in (2 * log_odds(model.members[0](batch))).split(counts)])
    answers = model(batch)
    torch.testing.assert_close(model.target(batch), posterior)
    model.plan = model.plan._replace(first_alone=False)
    assert torch.equal(model(batch), answers)
    assert not torch.allclose(model.target(batch), posterior)
    model.begin(1)
    torch.testing.assert_close(model.target(batch), posterior)


def test_gradients_and_dropout_are_those_of_the_member_in_training():
    task = make_task(tiny_config(*ON, "model.dropout=0.3"))
    model, batch = build_model(task), task.collator(task.train)(range(4))
    step = CoTraining(model, task.config.objectives, torch.Generator())
    model(batch).sum().backward()
    assert any(parameter.grad is not None for parameter in model.members[0].parameters())
    model.begin(1)
    model.train()
    assert [member.training for member in model.members] == [False, True, True]
    model.begin(2)
    model.train()
    assert [member.training for member in model.members] == [False, False, True]
    loss, log = step(batch)
    loss.backward()
    assert 0 <= log["cotrain/divergence"] < loss
    assert all(parameter.grad is None for member in model.members[:2] for parameter in member.parameters())
    idle = [name for name, p in model.members[2].named_parameters() if p.grad is None]
    assert idle == []


@pytest.mark.parametrize(
    ("by", "voting"),
    [
        ("score", ["eval.vote_prior=0.3"]),
        ("odds", ["eval.vote_prior=0.3", "eval.vote_by=odds"]),
        ("odds", ["eval.vote_temperature=9", "cotrain.target_eval=[vote_temperature=2,vote_prior=0.3,vote_by=odds]"]),
    ],
)
def test_the_target_by_vote_is_what_the_vote_selects_by(by, voting):
    words = ["data.dataset=charades_sta", "model.name=vgn", "cotrain.target=vote", "cotrain.temperature=0.25"]
    config = tiny_config(*ON, *words, *voting)
    torch.manual_seed(0)
    model = untrained(config, 5, 9)
    clips = [torch.randn(n, 5) for n in (8, 6, 8)]
    spans = [window_proposals(len(c), [2, 4], 1) for c in clips]
    batch = video_batch(clips, spans)
    model.begin(1)
    model.eval()
    counts = [len(s) for s in spans]
    scores, target = model.members[0](batch).detach().split(counts), model.target(batch).split(counts)
    for k, q, s in zip(scores, target, spans, strict=True):
        settings_of_vote = dataclasses.replace(config.eval, vote_temperature=2.0, vote_prior=0.3, vote_by=by)
        (best,) = config.modality.select(Scored([], [k], [s]), "vote", settings_of_vote)
        ballots = torch.logit(k, 1e-6) if by == "odds" else k
        z = (ballots - ballots.mean()) / ballots.std(correction=0)
        weight = torch.softmax(2 * z, 0) - 0.3 / len(k)
        votes = [sum(w * _iou(a, b) for w, b in zip(weight.tolist(), s.tolist(), strict=True)) for a in s.tolist()]
        expected = _softmax([4 * math.log(max(v, 1e-6) / (1 - max(v, 1e-6))) for v in votes])
        assert q.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert int(q.argmax()) == best[0]


def _iou(one, other):
    shared = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def test_members_differ_as_the_settings_say():
    words = ["cotrain.epochs=1", "cotrain.rounds=3", "model.relation=none", "cotrain.hide=[]"]
    config = load_config(None, [*words, "cotrain.student=[relation=graph,dropout=0.2]"])
    assert [(m.relation, m.dropout) for m in config.committee.members] == [("none", 0)] + [("graph", 0.2)] * 3
    assert model_name(config) == "ign + cotrain"
    assert model_name(load_config(None, [*words, "cotrain.student=[]"])) == "ign + cotrain, no relation"
    assert len(load_config(None, words[1:]).committee.members) == 1
    for rounds, seen in ((1, [0, 1]), (2, [0, 1, 0]), (3, [0, 1, 1, 0])):
        config = load_config(None, ["cotrain.epochs=1", f"cotrain.rounds={rounds}"])
        assert [m.hide for m in config.committee.members] == [["geometry"] * hidden for hidden in seen]
    compare = ["model.relation=compare", "model.relation_edges=none", "data.category_columns=3"]
    config = load_config(None, ["cotrain.epochs=1", *compare, "cotrain.student=[relation_edges=same_category]"])
    assert config.graph_options == {"edges": "same_category"}
    assert model_name(config) == "ign + cotrain, compare"
    video = ["model.name=vgn", "data.dataset=charades_sta", "model.iou_threshold=0.4", "cotrain.epochs=1"]
    config = load_config(
        None, [*video, "model.relation=none", "cotrain.hide=[]", "cotrain.student=[iou_threshold=0.6]"]
    )
    assert config.graph_options == {"iou_threshold": 0.4}  # no member reads it
    student = "cotrain.student=[relation=graph,iou_threshold=0.6]"
    config = load_config(None, [*video, "model.relation=none", "cotrain.hide=[]", student])
    assert config.graph_options == {"iou_threshold": 0.6}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cotrain.student=[dropout=2]"], "cotrain.student: dropout is 2.0; it must be 0 or more and below 1"),
        (["cotrain.student=[dropuot=0.2]"], "'dropuot=0.2'.*the nearest one is 'dropout'"),
        (["cotrain.student=[name=vgn]"], "members are of one system"),
        (["cotrain.student=[relation=grpah]"], "model.relation: there is no relation module 'grpah'"),
        (["cotrain.target=vote"], "cotrain.target: select is 'vote'; it is 'score'"),
        (["cotrain.target_eval=[vote=1]"], "cotrain.target_eval, 'vote=1'"),
        (["cotrain.temperature=0"], "cotrain.temperature is 0.0; it must be above 0"),
        (["cotrain.rounds=0"], "cotrain.rounds is 0; it must be from 1 to 20"),
        (["train.objectives=[cotrain]"], "cotrain is a stage of its own after the first; set cotrain.epochs"),
        (
            ["model.name=vgn", "data.dataset=charades_sta", "cotrain.student=[iou_threshold=0.6]"],
            "share one graph, but iou_threshold is 0.3 for one and 0.6 for another",
        ),
        (
            ["cotrain.student=[relation=compare,relation_edges=same_category]", "data.category_columns=3"],
            "share one graph, but edges is 'all' for one and 'same_category' for another",
        ),
        (
            ["model.name=vgn", "data.dataset=charades_sta", "cotrain.hide=[geometry]"],
            r"vgn has no model.hide; set cotrain.hide=\[\]",
        ),
    ],
)
def test_settings_that_no_committee_can_use_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [*ON, *words])
