"""A step of training: losses of the pieces of a batch, gradients over all processes, clipping, update."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from relgrounding._host import Numbers
from relgrounding._ranks import everywhere, gather, is_joined, is_main, to_main
from relgrounding._signals import agree, pending
from relgrounding._summing import Sum
from relgrounding.config import TrainConfig
from relgrounding.modalities import Batch, Piece
from relgrounding.objectives import Objective
from relgrounding.runs import RunError
from relgrounding.training._average import Average
from relgrounding.training._draws import Draws

Loaded = tuple[Piece, Batch | None]
"""A piece of a batch, and its tensors; None: it is empty."""


@dataclass
class Done:
    """What a step came to, in all processes.

    Attributes:
        number: of the step.
        numbers: its norm and its losses, which may still be on their way to the host.
        loss: of the batch, if it is known already.
        signal: number of a signal that came to any process.
        due: whether the main process is to write a checkpoint.
    """

    number: int
    numbers: Numbers
    loss: float | None
    signal: int | None
    due: bool

    def read(self) -> tuple[float, float]:
        """Return the loss of the batch, before the update, and the norm of the gradient, before it was clipped.

        Raises:
            RunError: the gradient is not finite.
        """
        norm, *losses = self.numbers.read()
        loss = sum(losses, 0.0) if self.loss is None else self.loss
        if math.isfinite(norm):
            return loss, norm
        raise everywhere(
            RunError(
                f"the gradient at step {self.number} is not finite (loss {loss}); lower train.learning_rate and give "
                "the command again with --overwrite, or look for NaN in the features; last.pt is as it was last "
                "written"
            )
        )


@contextmanager
def rounded_products(precision: str, device: str) -> Iterator[None]:
    """Multiply float32 matrices in TF32, forward and backward, if that is the precision and the device is CUDA."""
    if precision != "tf32" or device != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Gradients:
    """The gradients of parameters, one after another in a vector that is added up over processes.

    Args:
        parameters: all of one device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self._sizes = [parameter.numel() for parameter in parameters]
        self._sum = Sum(sum(self._sizes), parameters[0].dtype, parameters[0].device)
        self._of_vector: dict[int, list[Tensor]] = {}

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """Return views of a vector in the shapes of the parameters; `Sum` has few vectors."""
        if vector.data_ptr() not in self._of_vector:
            parts = zip(vector.split(self._sizes), self.parameters, strict=True)
            self._of_vector[vector.data_ptr()] = [part.view_as(parameter) for part, parameter in parts]
        return self._of_vector[vector.data_ptr()]

    @torch.no_grad()
    def give(self) -> list[float]:
        """Write those of this process; return for each parameter whether it has one: 1, or 0."""
        given = [parameter.grad for parameter in self.parameters]
        pairs = list(zip(self._parts(self._sum.own()), given, strict=True))
        if missing := [part for part, gradient in pairs if gradient is None]:
            torch._foreach_zero_(missing)
        filled = [(part, gradient) for part, gradient in pairs if gradient is not None]
        if filled:
            torch._foreach_copy_([part for part, _ in filled], [gradient for _, gradient in filled])
        return [float(gradient is not None) for gradient in given]

    def take(self, given: Sequence[float]) -> Tensor:
        """Set those of the parameters to the sum over the processes, in which a missing one is zero.

        Args:
            given: in how many processes each parameter has one; without any it gets none.

        Returns:
            The norm of all of them.
        """
        total = self._sum.total()
        for parameter, part, count in zip(self.parameters, self._parts(total), given, strict=True):
            parameter.grad = part if count else None
        return torch.linalg.vector_norm(total)


class Step:
    """The steps of a stage.

    The gradient is that of the mean of the pieces' losses, weighted as `modalities.Cut` says, whatever the number of
    processes: each adds up the gradients of its own pieces, and then those of the processes are added up at once.

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
        self.gradients = Gradients(parameters) if is_joined() else None
        self._logged: list[tuple[float, dict[str, Tensor]]] = []
        self._with_values = 1.0  # processes that have values to log
        for objective in objectives.values():
            objective.split(len(draws.numbers))

    def __call__(
        self,
        pieces: Sequence[Loaded],
        rate: float,
        number: int,
        due: bool = False,
        meanwhile: Callable[[], object] | None = None,
    ) -> Done:
        """Update the parameters.

        On a GPU, this does not wait for it; whether the gradient was finite is known once `Done.read` is called, which
        must be before the weights are used for anything but further steps.

        Args:
            pieces: of the batch that are this process's.
            rate: learning rate.
            number: of the step, for messages.
            due: whether a checkpoint is due; that of the main process counts in all of them.
            meanwhile: called in a job while this process waits for the others; it sends nothing.

        Raises:
            RunError: the gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._add_gradients(pieces)
        norm, loss, signal, due = self._meet(losses, due, meanwhile)
        self._clip(norm)
        done = Done(number, Numbers([norm, *losses]), loss, signal, due)
        if norm.device.type != "cuda":
            done.read()
        self.optimizer.step()
        self.average.update()
        done.signal = pending() if self.gradients is None else signal
        return done

    def _clip(self, norm: Tensor) -> None:
        """Scale the gradient to the norm that it may have.

        Args:
            norm: that it has.
        """
        most = self.config.clip_norm
        # Nearly all steps need none; the host of a GPU does not know.
        if norm.device.type != "cpu" or not norm < 0.99 * most:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, most, norm)

    def _add_gradients(self, pieces: Sequence[Loaded]) -> list[Tensor]:
        """Set the gradients to those of the pieces of this process, and return their losses."""
        self._logged, kind = [], self.parameters[0].device.type
        losses: list[Tensor] = []
        for i, (piece, batch) in enumerate(pieces):
            if batch is None:
                continue
            with self.draws.of(i), rounded_products(self.config.precision, kind):
                for objective in self.objectives.values():
                    objective.select(i)
                with torch.autocast(kind, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                    loss, logged = self._loss(batch)
                if piece.weight != 1:
                    loss = loss * piece.weight
                if loss.requires_grad:
                    loss.backward()
            losses.append(loss.detach())
            self._logged.append((piece.weight, logged))
        return losses

    def _meet(
        self, losses: Sequence[Tensor], due: bool, meanwhile: Callable[[], object] | None
    ) -> tuple[Tensor, float | None, int | None, bool]:
        """Set the gradients to their sums over all processes, which exchange all that they agree on.

        Returns:
            The norm of the gradients; in a job, the loss of all pieces and a signal to any process; and whether a
            checkpoint is due.
        """
        if self.gradients is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            return norm, None, None, due
        own = sum((loss.item() for loss in losses), 0.0)
        flags = float(any(values for _, values in self._logged)), float(due and is_main())
        (total, self._with_values, dues, *given), signal = agree([own, *flags, *self.gradients.give()], meanwhile)
        return self.gradients.take(given), total, signal, dues > 0

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses of the objectives, and values to log."""
        losses: list[Tensor] = []
        logged: dict[str, Tensor] = {}
        for objective in self.objectives.values():
            loss, values = objective(batch)
            losses.append(loss)
            logged |= values
        return sum(losses[1:], losses[0]), logged

    def logged(self) -> dict[str, float]:
        """Return the values that the objectives log, of the last step: means over the pieces, by weight."""
        if not self._with_values:  # gathering them would let processes wait for each other
            return {}
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
        for parameter, moments in self.optimizer.state.items():
            if any(isinstance(v, Tensor) and v.shape not in ((), parameter.shape) for v in moments.values()):
                raise ValueError("the state of the optimizer is that of other weights")
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
