"""ARN's objective in training: runs can be resumed, attribute words are those of the sentences, regions are found."""

import numpy as np
import pytest
import torch

from relgrounding.config import load_config
from relgrounding.datasets import Annotations, DataConfig, Dataset, Query
from relgrounding.features import Regions
from relgrounding.objectives import OBJECTIVES
from relgrounding.runs import RunFolder
from relgrounding.training import Trainer, build_model, make_task
from tests.training.tiny import same

NAMES = ("red", "green", "blue", "white", "black", "pink")
WORDS = [
    f"data.dataset={__name__}:Colours", "model.name=arn", "train.objectives=[arn]", "data.batch_size=32",
    "data.category_columns=6", "data.validation=0.2", "model.hidden=16", "model.word_dim=16", "model.match_dim=32",
    "model.decoder_dim=32", "model.attributes=3", "train.learning_rate=0.01", "train.warmup_steps=3",
    "train.log_every=2",
]  # fmt: skip


class _Store(dict):
    dim = 6


class Colours(Dataset):
    """Images of two boxes of different colours, one of which is asked for."""

    Config, modality, generated = DataConfig, "image", True

    def read(self, split, problems=None):
        random, store, queries = np.random.default_rng(len(split)), _Store(), []
        boxes = np.array([[x, 20, x + 20, 50] for x in (5, 60)], np.float32)
        for name in (f"{split}{i}" for i in range(400)):
            shown, target = random.permutation(6)[:2], random.integers(2)
            store[name] = Regions(np.eye(6, dtype=np.float32)[shown], boxes, (100, 100))
            queries.append(Query(name, name, NAMES[shown[target]], (tuple(boxes[target].tolist()),)))
        return Annotations(queries, {}, dict.fromkeys(store, (100, 100)), store)

    def protocols(self):
        return ["single"]


def train(folder, *words, resume=False):
    task = make_task(load_config(None, [*WORDS, *words]))
    trainer = Trainer(task, RunFolder(folder), resume=resume, quiet=True)
    trainer.run()
    return trainer


def test_a_run_that_is_interrupted_and_resumed_equals_one_that_is_not(tmp_path, monkeypatch):
    words = ["train.epochs=2", "model.dropout=0.2", "train.schedule=halving", "train.halve_every=3"]
    whole = train(tmp_path / "whole", *words).model.state_dict()
    step = Trainer._step

    def interrupted(self, batch):
        if self.state["step"] == 11:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", *words)
    monkeypatch.setattr(Trainer, "_step", step)
    assert same(whole, train(tmp_path / "parts", *words, resume=True).model.state_dict())


def test_attribute_words_of_a_batch_are_those_of_its_sentences():
    task = make_task(load_config(None, WORDS))
    batch = task.collator(task.train)(range(20))
    words = [w for w in task.vocabulary.to_list() if w in NAMES][:3]
    texts = [task.train.queries[i].text.split() for i in range(20)]
    assert batch.attributes.tolist() == [[float(word in text) for word in words] for text in texts]
    assert torch.equal(batch.attributes.sum(0) > 0, torch.ones(3, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_reconstruction_alone_finds_the_region_that_is_asked_for(seed):
    alone = ["arn.phrase=0", "arn.language=0", "arn.attribute=0", "model.neighbours=0", "model.scale=3"]
    mended = ["model.content=words", "model.least_weight=0.333333", "arn.even=0.95", f"seed={seed}"]
    config = load_config(None, [*WORDS, *alone, *mended])
    task = make_task(config)
    torch.manual_seed(seed)
    model = build_model(task)
    objective = OBJECTIVES.get("arn")(model, config.objectives, torch.Generator())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    collate, order = task.collator(task.train), torch.Generator().manual_seed(seed)
    for _ in range(120):
        loss, _ = objective(collate(torch.randint(len(task.train.queries), (32,), generator=order).tolist()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = task.collator(task.validation)(range(len(task.validation.queries)))
    found = model.eval()(batch).view(-1, 2).argmax(1)
    target = [[5, 60].index(int(query.targets[0][0])) for query in task.validation.queries]
    assert (found == torch.tensor(target)).float().mean() > 0.95  # chance is 0.5
