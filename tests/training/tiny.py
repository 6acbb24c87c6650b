"""Runs on generated scenes that take a second, and what tests do with them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from relgrounding.config import Config, load_config
from relgrounding.runs import RunFolder
from relgrounding.training import Trainer, make_task

TINY = [
    "data.demo_pairs=24",
    "data.batch_size=8",
    "data.validation=0.2",
    "model.hidden=8",
    "model.word_dim=8",
    "model.attention_dim=8",
    "model.fusion_dim=8",
    "model.relation_dim=8",
    "model.position_dim=4",
    "model.top_r=2",
    "train.epochs=3",
    "train.patience=3",
    "train.warmup_steps=3",
    "train.log_every=2",
]


def tiny_words(*words: str) -> list[str]:
    """TINY and more, without what the model and the data set that are named do not have."""
    foreign: list[str] = []
    if any(word.startswith("model.name=") and word != "model.name=ign" for word in words):
        foreign += ["model.fusion_dim", "model.position_dim"]
    if any(word.startswith("data.dataset=") and word != "data.dataset=demo" for word in words):
        foreign += ["data.demo_pairs"]
    return [*(word for word in TINY if word.partition("=")[0] not in foreign), *words]


def tiny_config(*words: str) -> Config:
    return load_config(None, tiny_words(*words))


def tool(name: str) -> ModuleType:
    """Return a module of tools/, which is not a package."""
    path = Path(__file__).parents[2] / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(folder: RunFolder, *words: str, resume: bool = False) -> Trainer:
    trainer = Trainer(make_task(tiny_config(*words)), folder, resume=resume, quiet=True)
    trainer.run()
    return trainer


def train_until(monkeypatch: pytest.MonkeyPatch, step: int, folder: RunFolder, *words: str) -> None:
    """Train until Ctrl-C comes when so many steps are done."""
    whole = Trainer._step

    def interrupted(self, batch):
        if self.state["step"] == step:
            raise KeyboardInterrupt
        return whole(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(folder, *words)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
