"""The random number generators that the pieces of a batch draw from."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from relgrounding.modalities import Cut

State = dict[str, Any]


class Draws:
    """States of the generators of the pieces that a process works on.

    Where batches are not cut, their steps draw from `generator` and PyTorch's as they are. Otherwise each piece has
    states of its own, drawn from the seed of the run, the number of pieces and that of the piece, so that it does not
    matter which process works on it. Pieces that take negatives from one another share the state of `generator`.

    Args:
        generator: of negatives and other draws of objectives, on the CPU.
        cut: how batches are cut.
        rank: of this process.
        seed: of the run.
        device: of the model.
    """

    def __init__(self, generator: torch.Generator, cut: Cut, rank: int, seed: int, device: torch.device) -> None:
        self.generator, self.cut, self.seed, self.device = generator, cut, seed, device
        self.numbers = range(rank * cut.accumulate, (rank + 1) * cut.accumulate)
        self._states = [self._current(n) if cut.total == 1 else self._drawn(n, 0) for n in self.numbers]
        if cut.parts == 1:  # one stream of negatives, as that of a process alone
            for state in self._states:
                state["negatives"] = generator.get_state()

    def _drawn(self, number: int, step: int) -> State:
        """Return new states of a piece, for a run that goes on from a step."""
        part = self.cut.part(number)
        seeds = {"negatives": (self.cut.parts, part), "torch": (self.cut.total, number)}
        if self.device.type == "cuda":
            seeds["cuda"] = seeds["torch"]
        state: State = {"part": part}
        for stream, (name, (count, own)) in enumerate(seeds.items()):
            made = torch.Generator(self.device if name == "cuda" else "cpu")
            state[name] = made.manual_seed(_seed(self.seed, count, own, step, stream)).get_state()
        return state

    def _current(self, number: int) -> State:
        """Return the states that the generators have."""
        found = {"negatives": self.generator.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            found["cuda"] = torch.cuda.get_rng_state(self.device)
        return {"part": self.cut.part(number), **found}

    def _set(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["negatives"])
        torch.set_rng_state(state["torch"])
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)

    @contextlib.contextmanager
    def of(self, piece: int) -> Iterator[None]:
        """Draw from the generators of a piece of this process, from 0."""
        if self.cut.total > 1:
            self._set(self._states[piece])
        yield
        if self.cut.total > 1:
            self._states[piece] = self._current(self.numbers[piece])

    def states(self) -> list[State]:
        """Return the states of each piece of this process."""
        return self._states if self.cut.total > 1 else [self._current(0)]

    def restore(self, states: Sequence[Mapping[str, Any]], step: int) -> bool:
        """Take the states of the pieces of all processes; where they were of other pieces, draw new ones.

        Args:
            states: of all pieces, by number.
            step: at which the run goes on.

        Returns:
            Whether the pieces are the same.
        """
        parts = [state["part"] for state in states]
        same = parts == [self.cut.part(n) for n in range(self.cut.total)]
        for piece, number in enumerate(self.numbers):
            state = dict(states[number]) if same else self._drawn(number, step)
            if set(parts) == set(range(self.cut.parts)):  # drawn from the same parts of a batch, by other processes
                state["negatives"] = states[parts.index(state["part"])]["negatives"]
            self._states[piece] = state
        if self.cut.total == 1:
            self._set(self._states[0])
        return same


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
