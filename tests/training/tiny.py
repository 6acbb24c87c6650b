"""Runs on generated scenes that take a second, and what tests do with them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from relgrounding.config import Config, load_config
from relgrounding.runs import RunFolder
from relgrounding.training import Trainer, make_task

COMMON = [
    "data.batch_size=8",
    "data.validation=0.2",
    "model.hidden=8",
    "model.word_dim=8",
    "model.attention_dim=8",
    "model.relation_dim=8",
    "model.top_r=2",
    "train.epochs=3",
    "train.patience=3",
    "train.warmup_steps=3",
    "train.log_every=2",
]
"""Settings that every system and data set has."""
IGN = ["model.fusion_dim=8", "model.position_dim=4"]
TINY = ["data.demo_pairs=24", *IGN, *COMMON]


def tiny_config(*words: str) -> Config:
    return load_config(None, [*TINY, *words])


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


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
