"""Graceful termination of commands by signals."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from relgrounding._ranks import is_joined, is_main, summed, world_size

STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
]

REPEATED = 2.0
"""Seconds within which a process of a job takes the same signal twice for one: from a scheduler, and from torchrun."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Caught:
    """State while signals are caught."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.process = os.getpid()
        self.first: int | None = None
        self.came = 0.0
        self.last_words: Callable[[], str] | None = None
        self.saying = False
        """Its last line is being printed; one signal waits for that."""
        self.said = False


_caught: _Caught | None = None


@contextlib.contextmanager
def caught(words: str = "") -> Iterator[None]:
    """Let a signal raise `Interrupted` at the next `look`; a second one ends the process.

    Not immediately: an exception at an arbitrary point may leave a library in an inconsistent state or be replaced by
    another one.

    SIGINT is caught even if it is inherited as ignored, as by background jobs of a shell script; an ignored SIGHUP
    (nohup) stays ignored. Outside the main thread, where Python cannot install handlers, nothing changes.

    Args:
        words: printed about the state on disk if a second signal ends the process.
    """
    global _caught
    if _caught is not None:
        _caught.words = words or _caught.words
    if _caught is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    _caught = _Caught(words)
    try:
        for number in STOPPING:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _handle)
        yield
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _caught = None


@contextlib.contextmanager
def uncaught() -> Iterator[None]:
    """Within `caught`, let signals end the process at once again: for what never looks."""
    if _caught is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    caught_ones = [number for number in STOPPING if signal.getsignal(number) is _handle]
    for number in caught_ones:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        yield
    finally:
        for number in caught_ones:
            signal.signal(number, _handle)


@contextlib.contextmanager
def held(last_words: Callable[[], str]) -> Iterator[None]:
    """Catch signals, and look for one at the end of the block; in a job, all processes look together.

    Args:
        last_words: returns the text printed about the state on disk if a second signal ends the process.
    """
    with caught():
        state = _caught
        if state is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        outer, state.last_words = state.last_words, last_words
        try:
            yield
            look_together()
        finally:
            state.last_words = outer


def look() -> None:
    """Raise `Interrupted` if a signal has come."""
    if _caught is not None and _caught.first is not None:
        raise Interrupted(_caught.first)


def pending() -> int | None:
    """Return the number of the signal that has come, if any."""
    return _caught.first if _caught is not None else None


def agree(values: Sequence[float] = ()) -> tuple[list[float], int | None]:
    """Return the sum of each number over the processes of a job, and the number of a signal that came to any of them.

    All processes call it in step. A process without others has its own numbers.
    """
    if not is_joined():
        return list(values), pending()
    flags = [float(pending() == number) for number in STOPPING]
    sums = summed([*values, *flags])
    come = [number for number, flag in zip(STOPPING, sums[len(values) :], strict=True) if flag]
    return sums[: len(values)], next(iter(come), None)


def look_together() -> None:
    """Raise `Interrupted` in all processes of a job if a signal has come to any of them; they call it in step."""
    if (number := agree()[1]) is not None:
        raise Interrupted(number)


def ended(stop: KeyboardInterrupt, words: str) -> int:
    """Print one line on what ended a command and how to continue; return its exit status, 128 + the signal number.

    Of a job, the main process prints it.
    """
    traceback.clear_frames(stop.__traceback__)  # closes progress bars, which print when closed
    number = stop.number if isinstance(stop, Interrupted) else signal.SIGINT
    state = _caught or _Caught("")
    state.saying = not state.said
    if is_main():
        print(f"\nstopped by {signal.Signals(number).name}; {words}", file=sys.stderr, flush=True)
    state.said, state.saying = True, False
    return 128 + number


def run_command(main: Callable[..., int]) -> NoReturn:
    """Run a command as the main function of a process: signals after the first cannot disturb its end."""
    with caught():
        try:
            status = main()
        except KeyboardInterrupt as stop:  # where signals cannot be caught
            status = ended(stop, "the same command starts it")
        if _caught is not None and _caught.first is not None:
            sys.stdout.flush()
            os._exit(status)
    sys.exit(status)


def ignore_signals(_: int = 0) -> None:
    """Ignore signals in a loading process: the main process handles those to the whole group and ends its workers."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _handle(number: int, _: FrameType | None) -> None:
    state = _caught
    if state is None or os.getpid() != state.process:  # a loading process before it ignores signals
        return
    if state.first is not None:
        if number == state.first and world_size() > 1 and time.monotonic() - state.came < REPEATED:
            return
        if state.saying:
            state.saying = False
            return
        if not state.said and is_main():
            words = state.last_words() if state.last_words else state.words
            os.write(2, f"\nstopped at once by {signal.Signals(number).name}; {words}\n".encode())
        os._exit(128 + number)
    state.first, state.came = number, time.monotonic()
