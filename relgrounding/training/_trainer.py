"""The training loop."""

import time
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from relgrounding._printing import printable
from relgrounding.config import Config
from relgrounding.data.batches import Batch, BatchSampler, make_loader
from relgrounding.training._ccl_step import CounterfactualStep
from relgrounding.training._evaluate import validation_metrics
from relgrounding.training._runs import RunError, RunFolder
from relgrounding.training._step import learning_rate_factor, mil_step
from relgrounding.training._task import Task, build_model, usable_device


class Trainer:
    """Train one run to its end, an early stop or an interruption.

    Stage 1 is MIL. Where `ccl.epochs` asks for it, stage 2 follows: it starts from the best epoch of stage 1 (kept as
    `mil.pt`), or of the run that `ccl.start_from` names, with an optimizer of its own, and `best.pt` is from then on
    the best epoch of stage 2.

    Args:
        task: what to train on.
        folder: where the run is kept.
        resume: continue from `last.pt`.
        quiet: without progress bars.

    Raises:
        RunError: `resume` without a checkpoint, or a run folder in use without `resume`.
    """

    def __init__(self, task: Task, folder: RunFolder, resume: bool = False, quiet: bool = False) -> None:
        if folder.started and not resume:
            raise RunError(
                f"{folder.path} holds a run: continue it with --resume, replace it with --overwrite, or give "
                f"this one another name with name=..."
            )
        self.task, self.folder, self.quiet = task, folder, quiet
        self.config: Config = task.config
        torch.manual_seed(self.config.seed)
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.device = usable_device(self.config.device)
        self.model = build_model(task).to(self.device)
        collator = task.collator(task.train)
        self.sampler = BatchSampler(collator.group, self.config.data.batch_size, self.config.seed)
        self.loader = make_loader(collator, self.sampler, self.config.data.workers)
        self.steps_an_epoch = len(self.sampler)
        self.state: dict[str, Any] = {
            "epoch": 0,
            "step": 0,
            "stage": 1,
            "stage_start": 0,
            "best": -1.0,
            "best_epoch": -1,
            "seconds": 0.0,
            "finished": False,
        }
        self._begin_stage(1)
        if resume:
            self._restore()
        elif self.config.ccl.epochs and self.config.ccl.start_from:
            self._begin_stage(2, RunFolder(self.config.ccl.start_from))

    def _begin_stage(self, stage: int, start: RunFolder | None = None) -> None:
        """Prepare a stage; the second one takes its weights from the best epoch of a run, if one is given."""
        if start is not None:
            self._take_weights(start)
        self.state |= {"stage": stage, "stage_start": self.state["epoch"], "best": -1.0, "best_epoch": -1}
        ccl, train = self.config.ccl, self.config.train
        self.epochs, rate = (train.epochs, train.learning_rate) if stage == 1 else (ccl.epochs, ccl.learning_rate)
        self.learning_rate = rate
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
        self.counterfactual = CounterfactualStep(self.model, ccl, train, self.generator) if stage == 2 else None

    def _take_weights(self, start: RunFolder) -> None:
        saved = start.load("best.pt")
        if saved["vocabulary"] != self.task.vocabulary.to_list():
            raise RunError(
                f"{start.path} was trained on other words; stage 2 needs its vocabulary: make the task with it"
            )
        try:
            self.model.load_state_dict(saved["model"])
        except RuntimeError as error:
            raise RunError(
                f"the model of {start.path} is another one than model.* describes: {str(error).splitlines()[1].strip()}"
            ) from None

    def run(self) -> None:
        """Train; on Ctrl-C write `last.pt` and pass the interruption on."""
        self.folder.write_config(self.config)
        writer = SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=self.state["step"])
        self._clock = time.perf_counter()
        try:
            while not self.state["finished"]:
                self._epoch(writer)
        except KeyboardInterrupt:
            self._save("last.pt")
            raise
        finally:
            writer.close()

    def _epoch(self, writer: SummaryWriter) -> None:
        config, state = self.config.train, self.state
        self.model.train()
        self.sampler.epoch = state["epoch"]
        self.sampler.start = state["step"] - state["epoch"] * self.steps_an_epoch
        bar = tqdm(
            self.loader,
            desc=f"{self._stage_name}epoch {state['epoch'] - state['stage_start'] + 1}/{self.epochs}",
            total=self.steps_an_epoch,
            initial=self.sampler.start,
            unit="batch",
            disable=self.quiet,
            leave=False,
        )
        losses: list[float] = []
        for batch in bar:
            loss, norm, extra = self._step(batch.to(self.device))
            losses.append(loss)
            state["step"] += 1
            if state["step"] % config.log_every == 0:
                recent = sum(losses[-config.log_every :]) / len(losses[-config.log_every :])
                bar.set_postfix({"loss": f"{recent:.4f}", "best": f"{state['best']:.1f}"})
                rate = self.optimizer.param_groups[0]["lr"]
                values = {"loss": recent, "learning_rate": rate, "gradient_norm": norm}
                self._log(writer, values | {name: value.item() for name, value in extra.items()})
        self.sampler.start = 0
        self._finish_epoch(writer, losses)

    @property
    def _stage_name(self) -> str:
        return "stage 2, " if self.state["stage"] == 2 else ""

    def _step(self, batch: Batch) -> tuple[float, float, dict[str, torch.Tensor]]:
        config = self.config.train
        total, start = self.epochs * self.steps_an_epoch, self.state["stage_start"] * self.steps_an_epoch
        for group in self.optimizer.param_groups:
            factor = learning_rate_factor(self.state["step"] - start, config.warmup_steps, total)
            group["lr"] = self.learning_rate * factor
        extra: dict[str, torch.Tensor] = {}
        if self.counterfactual is None:
            loss = mil_step(self.model, batch, config, self.generator)
        else:
            loss, extra = self.counterfactual(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        if not torch.isfinite(norm):
            raise RunError(
                f"the gradient at step {self.state['step']} is not finite (loss {loss.item()}); lower "
                f"train.learning_rate, or look for NaN in the features; last.pt is as it was after the last epoch"
            )
        self.optimizer.step()
        return loss.item(), norm.item(), extra

    def _finish_epoch(self, writer: SummaryWriter, losses: list[float]) -> None:
        config, state = self.config.train, self.state
        state["epoch"] += 1
        name, metrics = validation_metrics(self.model, self.task, quiet=self.quiet)
        loss = sum(losses) / max(1, len(losses))
        self._log(writer, {f"validation/{k}": v for k, v in metrics.items()} | {"epoch_loss": loss})
        # Without right answers nothing tells a better epoch from a worse one: the last one counts.
        value = metrics.get(name) if metrics else float(state["epoch"])
        if value is None:
            raise RunError(f"train.select_metric: there is no {name!r}; there is {', '.join(metrics)}")
        better = value > state["best"]
        if better:
            state["best"], state["best_epoch"] = value, state["epoch"]
        waited = state["epoch"] - state["best_epoch"]
        done = state["epoch"] - state["stage_start"] >= self.epochs or waited >= config.patience
        if better:
            self._save("best.pt")
        if not self.quiet:
            seconds = state["seconds"]
            tqdm.write(
                f"{self._stage_name}epoch {state['epoch'] - state['stage_start']}: loss {loss:.4f}, "
                f"{f'validation {printable(name)} {value:.1f}' if metrics else 'no right answers to validate on'}"
                f"{' (best so far)' if better else ''}, {seconds:.0f} s"
            )
        if done and state["stage"] == 1 and self.config.ccl.epochs:
            self.folder.keep("best.pt", "mil.pt")
            self._begin_stage(2, self.folder)
        else:
            state["finished"] = done
        self._save("last.pt")

    def _log(self, writer: SummaryWriter, values: dict[str, float]) -> None:
        state = self.state
        now = time.perf_counter()
        state["seconds"] += now - self._clock
        self._clock = now
        for key, value in values.items():
            writer.add_scalar(key, value, state["step"])
        self.folder.log(
            {"step": state["step"], "epoch": state["epoch"], "seconds": round(state["seconds"], 2)} | values
        )

    def _save(self, name: str) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": dict(self.state),
            "vocabulary": self.task.vocabulary.to_list(),
            "random": {"torch": torch.get_rng_state(), "negatives": self.generator.get_state()},
        }
        if self.counterfactual is not None:
            state["banks"] = self.counterfactual.state_dict()
        self.folder.save(name, state)

    def _restore(self) -> None:
        saved = self.folder.load("last.pt")
        if saved["vocabulary"] != self.task.vocabulary.to_list():
            raise RunError(f"{self.folder.path}/last.pt was trained on other words; --resume needs the same data")
        if saved["state"].get("stage") == 2:
            self._begin_stage(2)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state.update(saved["state"])
        if self.counterfactual is not None:
            self.counterfactual.load_state_dict(saved["banks"])
        torch.set_rng_state(saved["random"]["torch"])
        self.generator.set_state(saved["random"]["negatives"])
