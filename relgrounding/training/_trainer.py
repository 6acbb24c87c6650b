"""The training loop."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import tee
from typing import Any, Generic, TypeVar

import torch

from relgrounding._files import clear_parts
from relgrounding._heap import keep_freed_memory
from relgrounding._printing import counted, note, printable, progress, show
from relgrounding._ranks import is_joined, is_main, on_main, rank, take_from_main
from relgrounding._signals import Interrupted, held, look_together
from relgrounding.config import Config, ConfigError
from relgrounding.modalities import OneQueryPerItem, PieceSampler, make_loader, proposal_counter, training_batches
from relgrounding.models import compile_pieces, first_member
from relgrounding.objectives import Objective
from relgrounding.predictor import usable_device
from relgrounding.runs import RunError, RunFolder
from relgrounding.training._average import Average
from relgrounding.training._draws import Draws
from relgrounding.training._evaluate import LAST, validation_metrics
from relgrounding.training._negatives import job_cut
from relgrounding.training._resume import check_teacher, check_words, load_whole, stage_is_over
from relgrounding.training._same import check_same
from relgrounding.training._schedule import learning_rate_factor, planned, stages
from relgrounding.training._step import Done, Loaded, Step
from relgrounding.training._task import Task, build_model, check_backend

T = TypeVar("T")


class _Ahead(Generic[T]):
    """An iterator, not over None, whose next value can be fetched before it is asked for."""

    def __init__(self, values: Iterator[T]) -> None:
        self._values = values
        self._fetched: deque[T | None] = deque()

    def fetch(self) -> None:
        if not self._fetched:
            self._fetched.append(next(self._values, None))

    def __iter__(self) -> "_Ahead[T]":
        return self

    def __next__(self) -> T:
        self.fetch()
        if (value := self._fetched.popleft()) is None:
            raise StopIteration
        return value

    def close(self) -> None:
        """Let go of the values, and of the processes that load them."""
        self._values, self._fetched = iter(()), deque()


class Trainer:
    """Train a run until its last epoch, an early stop or an interruption.

    The first stage trains on `train.objectives`, MIL by default. If a later objective has epochs (`ccl.epochs`),
    another stage follows with a new optimizer. It starts from the best epoch of the previous stage (kept as `mil.pt`)
    or of the run `start_from`, and `best.pt` becomes its best epoch. A stage may train a fresh member of a committee;
    the members before it are frozen, and answer with it in validation.

    SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop it between two steps or two validation batches.
    `last.pt` always holds the state after a complete step; a run resumed from it with the same settings on the same
    device ends with the same weights, log and predictions as an uninterrupted one.

    The processes of a job (`_ranks.joined`) train together, each on its pieces of every batch (`modalities.Cut`), and
    the main one writes. A signal to any of them stops all after the same step.

    Args:
        task: data to train on.
        folder: of the run.
        resume: continue from `last.pt`.
        quiet: without progress bars.

    Raises:
        RunError: `resume` without a checkpoint, with settings or data other than those of the run, or with a damaged
            checkpoint; no `resume`, but the folder holds a run.
    """

    def __init__(self, task: Task, folder: RunFolder, resume: bool = False, quiet: bool = False) -> None:
        if not resume:
            on_main(folder.check_new)
        self.task, self.folder, self.quiet = task, folder, quiet
        self.config: Config = task.config
        keep_freed_memory()
        # Before the model is built: the settings may describe another one.
        saved = on_main(load_whole, folder, task.config) if resume else None
        self.fingerprint = task.fingerprint()
        check_same(self.fingerprint, "read other data")
        torch.manual_seed(self.config.seed)
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.device = usable_device(self.config.device)
        check_backend(self.config)
        check_precision(self.config, self.device)
        self.model = build_model(task).to(self.device)
        collator = task.collator(task.train)
        self.sampler = training_batches(
            task.train.queries, task.train.store, task.modality, self.config.data, self.config.seed
        )
        self.cut = job_cut(self.config)
        count = proposal_counter(task.train.queries, task.train.store, task.modality)
        self.pieces = PieceSampler(self.sampler, self.cut, rank() if is_joined() else 0, count)
        self.collator = collator
        self.steps_per_epoch = len(self.sampler)
        if saved is None or saved["model"].keys() != self.model.state_dict().keys():  # members that it lacks are new
            items = OneQueryPerItem(collator.queries, self.config.eval.batch_size)
            self.model.fit(make_loader(collator, items, self.config.data.workers))
        take_from_main(self.model.state_dict().values())
        self.state: dict[str, Any] = {
            "epoch": 0,
            "step": 0,
            "stage": 1,
            "stage_start": 0,
            "best": -1.0,
            "best_epoch": -1,
            "seconds": 0.0,
            "finished": False,
            "losses": [],
        }
        self._batches: _Ahead[list[Loaded]] = _Ahead(iter(()))
        self._between_steps = True
        self._done: Done | None = None
        self._norm = 0.0
        self._saved = time.monotonic()
        self.draws = Draws(self.generator, self.cut, self.pieces.rank, self.config.seed, self.device)
        self.stages = stages(self.config)
        first = len(self.stages) - len(planned(self.config)) + 1
        self._begin_stage(1)
        if saved is not None:
            self._restore(saved)
        elif first > 1:
            self._begin_stage(first, RunFolder(self.stages[first - 1].start_from))

    def _begin_stage(self, number: int, start: RunFolder | None = None) -> None:
        """Prepare a stage; with `start`, from the weights of the best epoch of that run."""
        self.stage = self.stages[number - 1]
        if start is not None:
            self._take_weights(start)
            take_from_main(self.model.state_dict().values())
        self.state |= {"stage": number, "stage_start": self.state["epoch"], "best": -1.0, "best_epoch": -1}
        self.trained = self.model.begin(self.stage.member)
        train = self.config.train
        betas = train.betas[0], train.betas[1]
        model, sections = self.model if self.stage.member else self.trained, self.config.sections
        objectives = {kind.name: kind(model, sections, self.generator) for kind in self.stage.objectives}
        own = (parameter for objective in objectives.values() for parameter in objective.parameters())
        parameters = [*self.trained.parameters(), *own]
        optimizer = torch.optim.Adam(
            parameters, lr=self.stage.learning_rate, betas=betas, weight_decay=train.weight_decay, fused=True
        )
        if train.compile:
            compile_pieces(self.trained)
        self.average = Average(parameters, train.ema)
        self.step = Step(objectives, parameters, optimizer, self.average, train, self.draws)

    @property
    def objectives(self) -> dict[str, Objective]:
        """Objectives of the stage, by name."""
        return dict(self.step.objectives)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Optimizer of the stage."""
        return self.step.optimizer

    def _take_weights(self, start: RunFolder) -> None:
        saved = on_main(start.load, "best.pt")
        if saved["vocabulary"] != self.task.vocabulary.to_list():
            raise RunError(
                f"{start.path} was trained with another vocabulary; stage 2 needs the same: pass it to make_task"
            )
        if start is not self.folder:
            on_main(check_words, start, self.config)
            saved |= {"model": first_member(saved["model"])}
            if self.stage.member:
                on_main(check_teacher, start, self.config)
        start.restore(self.model, saved, "best.pt")

    def run(self) -> None:
        """Train until the end.

        A signal, or Ctrl-C in a notebook, stops training after the current step: `last.pt` is written and
        `KeyboardInterrupt` raised. A second signal ends the process immediately and leaves `last.pt` unchanged.

        Raises:
            KeyboardInterrupt: see above.
            OSError: a file could not be written; `last.pt` is intact.
        """
        state, folder = self.state, self.folder
        if state["finished"]:
            on_main(clear_parts, folder.path)
            return
        with held(self._last_words):
            on_main(self._prepare_folder)
            if not on_main(lambda: folder.started):
                self._save("last.pt")
            if not self.quiet:
                show(self._description())
            self._clock = time.perf_counter()
            try:
                if stage_is_over(state, self.config):
                    self._end_stage()
                while not state["finished"]:
                    self._epoch()
            except KeyboardInterrupt:
                # Interruptions other than those of `look` may come at any point, where the last checkpoint must stay.
                if self._between_steps:
                    self._save("last.pt")
                raise

    def _prepare_folder(self) -> None:
        folder, state = self.folder, self.state
        for name in ("results.json", "predictions.jsonl"):  # of an earlier end, if the run is extended
            (folder.path / name).unlink(missing_ok=True)
        folder.write_config(self.config, self.device)
        folder.rewind(state["step"], state["epoch"])

    def _description(self) -> str:
        """Return what the run computes with, and on what."""
        config, device = self.config, str(self.device)
        if self.device.type == "cuda":
            device += f", {torch.cuda.get_device_name(self.device)}"
        elif self.device.type == "cpu":
            device += f", {counted(torch.get_num_threads(), 'thread')}"
        members = config.committee.members
        reading = any(map(config.system.reads_graph, members))
        kernels = config.backend if reading else "none: the model has no relation module"
        compiled = ", the rest by torch.compile" if config.train.compile else ""
        systems = f" in {len(members)} systems" if len(members) > 1 else ""
        parameters = list(self.model.parameters())
        types = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
        steps = {"tf32": ", matrix products of steps in TF32", "bfloat16": ", steps in bfloat16 by autocast"}
        short = "" if config.train.precision in types else steps.get(config.train.precision, "")
        facts = {
            "device": device,
            "precision": ", ".join(types) + short,
            "backend": kernels + compiled,
            "parameters": f"{sum(parameter.numel() for parameter in parameters if parameter.requires_grad):,}{systems}",
            "queries": f"{len(self.task.train.queries):,} to train on, {len(self.task.validation.queries):,} held out",
            "kept in": str(self.folder.path),
        }
        if self.cut.total > 1:
            facts["processes"] = f"{self.cut.processes}, each batch in {counted(self.cut.total, 'piece')}"
        return "\n".join(f"{name:<12}{printable(fact)}" for name, fact in facts.items())

    def _last_words(self) -> str:
        if is_main():
            clear_parts(self.folder.path)
        return self.folder.progress()

    def _loaded(self) -> Iterator[list[Loaded]]:
        """Yield the pieces of this process for each step that is left of the epoch, with their tensors."""
        steps, ahead = tee(self.pieces.steps())
        queries = (piece.queries for pieces in ahead for piece in pieces if piece.queries)
        batches = iter(make_loader(self.collator, queries, self.config.data.workers))
        for pieces in steps:
            step: list[Loaded] = []
            for piece in pieces:
                batch = next(batches) if piece.queries else None
                if batch is not None:
                    batch.block, batch.counts = self.sampler.block(batch.queries), piece.counts
                    batch = batch.to(self.device)
                step.append((piece, batch))
            yield step

    def _epoch(self) -> None:
        config, state = self.config.train, self.state
        self.model.train()
        self.sampler.epoch = state["epoch"]
        self.sampler.start = state["step"] - state["epoch"] * self.steps_per_epoch
        self._epoch_began = state["seconds"]
        self._batches = _Ahead(self._loaded())
        bar = progress(
            self._batches,
            desc=f"{self._stage_name}epoch {state['epoch'] - state['stage_start'] + 1}/{self.stage.epochs}",
            total=self.steps_per_epoch,
            initial=self.sampler.start,
            unit="batch",
            quiet=self.quiet,
        )
        # An interruption that ends the epoch early must not leave loading processes, for which Python would wait.
        with closing(self._batches), bar:
            look_together()
            for pieces in bar:
                done = self._step(pieces)
                state["step"] += 1
                self._between_steps = True
                if state["step"] % config.log_every == 0:
                    self._settle()
                    losses = state["losses"]
                    recent = sum(losses[-config.log_every :]) / len(losses[-config.log_every :])
                    best = {"best": f"{state['best']:.1f}"} if state["best_epoch"] > 0 else {}
                    bar.set_postfix({"loss": f"{recent:.4f}"} | best, refresh=False)
                    rate = self.optimizer.param_groups[0]["lr"]
                    values = {"loss": recent, "learning_rate": rate, "gradient_norm": self._norm}
                    self._log(values | self.step.logged())
                if done.due or (config.save_every > 0 and state["step"] % config.save_every == 0):
                    self._save("last.pt")
                if done.signal is not None:
                    raise Interrupted(done.signal)
        self._finish_epoch()

    @property
    def _stage_name(self) -> str:
        return f"stage {self.state['stage']}, " if self.state["stage"] > 1 else ""

    def _step(self, pieces: list[Loaded]) -> Done:
        self._between_steps = False
        config, number = self.config.train, self.state["step"]
        total, start = self.stage.epochs * self.steps_per_epoch, self.state["stage_start"] * self.steps_per_epoch
        shape = config.schedule, config.halve_every
        factor = learning_rate_factor(number - start, config.warmup_steps, total, *shape)
        due = 0 < 60 * config.save_minutes <= time.monotonic() - self._saved
        done = self.step(pieces, self.stage.learning_rate * factor, number, due, self._batches.fetch)
        self._settle()
        self._done = done
        if self.device.type != "cuda":
            self._settle()
        return done

    def _settle(self) -> None:
        """Take up the loss of the last step, for which this waits on a GPU; without it, the one before is taken up.

        Raises:
            RunError: its gradient is not finite.
        """
        done, self._done = self._done, None
        if done is not None:
            loss, self._norm = done.read()
            self.state["losses"].append(loss)

    def _finish_epoch(self) -> None:
        """Validate and write the checkpoints; the epoch is not finished before the metrics are computed."""
        self._settle()
        state = self.state
        with self.average.applied():
            name, metrics = validation_metrics(self.model, self.task, quiet=self.quiet)
        # Without right answers no epoch is known to be better: the last one counts.
        value = metrics.get(name) if metrics else float(state["epoch"] + 1)
        if value is None:
            raise RunError(f"train.select_metric: there is no metric {name!r}; the metrics are {', '.join(metrics)}")
        self._between_steps = False
        check_same(list(self.model.parameters()), "have other weights at the end of an epoch")
        loss = sum(state["losses"]) / max(1, len(state["losses"]))
        state["losses"] = []
        state["epoch"] += 1
        self._log({f"validation/{k}": v for k, v in metrics.items()} | {"epoch_loss": loss})
        last, better = self.config.train.select_metric == LAST, value > state["best"]
        if better or last:
            state["best"], state["best_epoch"] = value, state["epoch"]
            with self.average.applied():
                self._save("best.pt")
        seconds = state["seconds"] - self._epoch_began
        told = (
            f"{self._stage_name}epoch {state['epoch'] - state['stage_start']}: loss {loss:.4f}, "
            f"{f'validation {name} {value:.1f}' if metrics else 'no right answers to validate on'}"
            f"{' (best so far)' if better and not last else ''}, {seconds:.0f} s"
        )
        if stage_is_over(state, self.config):
            self._end_stage()
        self._save("last.pt")
        self._between_steps = True
        if not self.quiet:  # last, as standard output may be gone
            note(told)

    def _end_stage(self) -> None:
        """Begin the next stage, or finish the run."""
        number = self.state["stage"]
        if number < len(self.stages):
            on_main(self.folder.keep, "best.pt", self.stage.kept)
            self._begin_stage(number + 1, self.folder)
        else:
            self.state["finished"] = True

    def _log(self, values: dict[str, float]) -> None:
        state = self.state
        now = time.perf_counter()
        state["seconds"] += now - self._clock
        self._clock = now
        progress = {name: state[name] for name in ("step", "epoch", "stage")}
        if is_main():
            self.folder.log(progress | {"seconds": round(state["seconds"], 2)} | values)

    def _save(self, name: str) -> None:
        """Write a checkpoint, with the states of the pieces of all processes."""
        self._settle()
        step = self.step.state()
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "state": dict(self.state),
            "vocabulary": self.task.vocabulary.to_list(),
            "data": self.fingerprint,
        }
        if name == "last.pt":
            self._saved = time.monotonic()
            if self.config.train.ema:
                step["average"] = self.average.state_dict()
        on_main(lambda: self.folder.save(name, state | step))

    def _restore(self, saved: dict[str, Any]) -> None:
        path = self.folder.path / "last.pt"
        was = saved.get("data", self.fingerprint)  # missing in checkpoints of earlier versions
        other = [key for key in {**was, **self.fingerprint} if was.get(key) != self.fingerprint.get(key)]
        if other:
            raise RunError(
                f"{self.folder.path} was started on other data: {', '.join(other)} changed since; resume it on the "
                "original data, or give this run another name with name=..."
            )
        if saved["vocabulary"] != self.task.vocabulary.to_list():
            raise RunError(f"{path} was trained with another vocabulary; --resume needs the same data")
        step, epoch = saved["state"]["step"], saved["state"]["epoch"]
        if not 0 <= step - epoch * self.steps_per_epoch <= self.steps_per_epoch:
            done = f"{counted(epoch, 'epoch')} of {counted(self.steps_per_epoch, 'step')}"
            raise RunError(f"{path} cannot be restored: after {done} it cannot be at step {step}")
        if saved["state"]["stage"] > 1:
            self._begin_stage(saved["state"]["stage"])
        self.folder.restore(self.model, saved, "last.pt")
        self.state.update(saved["state"])
        try:
            self.average.load_state_dict(saved.get("average", {}))
            if not self.step.restore(saved, self.state["step"]) and not self.quiet:
                pieces = counted(len(saved.get("pieces", [saved])), "piece")
                note(f"batches were cut into {pieces}, now into {self.cut.total}: random draws differ from here on")
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{path} cannot be restored: {type(error).__name__}: {str(error).splitlines()[0]}") from None


def check_precision(config: Config, device: torch.device) -> None:
    """Raise ConfigError if a device cannot train in the precision of a run."""
    if config.train.precision != "bfloat16" or device.type == "cpu":
        return
    if device.type != "cuda" or not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"train.precision is bfloat16, which {device} cannot compute in; use train.precision=float32")
