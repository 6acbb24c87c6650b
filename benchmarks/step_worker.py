"""The training steps of one checkout of this repository, for `benchmarks.step --against`; not for use by itself.

Run as a script with PYTHONPATH set to the checkout. It builds the checkout's own `Trainer` from settings that are spelt
alike for all of them, and takes one order per line of its input, each answered by one line of JSON: see `benchmarks.
step_against.Worker`. Checkouts in which `training.mil_step` is the objective (before objectives were registered) are
known, too.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relgrounding.config import ConfigError, TrainConfig, load_config

PRECISION = "train.precision"
# What it has depends on the checkout.
training: Any = importlib.import_module("relgrounding.training")


class Steps:
    """One training step after another.

    Args:
        words: settings, `section.key=value`.
        folder: for the run.
    """

    def __init__(self, words: list[str], folder: Path) -> None:
        config = load_config(None, words)
        task = training.make_task(config)
        runs = importlib.import_module("relgrounding.runs" if hasattr(config, "sections") else "relgrounding.training")
        self.trainer = training.Trainer(task, runs.RunFolder(folder), quiet=True)
        self.trainer.model.train()
        for item in {query.item for query in task.train.queries}:
            task.train.store[item]
        self.pieces = hasattr(self.trainer, "_loaded")
        self._batches = iter(self.trainer._loaded() if self.pieces else self.trainer.loader)

    def __call__(self) -> dict[str, float]:
        """Collate a batch and take a step with it; return the milliseconds of the processor and of the clock."""
        begin = time.process_time_ns(), time.perf_counter_ns()
        batch = next(self._batches)
        self.trainer._step(batch if self.pieces else batch.to(self.trainer.device))
        end = time.process_time_ns(), time.perf_counter_ns()
        return dict(zip(("cpu", "wall"), ((b - a) / 1e6 for a, b in zip(begin, end, strict=True)), strict=True))

    def check(self, given: str, result: str) -> None:
        """Write the first batch, the weights, and the loss and its gradients without dropout, all in float64.

        Args:
            given: file of weights to load first, as written by another worker; empty: those that there are.
            result: file to write.
        """
        trainer = self.trainer
        model = trainer.model.double().eval()
        if given:
            model.load_state_dict(torch.load(given)["weights"])
        loaded = hasattr(trainer, "loader")  # by commits before a process read ahead
        first = next(iter(trainer.loader)) if loaded else trainer.collator(next(iter(trainer.sampler)))
        batch = type(first)(**{f.name: _double(getattr(first, f.name)) for f in dataclasses.fields(first)})
        trainer.generator.manual_seed(0)
        if hasattr(trainer, "objectives"):
            loss = torch.stack([objective(batch)[0] for objective in trainer.objectives.values()]).sum()
        else:
            loss = training.mil_step(model, batch, trainer.config.train, trainer.generator)
        names, parameters = zip(*model.named_parameters(), strict=True)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = {
            n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)
        }
        shown = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        tensors = {name: value for name, value in shown.items() if isinstance(value, Tensor)}
        written = {"weights": model.state_dict(), "batch": tensors, "loss": loss.detach(), "gradients": gradients}
        torch.save(written, result)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


class Desk:
    """What the orders refer to: steps by precision, and a second model for the check.

    Args:
        words: settings.
        folder: for runs.
    """

    def __init__(self, words: list[str], folder: Path) -> None:
        self.words, self.folder = words, folder
        self.steps = {"float32": Steps(words, folder / "float32")}
        with contextlib.suppress(ConfigError):  # a checkout without this setting
            self.steps["bfloat16"] = Steps([*words, f"{PRECISION}=bfloat16"], folder / "bfloat16")

    def check(self, given: str, result: str) -> None:
        """See `Steps.check`."""
        Steps(self.words, self.folder / "check").check(given, result)

    def step(self, precision: str) -> dict[str, float]:
        """See `Steps.__call__`."""
        return self.steps[precision]()

    def precisions(self) -> list[str]:
        """Return those that the checkout has."""
        return list(self.steps)


def settings(words: list[str]) -> list[str]:
    """Return words as this checkout spells them: before objectives had sections, `mil` was a part of `train`."""
    if not any(field.name == "loss" for field in dataclasses.fields(TrainConfig)):
        return words
    return ["train." + word.removeprefix("mil.") if word.startswith("mil.") else word for word in words]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    torch.set_num_threads(1)
    words, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    desk = Desk(settings(words), folder)
    print(json.dumps(desk.precisions()), file=answers, flush=True)
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        print(json.dumps(getattr(desk, order)(*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
