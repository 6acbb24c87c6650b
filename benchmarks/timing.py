"""Times of functions that take turns."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Function = Callable[[], object]
MILLISECONDS = 1e-6
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

        >>> Quantiles.of([3.0, 1.0, 2.0])
        Quantiles(least=1.0, p20=1.4, p50=2.0, p80=2.6, count=3)
        """
        ordered = sorted(times)

        def at(share: float) -> float:
            place = share * (len(ordered) - 1)
            low = math.floor(place)
            high = min(low + 1, len(ordered) - 1)
            return ordered[low] + (place - low) * (ordered[high] - ordered[low])

        return Quantiles(ordered[0], at(0.2), at(0.5), at(0.8), len(ordered))


def milliseconds(function: Function, device: torch.device) -> float:
    """Time of one call; on a GPU until the device has done it."""
    synchronize(device)
    start = time.perf_counter_ns()
    function()
    synchronize(device)
    return (time.perf_counter_ns() - start) * MILLISECONDS


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
) -> dict[str, dict[str, Quantiles]]:
    """Time all functions of all contestants in turns, so that a disturbance hits all alike.

    A turn of a contestant: one call that is not counted, which brings its data back into the caches and the GPU's
    clock up, then `calls` counted calls of each of its functions.

    Args:
        contestants: functions by contestant and name; the last one of a contestant is also its warm-up.
        device: where they run.
        repeats: most turns of each contestant.
        seconds: the time they share from the second turn on: none after the third begins once it has passed. Whoever
            has spent a sixth of it (more, where they are fewer than six) leaves, after one turn at the earliest, and so
            does after three turns whose turns take more than a fifteenth; the others get their repeats.
        calls: counted calls a turn; one where a call takes more than a sixtieth of `seconds`.
        tick: called after each round.
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
            _take_turn(contestants[key], times[key], device, calls, seconds / 60)
            spent[key] += time.perf_counter() - start
        tick()
    return {key: {name: Quantiles.of(t) for name, t in of.items()} for key, of in times.items()}


def _take_turn(
    functions: Mapping[str, Function], times: dict[str, list[float]], device: torch.device, calls: int, slow: float
) -> None:
    if milliseconds(functions[list(functions)[-1]], device) > 1e3 * slow:
        calls = 1
    for name, function in functions.items():
        times[name] += [milliseconds(function, device) for _ in range(calls)]
