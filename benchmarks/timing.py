"""Times of functions that take turns."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

Function = Callable[[], object]
FEWEST_TURNS = 3


@dataclass(frozen=True)
class Quantiles:
    """Milliseconds that 20, 50 and 80 % of `count` calls took at most, and the least."""

    least: float
    p20: float
    p50: float
    p80: float
    count: int

    @staticmethod
    def of(times: list[float]) -> "Quantiles":
        """By linear interpolation between the sorted times.

        >>> Quantiles.of([5.0, 1.0, 3.0])
        Quantiles(least=1.0, p20=1.8, p50=3.0, p80=4.2, count=3)
        """
        least, p20, p50, p80 = np.quantile(times, (0.0, 0.2, 0.5, 0.8)).tolist()
        return Quantiles(least, p20, p50, p80, len(times))


def milliseconds(function: Function, device: torch.device) -> float:
    """Time of one call; on a GPU between two events, after its L2 cache was emptied of the inputs."""
    if device.type == "cuda":
        return _device_milliseconds(function, device)
    start = time.perf_counter_ns()
    function()
    return (time.perf_counter_ns() - start) / 1e6


def _device_milliseconds(function: Function, device: torch.device) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    _beside_the_cache(device).zero_()
    begin.record()
    function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


@lru_cache(maxsize=1)
def _beside_the_cache(device: torch.device) -> torch.Tensor:
    """Twice as many bytes as the L2 cache holds: writing them leaves nothing else in it."""
    size = torch.cuda.get_device_properties(device).L2_cache_size
    return torch.empty(2 * size, dtype=torch.uint8, device=device)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    contestants: Mapping[str, Mapping[str, Function]],
    device: torch.device,
    repeats: int,
    seconds: float,
    calls: int = 2,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, list[float]]]:
    """Time all functions of all contestants in turns, so that a disturbance hits all alike.

    A turn of a contestant: one call that is not counted, which brings its data back into the caches and the GPU's
    clock up, then `calls` counted calls of each of its functions.

    Args:
        contestants: functions by contestant and name; the last one of a contestant is also its warm-up.
        device: where they run.
        repeats: most turns of each contestant.
        seconds: the time they share from the second turn on: none after the third begins once it has passed. Whoever
            has spent a sixth of it (or their share, where they are fewer than six) leaves, after one turn at the
            earliest; so does, after three turns, whoever's turns take more than a fifteenth. The others get their
            repeats.
        calls: counted calls per turn; one where a call takes more than a sixtieth of `seconds`.
        tick: called after each round.

    Returns:
        Milliseconds of the counted calls.
    """
    times: dict[str, dict[str, list[float]]] = {key: {n: [] for n in of} for key, of in contestants.items()}
    spent = dict.fromkeys(contestants, 0.0)
    order = list(contestants)
    share = seconds / max(1, min(6, len(order)))
    begin = time.perf_counter()
    for turn in range(repeats):
        if turn == 1:
            begin = time.perf_counter()
        order = [key for key in order if turn == 0 or spent[key] <= share or turn >= FEWEST_TURNS]
        if turn >= FEWEST_TURNS:
            if time.perf_counter() - begin > seconds:
                break
            order = [key for key in order if spent[key] / turn <= seconds / 15]
        # Nobody always follows the same neighbour's traces in the caches.
        first = turn % max(len(order), 1)
        for key in order[first:] + order[:first]:
            start = time.perf_counter()
            warm_up = list(contestants[key].values())[-1]
            counted = 1 if milliseconds(warm_up, device) > 1e3 * seconds / 60 else calls
            for name, function in contestants[key].items():
                times[key][name] += [milliseconds(function, device) for _ in range(counted)]
            spent[key] += time.perf_counter() - start
        tick()
    return times
