"""Batches in pieces: those that several processes work on at once, or one after another."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from relgrounding.modalities._batches import BatchSampler

KEPT = 2**20
"""Numbers of proposals that are kept."""


class Piece(NamedTuple):
    """A part of a batch.

    Attributes:
        queries: index of each query in its dataset; empty: nothing is to be done.
        weight: of its loss in that of the step; those of all pieces sum to 1.
        counts: number of queries of each process, if negatives come from all of them; empty: from this piece alone.
    """

    queries: list[int]
    weight: float
    counts: tuple[int, ...] = ()


class Cut(NamedTuple):
    """How batches are cut: into P = processes x accumulate pieces, of which piece p is that of process p // accumulate.

    A piece is a run of the batch's queries, in their order. Pieces have n / P of the n queries, or up to a quarter more
    or less where that keeps a block or a group of queries together, or gives each as many proposals as the others; and
    at least two, as one query has no negatives: of a batch of fewer than 2 P queries the last pieces are empty. The
    loss of a step is the mean of the losses of its pieces, each weighted by its number of queries.

    With `gather`, a batch is cut into `accumulate` parts in this way, and each part is shared out over the processes,
    which take negatives from all of it. A part with fewer queries than processes is done by all of them, with equal
    weights.

    Attributes:
        processes: their number.
        accumulate: pieces per process, one after another.
        gather: whether negatives come from all processes.
    """

    processes: int = 1
    accumulate: int = 1
    gather: bool = False

    @property
    def total(self) -> int:
        """P."""
        return self.processes * self.accumulate

    @property
    def parts(self) -> int:
        """Number of parts of a batch that negatives are drawn from, each by itself."""
        return self.accumulate if self.gather else self.total

    def part(self, number: int) -> int:
        """Return the part that a piece belongs to."""
        return number % self.accumulate if self.gather else number

    @property
    def least(self) -> int:
        """Smallest batch of which no piece is empty."""
        return max(2 * self.accumulate, self.processes) if self.gather else 2 * self.total

    def pieces(
        self,
        queries: Sequence[int],
        unit: Int[Tensor, " queries"],
        block: Int[Tensor, " queries"],
        proposals: Int[Tensor, " queries"] | None = None,
    ) -> list[Piece]:
        """Return the P pieces of a batch.

        Args:
            queries: of the batch, 2 or more.
            unit: what each query is to be kept together with, by number.
            block: likewise, if possible; -1 for none.
            proposals: number of those of each query's item; None: as many of each.
        """
        size, place = len(queries), list(range(len(queries)))
        work = torch.ones_like(unit) if proposals is None else proposals
        parts = _runs(place, unit, block, work, self.parts, 2)
        if not self.gather:
            return [Piece([queries[i] for i in part], len(part) / size) for part in parts]
        found: list[list[Piece]] = []
        for part in parts:
            if len(part) < self.processes:
                shared = [Piece([queries[i] for i in part], len(part) / size / self.processes)] * self.processes
            else:
                runs = _runs(part, unit, block, work, self.processes, 1)
                counts = tuple(map(len, runs)) if self.processes > 1 else ()
                shared = [Piece([queries[i] for i in run], len(run) / size, counts) for run in runs]
            found.append(shared)
        return [found[part][process] for process in range(self.processes) for part in range(self.accumulate)]


def _runs(places: list[int], unit: Tensor, block: Tensor, work: Tensor, count: int, least: int) -> list[list[int]]:
    """Cut places of a batch into `count` runs of `least` or more, or none at all for the last ones."""
    size = len(places)
    pieces = min(count, size // least)
    if not pieces:
        return [[]] * count
    whole = size // pieces
    reach = max(0, min(-(-whole // 4), (whole - least) // 2))
    where = torch.tensor(places)
    same_unit = unit[where[1:]] == unit[where[:-1]]
    same_block = (block[where[1:]] == block[where[:-1]]) & (block[where[1:]] >= 0)
    parted = [0, *(same_unit.int() + (same_unit | same_block).int()).tolist(), 0]
    done = [0, *work[where].cumsum(0).tolist()]
    bounds = [0]
    for piece in range(1, pieces):
        middle, share = piece * size // pieces, piece * done[-1]
        near = range(middle - reach, middle + reach + 1)
        bounds.append(min(near, key=lambda at: (parted[at], abs(done[at] * pieces - share), at)))
    bounds += [size] * (count - pieces + 1)
    return [places[start:end] for start, end in pairwise(bounds)]


class PieceSampler:
    """The pieces of a process, in the order of its steps; what is drawn is drawn alike in all of them.

    Args:
        sampler: of the batches.
        cut: how they are cut.
        rank: of the process.
        proposals: returns the number of those of a query's item, by the index of the query; None: as many of each.
    """

    def __init__(
        self, sampler: BatchSampler, cut: Cut, rank: int = 0, proposals: Callable[[int], int] | None = None
    ) -> None:
        self.sampler, self.cut, self.rank = sampler, cut, rank
        self.own = slice(rank * cut.accumulate, (rank + 1) * cut.accumulate)
        self._proposals = proposals and lru_cache(KEPT)(proposals)

    def all_steps(self) -> Iterator[list[Piece]]:
        """Yield the pieces of all processes for each step that is left of the epoch."""
        for batch in self.sampler:
            if self.cut.total == 1:
                yield [Piece(batch, 1.0)]
            else:
                units, blocks = self.sampler.units(batch), self.sampler.block(batch)
                counts = self._proposals and torch.tensor([self._proposals(i) for i in batch])
                yield self.cut.pieces(batch, units, blocks, counts)

    def steps(self) -> Iterator[list[Piece]]:
        """Yield the pieces of this process for each step that is left of the epoch."""
        return (pieces[self.own] for pieces in self.all_steps())
