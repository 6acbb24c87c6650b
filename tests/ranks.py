"""Functions called in several processes at once, which are joined as those of torchrun are."""

import contextlib
import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

from relgrounding._ranks import joined

CONTEXT = multiprocessing.get_context("fork")  # PyTorch and DGL are there already


def together(
    size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 1.0, join: bool = True
) -> list[Any]:
    """Return what a function returns in each of `size` processes, by rank; for one that raised, the exception.

    A process that died has its exit status, negative for a signal, as a `Died`. `timeout` is in minutes. Without
    `join` it is left to the function whether they join.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    processes = [
        CONTEXT.Process(target=_work, args=(rank, size, port, pipe[1], timeout if join else 0, function, arguments))
        for rank, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, there in pipes:
        there.close()
    return [_result(process, here) for process, (here, _) in zip(processes, pipes, strict=True)]


class Died(RuntimeError):
    """A process ended without a result."""


def _result(process: Any, here: Any) -> Any:
    try:
        result = pickle.loads(here.recv_bytes()) if here.poll(120) else None
    except EOFError:
        result = None
    process.join(10)
    if process.is_alive():
        process.kill()
        process.join()
    return Died(process.exitcode) if result is None else result[0]


def _work(rank: int, size: int, port: int, pipe: Any, timeout: float, function: Callable, arguments: tuple) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        with joined("cpu", timeout) if timeout else contextlib.nullcontext():
            result = function(*arguments)
    except Exception as error:
        result = error
    pipe.send_bytes(pickle.dumps((result,)))  # not `send`, which leaves tensors in this process
