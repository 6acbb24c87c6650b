"""A step of training: losses of the pieces of a batch, gradients over all processes, clipping, update."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from relgrounding._ranks import everywhere, gather, is_joined, to_main
from relgrounding._signals import agree
from relgrounding.config import TrainConfig
from relgrounding.modalities import Batch, Piece
from relgrounding.objectives import Objective
from relgrounding.runs import RunError
from relgrounding.training._average import Average
from relgrounding.training._draws import Draws

Loaded = tuple[Piece, Batch | None]
"""A piece of a batch, and its tensors; None: it is empty."""


class Done(NamedTuple):
    """What a step came to, in all processes.

    Attributes:
        loss: of the batch, before the update.
        norm: of the gradient, before it was clipped.
        signal: number of a signal that came to any process.
    """

    loss: float
    norm: float
    signal: int | None


class Losses(nn.Module):
    """The sum of the losses of a stage's objectives; what DistributedDataParallel wraps.

    Args:
        objectives: by name; they hold the model.
        parameters: all that are trained.
    """

    def __init__(self, objectives: Mapping[str, Objective], parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.objectives = objectives
        # Registered without the rest of the model: what is frozen, or trained in a later stage, does not travel.
        self.trained = nn.ParameterList(parameters)
        # A loss has to depend on something, also that of an empty piece.
        self.nothing = nn.Parameter(torch.zeros((), device=parameters[0].device))

    def forward(self, batch: Batch | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a piece, and values to log."""
        if batch is None:
            return self.nothing * 0, {}
        losses: list[Tensor] = []
        logged: dict[str, Tensor] = {}
        for objective in self.objectives.values():
            loss, values = objective(batch)
            losses.append(loss)
            logged |= values
        total = sum(losses[1:], losses[0])
        return total if total.requires_grad else total + self.nothing, logged


class Step:
    """The steps of a stage.

    The gradient is that of the mean of the pieces' losses, weighted as `modalities.Cut` says, whatever the number of
    processes: each adds up the gradients of its own pieces, and DistributedDataParallel adds up those of the processes.

    Args:
        objectives: of the stage, by name.
        parameters: all that are trained.
        optimizer: of them.
        average: of them, over the steps.
        config: section `train`.
        draws: generators of the pieces.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        average: Average,
        config: TrainConfig,
        draws: Draws,
    ) -> None:
        self.objectives, self.parameters, self.optimizer = objectives, parameters, optimizer
        self.average, self.config, self.draws = average, config, draws
        self._logged: list[tuple[float, dict[str, Tensor]]] = []
        for objective in objectives.values():
            objective.split(len(draws.numbers))

    def __call__(self, pieces: Sequence[Loaded], rate: float, number: int) -> Done:
        """Update the parameters.

        Args:
            pieces: of the batch that are this process's.
            rate: learning rate.
            number: of the step, for messages.

        Raises:
            RunError: the gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._add_gradients(pieces)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
            self.average.update()
        (loss,), signal = agree([loss])
        if not finite:
            raise everywhere(
                RunError(
                    f"the gradient at step {number} is not finite (loss {loss}); lower train.learning_rate and give "
                    "the command again with --overwrite, or look for NaN in the features; last.pt is as it was last "
                    "written"
                )
            )
        return Done(loss, norm.item(), signal)

    def _add_gradients(self, pieces: Sequence[Loaded]) -> float:
        """Set the gradients to those of all pieces of all processes; return the share of the loss of this process."""
        self._logged, total, kind = [], 0.0, self.parameters[0].device.type
        # A process without queries takes part in the sum all the same.
        present = [i for i, (_, batch) in enumerate(pieces) if batch is not None] or [0]
        for i in present:
            piece, batch = pieces[i]
            with self.draws.of(i), self._adding_up(last=i == present[-1]):
                for objective in self.objectives.values():
                    objective.select(i)
                with torch.autocast(kind, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                    loss, logged = self._losses(batch)
                if piece.weight != 1 and batch is not None:
                    loss = loss * piece.weight
                loss.backward()
            total += loss.item()
            self._logged.append((piece.weight, logged))
        return total

    @cached_property
    def _losses(self) -> nn.Module:
        losses = Losses(self.objectives, self.parameters)
        if not is_joined():
            return losses
        # Finding unused parameters also keeps the buckets of gradients as they are, on whose layout the order of sums
        # depends: a resumed run would differ from an uninterrupted one in the last bits.
        parallel = DistributedDataParallel(losses, find_unused_parameters=True)
        parallel.register_comm_hook(None, lambda _, bucket: _sum(bucket))
        return parallel

    def _adding_up(self, last: bool) -> Any:
        """Leave gradients in this process until its last piece."""
        parallel = self._losses
        return contextlib.nullcontext() if last or not is_joined() else parallel.no_sync()  # type: ignore[operator]

    def logged(self) -> dict[str, float]:
        """Return the values that the objectives log, of the last step: means over the pieces, by weight."""
        own = [(weight, {name: v.item() for name, v in values.items()}) for weight, values in self._logged]
        found: dict[str, list[tuple[float, float]]] = {}
        for weight, values in (piece for process in gather(own) for piece in process):
            for name, value in values.items():
                found.setdefault(name, []).append((weight, value))
        return {name: sum(w * v for w, v in pairs) / sum(w for w, _ in pairs) for name, pairs in found.items()}

    def state(self) -> dict[str, Any]:
        """Return the parts of a checkpoint besides the model; those of all pieces in the main process alone."""
        own = []
        for i, state in enumerate(self.draws.states()):
            for objective in self.objectives.values():
                objective.select(i)
            apart = {name: o.state_dict() for name, o in self.objectives.items() if o.per_piece}
            own.append({"random": state, "objectives": apart})
        pieces = [piece for process in to_main(own) for piece in process]
        if not pieces:
            return {}
        first = pieces[0]["objectives"]
        common = {name: first.get(name) or o.state_dict() for name, o in self.objectives.items()}
        random = {name: value for name, value in pieces[0]["random"].items() if name != "part"}
        found = {"optimizer": self.optimizer.state_dict(), "random": random, "objectives": common}
        return found if len(pieces) == 1 else found | {"pieces": pieces}

    def restore(self, saved: Mapping[str, Any], step: int) -> bool:
        """Take the parts of a checkpoint; return whether it was of the same pieces, so that nothing is drawn anew."""
        whole = {"random": {"part": 0, **saved["random"]}, "objectives": saved["objectives"]}
        pieces = saved.get("pieces", [whole])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name, objective in self.objectives.items():
            if not objective.per_piece:
                objective.load_state_dict(saved["objectives"].get(name, {}))
                continue
            states = [piece["objectives"][name] for piece in pieces if name in piece["objectives"]]
            if states and len(states) != self.draws.cut.total:
                states = objective.dealt(states, self.draws.cut.total)
            for i, number in enumerate(self.draws.numbers):
                objective.select(i)
                objective.load_state_dict(states[number] if states else {})
        return self.draws.restore([piece["random"] for piece in pieces], step)


def _sum(bucket: dist.GradBucket) -> Any:
    """Add up the gradients of the processes; DistributedDataParallel alone would divide by their number."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])
