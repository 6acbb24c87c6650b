"""Steps of shipped configurations with other settings of the step, on their own data: `benchmarks.step --config`."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice

import torch

from benchmarks.report import table
from benchmarks.timing import Quantiles, interleaved
from relgrounding.config import load_config
from relgrounding.modalities import Batch, Cut, Piece, training_batches
from relgrounding.models import compile_pieces
from relgrounding.training import Stage, Task, build_model, make_task, stages
from relgrounding.training._average import Average
from relgrounding.training._draws import Draws
from relgrounding.training._step import Step

WARM_UP = 4
"""Steps that are not counted: whatever is made on first use."""


class StageStep:
    """One step after another of a stage of a run, whose model is untrained.

    Args:
        task: of the run.
        stage: of the run.
        batches: of its steps; in training, too, each step meets sizes that it has not met before.
        precision: see `train.precision`.
        compiled: see `train.compile`.
    """

    def __init__(self, task: Task, stage: Stage, batches: Sequence[Batch], precision: str, compiled: bool) -> None:
        config = task.config
        torch.manual_seed(config.seed)
        device = batches[0].words.device
        self.model = build_model(task).to(device)
        trained = self.model.begin(stage.member)
        self.model.train()
        if compiled:
            compile_pieces(trained)
        generator = torch.Generator().manual_seed(config.seed)
        model, parameters = self.model if stage.member else trained, list(trained.parameters())
        objectives = {kind.name: kind(model, config.sections, generator) for kind in stage.objectives}
        optimizer = torch.optim.Adam(parameters)
        self.batches, draws = iter(batches), Draws(generator, Cut(), 0, config.seed, device)
        train = dataclasses.replace(config.train, precision=precision)  # type: ignore[arg-type] # checked there
        self.step = Step(objectives, parameters, optimizer, Average(parameters, 0.0), train, draws)

    def __call__(self) -> None:
        """Take it."""
        batch = next(self.batches)
        self.step([(Piece(batch.queries, 1.0), batch)], rate=1e-5, number=0)


def measure_settings(
    name: str, variants: Sequence[tuple[str, bool]], device: torch.device, repeats: int, words: Sequence[str] = ()
) -> str:
    """Time the first and the last stage of a configuration.

    Args:
        name: of the configuration, whose data are read.
        variants: precision and whether to compile; the others are compared with the first.
        device: to compute on.
        repeats: steps of each.
        words: settings laid over those of the configuration.
    """
    task = make_task(load_config(name, words))
    config = task.config
    batches = [batch.to(device) for batch in islice(_batches(task), WARM_UP + 2 * repeats)]
    proposals = sum(batch.structure.num_nodes for batch in batches) // len(batches)
    sizes = f"{config.data.batch_size} queries, {proposals} proposals"
    title = f"## {name}: batches of {sizes} in the mean"
    planned = stages(config)
    parts = [title]
    for stage in dict.fromkeys((planned[0], planned[-1])):
        objectives = ", ".join(kind.name for kind in stage.objectives)
        steps = {_label(*v): StageStep(task, stage, batches, *v) for v in variants}
        parts.append(f"{objectives}:\n\n{_timed(steps, device, repeats)}")
    return "\n\n".join(parts)


def _batches(task: Task) -> Iterator[Batch]:
    config, collator = task.config, task.collator(task.train)
    sampler = training_batches(task.train.queries, task.train.store, task.modality, config.data, config.seed)
    for sampler.epoch in count():
        for rows in sampler:
            batch = collator(rows)
            batch.block = sampler.block(rows)
            yield batch


def _label(precision: str, compiled: bool) -> str:
    return f"{precision}, compiled" if compiled else precision


def _timed(steps: Mapping[str, Callable[[], None]], device: torch.device, repeats: int) -> str:
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    turns = {key: {"step": step} for key, step in steps.items()}
    found = interleaved(turns, device, repeats, seconds=float("inf"), calls=1)
    times = {key: Quantiles.of(of["step"]) for key, of in found.items()}
    first = next(iter(times.values())).p50
    rows = [[key, *(f"{ms:.0f}" for ms in (t.p20, t.p50, t.p80)), f"{t.p50 / first:.2f}"] for key, t in times.items()]
    return table(rows, ["step", "p20 ms", "p50 ms", "p80 ms", "share"])
