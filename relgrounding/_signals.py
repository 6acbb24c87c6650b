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
"""Seconds within which a process of a job takes the same signal twice for one: from a scheduler, and from torchrun; and
which the last line may take to be printed."""
AGAIN = "the same command starts it"


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
        self.words = words or AGAIN
        self.process = os.getpid()
        self.first: int | None = None
        self.came = 0.0
        self.seen = False
        """Somebody was told of the first signal."""
        self.last_words: Callable[[], str] | None = None
        self.saying = 0.0
        """When its last line began to be printed, for which further signals wait; 0: it is not being printed."""
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
    state = _caught = _Caught(words)
    try:
        _install(before)
        yield
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _caught = None
        if state.first is not None and not state.seen:  # it came after the last `look`
            signal.raise_signal(state.first)


def _install(before: dict[int, Any]) -> None:
    """Catch signals, and put the handlers that they had into `before`."""
    for number in STOPPING:
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _handle)


@contextlib.contextmanager
def uncaught() -> Iterator[None]:
    """Within `caught`, let signals end the process at once again: for what never looks.

    A second SIGINT ends it as within `caught`, so that it does not disturb what the first one does.

    Raises:
        Interrupted: a signal has come before.
    """
    if _caught is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    caught_ones = [number for number in STOPPING if signal.getsignal(number) is _handle]
    for number in caught_ones:
        signal.signal(number, _interrupt if number == signal.SIGINT else signal.SIG_DFL)
    try:
        look()
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
    if (number := pending()) is not None:
        raise Interrupted(number)


def pending() -> int | None:
    """Return the number of the signal that has come, if any."""
    if _caught is None or _caught.first is None:
        return None
    _caught.seen = True
    return _caught.first


def agree(
    values: Sequence[float] = (), meanwhile: Callable[[], object] | None = None
) -> tuple[list[float], int | None]:
    """Return the sum of each number over the processes of a job, and the number of a signal that came to any of them.

    All processes call it in step. A process without others has its own numbers.

    Args:
        values: the numbers of this process.
        meanwhile: see `summed`.
    """
    if not is_joined():
        return list(values), pending()
    flags = [float(pending() == number) for number in STOPPING]
    sums = summed([*values, *flags], meanwhile)
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
    state.seen, state.saying = True, time.monotonic()
    if is_main() and not state.said:
        with contextlib.suppress(OSError):  # the terminal is gone, which is what SIGHUP says
            said = f"\nstopped by {signal.Signals(number).name}; {words}\n"
            print(said, file=sys.stderr, end="", flush=True)
    state.said, state.saying = True, 0.0
    return 128 + number


def run_command(main: Callable[..., int]) -> NoReturn:
    """Run a command as the main function of a process: signals after the first cannot disturb its end.

    They stay caught until the process is gone.
    """
    global _caught
    _caught = _Caught("")
    _install({})
    try:
        status = main()
    except KeyboardInterrupt as stop:  # where signals cannot be caught
        status = ended(stop, AGAIN)
    if _caught.first is not None:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def ignore_signals(_: int = 0) -> None:
    """Ignore signals in a loading process: the main process handles those to the whole group and ends its workers.

    The SIGTERM by which it ends them, at the latest when Python exits and waits for them, is obeyed.
    """
    for number in STOPPING:
        if number != signal.SIGTERM or not hasattr(signal, "sigwaitinfo"):
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()


def _obey_parent(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def _handle(number: int, _: FrameType | None) -> None:
    state = _caught
    if state is None or os.getpid() != state.process:  # a loading process before it ignores signals
        return
    if state.first is not None:
        since = time.monotonic() - (state.saying or state.came)
        if (state.saying or (number == state.first and world_size() > 1)) and since < REPEATED:
            return
        state.seen, state.saying = True, time.monotonic()
        if not state.said and is_main():
            # Whatever fails here, the process ends.
            words = state.words
            with contextlib.suppress(Exception):
                words = state.last_words() if state.last_words else words
            with contextlib.suppress(OSError):
                os.write(2, f"\nstopped at once by {signal.Signals(number).name}; {words}\n".encode())
        os._exit(128 + number)
    state.first, state.came = number, time.monotonic()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Do at once what `look` does later."""
    signal.signal(number, _handle)
    _handle(number, frame)
    raise Interrupted(number)
