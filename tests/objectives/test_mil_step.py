"""The step of MIL, pairings through a whole model, and steps of both objectives that repeat to the last bit."""

import pytest
import torch

from relgrounding.config import load_config
from relgrounding.objectives import CCL, MIL, align_pairings, draw_negatives
from relgrounding.training import build_model, make_task
from tests.training.tiny import tiny_config


@pytest.fixture
def task():
    return make_task(tiny_config())


def test_pairings_together_equal_pairings_one_by_one(task, monkeypatch):
    model, batch = build_model(task).double(), task.collator(task.train)(range(6))
    batch.regions, batch.places = batch.regions.double(), batch.places.double()
    rows = torch.stack([torch.arange(6), torch.tensor([1, 2, 3, 4, 5, 0]), torch.tensor([5, 4, 3, 2, 1, 0])])
    together = align_pairings(model, batch, rows)
    monkeypatch.setattr("relgrounding.objectives._pairings.MOST_NODES", 1)
    torch.testing.assert_close(align_pairings(model, batch, rows), together)
    torch.testing.assert_close(together[0], model.align(batch.structure, model(batch)))


def test_a_wrong_pairing_is_the_item_with_the_other_sentence(task):
    model, collator = build_model(task).double(), task.collator(task.train)
    batch = collator(range(4))
    batch.regions, batch.places = batch.regions.double(), batch.places.double()
    rows = torch.tensor([[2, 3, 0, 1]])
    found = align_pairings(model, batch, rows)[0]
    for item, sentence in enumerate(rows[0].tolist()):
        alone = collator([item])
        alone.regions, alone.places = alone.regions.double(), alone.places.double()
        length = batch.word_lengths[sentence]
        alone.words, alone.word_lengths = batch.words[sentence : sentence + 1, :length], length[None]
        torch.testing.assert_close(found[item : item + 1], model.align(alone.structure, model(alone)))


@pytest.mark.parametrize("loss", ["hinge", "contrastive"])
def test_a_few_steps_on_one_batch_lower_the_loss(task, loss):
    task.config.mil.loss = loss
    model, batch = build_model(task), task.collator(task.train)(range(8))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        value = MIL(model, task.config.objectives, torch.Generator().manual_seed(0))(batch)[0]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_pair_of_the_same_item_or_sentence_is_no_negative(task):
    collator = task.collator(task.train)
    batch = collator([0, 0])
    model = build_model(task)
    value = MIL(model, task.config.objectives, torch.Generator().manual_seed(0))(batch)[0]
    assert value == 0
    assert draw_negatives(2, 1, batch.group).tolist() == [[1, 0]]


# The size of a real batch: small sums are made by one thread, and are then in order whatever makes them.
@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_has_the_same_gradients_to_the_last_bit_each_time(stage):
    config = load_config(None, ["data.demo_pairs=40", "mil.negatives=8", "ccl.epochs=1", "ccl.draws=2"])
    task = make_task(config)
    torch.manual_seed(0)
    model, batch, before = build_model(task), task.collator(task.train)(range(64)), torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = []
        for _ in range(4):
            generator = torch.Generator().manual_seed(0)
            if stage == 1:
                loss, _ = MIL(model, config.objectives, generator)(batch)
            else:
                step = CCL(model, config.objectives, generator)
                step(batch)  # fills the banks
                loss, _ = step(batch)
            found.append(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)
