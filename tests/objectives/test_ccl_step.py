import pytest
import torch

from relgrounding.models import Encoded
from relgrounding.objectives import CCL, MIL, align_pairings
from relgrounding.objectives.ccl import Chosen
from relgrounding.training import build_model, make_task
from tests.objectives.videos import video_batch
from tests.training.tiny import tiny_config

OFF = {
    "feature": "ccl.feature_weight=0",
    "interaction": "ccl.interaction_weight=0",
    "relation": "ccl.relation_weight=0",
}


def _setting(*words, levels=tuple(OFF)):
    task = make_task(tiny_config(*words, *(word for level, word in OFF.items() if level not in levels)))
    model = build_model(task)
    with torch.no_grad():
        model.score.weight.mul_(10)  # scores that differ, so that no hinge is closed by chance
    step = CCL(model, task.config.objectives, torch.Generator().manual_seed(0))
    return task, model, step, task.collator(task.train)(range(8))


def test_without_a_level_the_loss_is_that_of_mil():
    task, model, step, batch = _setting(levels=())
    found, log = step(batch)
    expected = MIL(model, task.config.objectives, torch.Generator().manual_seed(0))(batch)[0]
    torch.testing.assert_close(found, expected)
    assert log == {}


@pytest.mark.parametrize("level", list(OFF))
def test_each_level_adds_its_weighted_losses(level):
    task, _, step, batch = _setting(f"ccl.{level}_weight=0.5", "ccl.mil_weight=0", levels=(level,))
    found, log = step(batch)
    ccl = task.config.ccl
    expected = log[f"ccl/{level}/ranking"] * ccl.ranking_weight
    expected = expected + log[f"ccl/{level}/consistency"] * ccl.consistency_weight
    torch.testing.assert_close(found, 0.5 * expected)
    found.backward()


def chosen_of(structure, mask):
    """The proposals of a mask, which are counted item by item."""
    return Chosen.of(mask, torch.stack([own.sum() for own in mask.split(structure.batch_num_nodes.tolist())]))


@pytest.mark.parametrize("level", list(OFF))
def test_copies_change_at_the_chosen_proposals_only(level):
    _, model, step, batch = _setting("ccl.draws=2", "ccl.edges=rewired", levels=(level,))
    step(batch)  # fills the banks
    structure, (proposals, words) = batch.structure, model.encode(batch)
    contexts = model.interact(proposals, words, batch.word_lengths, structure.node_item)
    critical = torch.arange(structure.num_nodes) % 3 == 0
    inessential = torch.arange(structure.num_nodes) % 3 == 1
    encoded = Encoded(proposals, words)
    fused = model.fuse(proposals, contexts)
    chosen = chosen_of(structure, critical), chosen_of(structure, inessential)
    copies = step._copies(level, batch, encoded, contexts, fused, *chosen)
    assert len(copies) == 4
    for copy, chosen in zip(copies, (critical, critical, inessential, inessential), strict=True):
        same_h = (copy.proposals == proposals).all(1)
        same_x = (copy.fused == fused).all(1)
        assert same_h[~chosen].all()
        assert same_x[~chosen].all()
        if level == "relation":
            assert same_h.all()
            assert same_x.all()
            assert copy.structure.num_edges == structure.num_edges
            assert (copy.structure.indices != structure.indices).any()
        else:
            assert copy.structure is structure
            assert not same_x[chosen].any()
            assert same_h[chosen].any() == (level == "interaction")
    if level == "feature":
        # A replaced proposal attends to its own sentence with its new feature.
        for copy in copies:
            again = model.interact(copy.proposals, words, batch.word_lengths, structure.node_item)
            torch.testing.assert_close(copy.fused, model.fuse(copy.proposals, again))


def test_scores_of_copies_are_those_of_each_alone(monkeypatch):
    _, model, step, batch = _setting(levels=("relation",))
    structure, (proposals, words) = batch.structure, model.encode(batch)
    contexts = model.interact(proposals, words, batch.word_lengths, structure.node_item)
    masks = torch.arange(structure.num_nodes) % 3 == 0, torch.arange(structure.num_nodes) % 3 == 1
    fused = model.fuse(proposals, contexts)
    chosen = [chosen_of(structure, mask) for mask in masks]
    copies = step._copies("relation", batch, Encoded(proposals, words), contexts, fused, *chosen)
    together = step._scores(copies)
    alone = torch.stack([model.reason(copy.structure, copy.proposals, copy.fused) for copy in copies])
    torch.testing.assert_close(together, alone)
    monkeypatch.setattr("relgrounding.objectives._pairings.MOST_NODES", 1)
    torch.testing.assert_close(step._scores(copies), alone)


def test_what_is_logged_as_robust_and_destructive_are_alignments_of_such_copies():
    """With no transformation of anything inessential and everything critical, the robust copy is the original."""
    _, model, step, batch = _setting(
        "ccl.critical=1.0", "ccl.inessential=0.0", "ccl.mil_weight=0", levels=("relation",)
    )
    _, log = step(batch)
    own = align_pairings(model, batch, torch.arange(8)[None])[0]
    torch.testing.assert_close(log["ccl/relation/robust"], own.mean())
    nothing = batch.structure.keep_edges(torch.zeros(batch.structure.num_edges, dtype=torch.bool))
    proposals, words = model.encode(batch)
    alone = model.align(nothing, model.pair(nothing, proposals, words, batch.word_lengths))
    torch.testing.assert_close(log["ccl/relation/destructive"], alone.mean())


@pytest.mark.parametrize("selection", ["gradient", "gradient_input", "score"])
def test_the_same_seed_gives_the_same_loss_and_gradients(selection):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        _, model, step, batch = _setting(f"ccl.selection={selection}", "ccl.draws=2", "ccl.edges=rewired")
        step(batch)
        loss, _ = step(batch)
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_every_parameter_learns_from_stage_2_alone():
    _, model, step, batch = _setting("ccl.mil_weight=0")
    loss, _ = step(batch)
    loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_a_batch_of_one_sample_has_no_counterfactual():
    task, _, step, _ = _setting()
    batch = task.collator(task.train)([0, 0])
    loss, log = step(batch)
    assert loss == 0
    assert log == {}


def test_video_models_take_stage_2_too():
    from relgrounding.config import load_config
    from relgrounding.graphs import window_proposals
    from relgrounding.models import VGN
    from relgrounding.nn import trained_embedding

    words = ["data.dataset=charades_sta", "model.name=vgn", "model.hidden=4", "model.attention_dim=4"]
    config = load_config(None, [*words, "model.relation_dim=8", "model.top_r=3", "model.heads=2", "ccl.epochs=1"])
    model = VGN(config.model, 5, trained_embedding(9, 6), 6)
    batch = video_batch(list(torch.randn(3, 8, 5)), [window_proposals(8, [2, 4], 2)] * 3)
    step = CCL(model, config.objectives, torch.Generator().manual_seed(0))
    loss, log = step(batch)
    loss.backward()
    assert len(log) == 12
    assert all(p.grad is not None for p in model.parameters())
