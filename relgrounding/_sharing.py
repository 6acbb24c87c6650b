"""Work that the processes of a job share out among them."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from relgrounding._ranks import gather, is_joined, share, world_size
from relgrounding._signals import Interrupted

V = TypeVar("V")
R = TypeVar("R")


def shared(values: Sequence[V], work: Callable[[Sequence[V]], Iterable[R]]) -> list[R]:
    """Work on values, each process of a job on its share, and return the results of all, in order, in each of them.

    A signal to one of them ends it in all: the others would wait for what never comes.

    Args:
        values: what to work on; the same in each process.
        work: yields one result per value of a share, and may `look` for signals between them.

    Raises:
        Interrupted: a signal came to one of the processes.
    """
    if not is_joined():
        return list(work(values))
    mine: list[R] = []
    stopped: int | None = None
    try:
        mine.extend(work(share(values)))
    except Interrupted as stop:
        stopped = stop.number
    found = gather((stopped, mine))
    for number, _ in found:
        if number is not None:
            raise Interrupted(number)
    return [found[i % world_size()][1][i // world_size()] for i in range(len(values))]
