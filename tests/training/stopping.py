"""Small runs of tools/train.py, and hooks that stop them at a chosen call."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from tests.training.tiny import TINY, tool

train_tool = tool("train")
WORDS = [
    *TINY, "data.demo_pairs=40", "train.epochs=6", "train.patience=6", "mil.negatives=2", "model.dropout=0.2",
    "train.log_every=3", "eval.batch_size=4", "name=run",
]  # fmt: skip


def run(runs: Path, *words: str) -> int:
    return train_tool.main(["--runs", str(runs), "--config", str(config_file(runs)), *words])


def config_file(runs: Path) -> Path:
    """Return a file of the settings: read in one go, they take a tenth of the time."""
    path = runs / "tiny.yaml"
    runs.mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.from_dotlist(WORDS), path)
    return path


def at(function: Callable, nth: int, act: Callable[[], None], before: bool = False) -> Callable:
    """Return a function that does something before or after it is called the nth time."""
    calls = itertools.count(1)

    def hooked(*args, **kwargs):
        call = next(calls)
        if before and call == nth:
            act()
        result = function(*args, **kwargs)
        if not before and call == nth:
            act()
        return result

    return hooked


def stop(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)
