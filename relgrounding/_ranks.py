"""The processes of a job, as torchrun and its like start them: their ranks, and what they tell one another.

A job sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the environment of its processes. Everything
else is a single process, rank 0 of 1, which sends nothing. All processes call `before_joining`, `joined`, and within it
`gather`, `from_main`, `on_main`, `in_all`, `to_main`, `barrier`, `any_rank`, `summed`, `all_rows`, `sum_rows`,
`sum_in_place` and `take_from_main`, the same number of times in the same order. The other functions send nothing.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from relgrounding._settings import ConfigError
from relgrounding._urls import Masked

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
_joined = False
"""Whether this process is in the process group, within `joined`."""
_store: Any = None
"""By which processes find one another; kept, as all of them have to be there when it is made."""
_agreements, _joins = 0, 0
"""How often this process called `before_joining`, and joined the others: parts of the names of what they write."""
_SET = "torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; a single process needs none of them"


class RankError(Masked, RuntimeError):
    """Another process of the job ended, or did not answer in time."""


def rank() -> int:
    """Return the number of this process in its job, from 0; known before the process joins the others."""
    return _number("RANK") if world_size() > 1 else 0


def world_size() -> int:
    """Return the number of processes of the job; known before this process joins the others."""
    whole = "RANK" in os.environ and "MASTER_ADDR" in os.environ
    return max(1, _number("WORLD_SIZE")) if whole else 1


def is_main() -> bool:
    """Whether this process writes and prints: it has rank 0."""
    return rank() == 0


def tag(error: BaseException | None = None) -> str:
    """Return what errors of this process begin with: "[rank 3] ", or nothing for a process without others.

    Args:
        error: of all who raise the same, the ranks are named.
    """
    ranks = getattr(error, "_ranks", [rank()])
    whole = len(ranks) > 2 and ranks == [*range(ranks[0], ranks[-1] + 1)]
    shown = f"{ranks[0]} to {ranks[-1]}" if whole else ", ".join(map(str, ranks))
    return f"[rank{'s' * (len(ranks) > 1)} {shown}] " if world_size() > 1 else ""


def check_job() -> None:
    """Check the environment in which a job tells a process which one it is.

    Raises:
        ConfigError: a number that is none, a rank that is not below the number of processes, or a part that is missing.
    """
    given = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    for name, value in given.items():
        if value and not (value.isascii() and value.isdecimal()):
            raise ConfigError(f"{name} is {value[:40]!r} in the environment, not a whole number; {_SET}")
    number, size = given["RANK"], given["WORLD_SIZE"]
    if not number or (int(number) == 0 and size in ("", "1")):
        return
    lacking = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if lacking:
        raise ConfigError(f"RANK is {number} in the environment, and {', '.join(lacking)} missing; {_SET}")
    if int(number) >= int(size):
        raise ConfigError(f"RANK is {number} in the environment, and WORLD_SIZE {size}: ranks count from 0; {_SET}")
    if not 0 < int(given["MASTER_PORT"]) < 2**16:
        raise ConfigError(f"MASTER_PORT is {given['MASTER_PORT']} in the environment, not a port; {_SET}")


def _number(name: str) -> int:
    try:
        return int(os.environ.get(name, ""))
    except ValueError:
        return 0


@contextlib.contextmanager
def joined(device: str = "cpu", timeout: float = 30.0) -> Iterator[None]:
    """Join the other processes of the job, and leave them at the end; a process without others does nothing.

    Tensors travel by gloo on the CPU and by nccl on CUDA; process LOCAL_RANK of a machine takes its CUDA device of that
    number. A process group that is there already is used, and not ended. Within this function, it does nothing.

    Args:
        device: setting `device` of the run.
        timeout: minutes after which a process that waits for another gives up.

    Raises:
        ConfigError: a CUDA device that the processes of a machine would share, or that it lacks.
        RankError: another process ended, or did not answer in time.
    """
    global _joined
    if _joined or world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    check_job()
    if cuda := _takes_cuda(device):
        torch.cuda.set_device(_own_cuda_device(device, torch.cuda.device_count()))
    begun = not dist.is_initialized()
    clean = False
    try:
        if begun:
            _initialise("cpu:gloo,cuda:nccl" if cuda else "gloo", timedelta(minutes=timeout))
        _joined = True
        yield
        clean = True
    except Exception as error:
        if not _is_lost(error):
            getattr(error, "add_note", print)(f"{tag()}ended with this error")  # Python 3.10 has no notes
            raise
        raise _lost(error) from error
    except KeyboardInterrupt:
        clean = True
        raise
    finally:
        _joined = False
        # nccl would wait for operations that never end; the end of this process ends them.
        if begun and dist.is_initialized() and (clean or not cuda):
            dist.destroy_process_group()


def before_joining(function: Callable[..., T], *arguments: Any, minutes: Callable[[T], float] = lambda _: 30.0) -> T:
    """Call a function, which sends nothing, in every process of a job before they join; if it fails in some, all end.

    Of equal errors one is printed, with the ranks of all (`is_told`, `tag`).

    Args:
        function: such as one that reads the settings.
        arguments: of it.
        minutes: from its result, how long to wait for the others.

    Raises:
        RankError: it failed in other processes alone, or one of them did not answer in time.
    """
    if _joined:
        return in_all(function, *arguments)
    check_job()
    if world_size() == 1:
        return function(*arguments)
    result, error = None, None
    try:
        result = function(*arguments)
    except Exception as raised:
        error = raised
    try:
        # Who failed waits for the others only so long as it takes to say it once.
        messages = _told(error, timedelta(minutes=1.0 if error else minutes(result)))  # type: ignore[arg-type]
    except Exception as lost:
        if error is None and _is_lost(lost):
            raise _lost(lost) from lost
        raise error or lost from None
    return _agreed(result, error, messages)


def _told(error: Exception | None, timeout: timedelta) -> list[str | None]:
    """Return the messages of the errors of all processes, which are not joined yet; None: there is none."""
    global _agreements
    _agreements += 1
    store, names = _rendezvous(timeout), [f"agreement {_agreements} of {number}" for number in range(world_size())]
    store.set(names[rank()], json.dumps(None if error is None else str(error)))
    store.wait(names, timeout)
    messages = [json.loads(store.get(name)) for name in names]
    if any(message is not None for message in messages):
        store.set(f"{names[rank()]} is read", "")
        if is_main():  # the store may end with this process
            with contextlib.suppress(Exception):
                store.wait([f"{name} is read" for name in names], timedelta(seconds=10))
    return messages


def _rendezvous(timeout: timedelta) -> Any:
    global _store
    if _store is None:
        import torch.distributed as dist

        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun keeps its store when it restarts processes: without a name of their own for what they write there,
        # they would find what those that died have written.
        _store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    _store.set_timeout(timeout)
    return _store


def _initialise(backend: str, timeout: timedelta) -> None:
    global _joins
    import torch.distributed as dist

    _joins += 1
    store = dist.PrefixStore(f"joined {_joins}", _rendezvous(timeout))  # likewise, where they join again
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), timeout=timeout)


def check_device(device: str) -> None:
    """Raise ConfigError for a CUDA device that the processes of a machine would share, or that it lacks."""
    if world_size() > 1 and _takes_cuda(device):
        import torch

        _own_cuda_device(device, torch.cuda.device_count())


def _takes_cuda(device: str) -> bool:
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _own_cuda_device(device: str, count: int) -> int:
    local = _number("LOCAL_RANK")
    if ":" in device:
        raise ConfigError(
            f"device is {device}, which all processes of a machine would share; use device=cuda: each takes one"
        )
    if local >= count:
        raise ConfigError(
            f"process {local} of this machine (from 0) has no CUDA device: there are {count}; start that many "
            "(torchrun --nproc-per-node), or use device=cpu"
        )
    return local


def _is_lost(error: Exception) -> bool:
    """Whether an error is that of a connection to another process; gloo raises plain RuntimeErrors."""
    import torch.distributed as dist

    gloo = any(words in str(error) for words in ("gloo", "pair closure", "Connection closed by peer"))
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and gloo)


def _lost(error: Exception) -> RankError:
    return RankError(
        "another process of the job ended, or did not answer within train.timeout (its own message, if it left "
        f"one, says why): {str(error).splitlines()[0][:200]}"
    )


def is_joined() -> bool:
    """Whether this process is joined to others."""
    return _joined


def share(values: Sequence[T]) -> Sequence[T]:
    """Return every nth of some values for n processes, from this one's rank on; all of them to a process alone."""
    return values[rank() :: world_size()] if _joined else values


def gather(value: T) -> list[T]:
    """Return the value of each process, by rank, to all of them."""
    if not _joined:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def to_main(value: T) -> list[T]:
    """Return the value of each process, by rank, to the main process; nothing to the others."""
    if not _joined:
        return [value]
    import torch.distributed as dist

    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values or []


def from_main(value: T) -> T:
    """Return the value that the main process has."""
    if not _joined:
        return value
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def on_main(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in the main process alone, and return its result, or raise its exception, in every process.

    `is_told` knows the exceptions of the others, whose text the main process prints.
    """
    if not _joined:
        return function(*arguments)
    result, error = None, None
    if is_main():
        try:
            result = function(*arguments)
        except Exception as raised:
            error = raised
    result, error = from_main((result, error))
    if error is not None:
        raise everywhere(error)
    return result  # type: ignore[return-value]


def in_all(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function, which sends nothing, in every process, and return its result; if it fails in some, all end.

    Of equal errors one is printed, with the ranks of all (`is_told`, `tag`).

    Raises:
        RankError: it failed in other processes alone.
    """
    result, error = None, None
    try:
        result = function(*arguments)
    except Exception as raised:
        error = raised
    return _agreed(result, error, gather(None if error is None else str(error)))


def _agreed(result: T | None, error: Exception | None, messages: Sequence[str | None]) -> T:
    """Return the result of this process if no process has an error, or raise this one's, or that others have one."""
    if error is not None:
        ranks = [number for number, message in enumerate(messages) if message == str(error)]
        error._ranks, error._is_told = ranks, ranks[0] < rank()  # type: ignore[attr-defined]
        raise error
    if any(message is not None for message in messages):
        lost = RankError("another process of the job failed, and says why")
        lost._is_told = True  # type: ignore[attr-defined]
        raise lost
    return result  # type: ignore[return-value]


def everywhere(error: E) -> E:
    """Return an exception that all processes raise alike, for the main one to print."""
    error._is_told = not is_main()  # type: ignore[attr-defined]
    return error


def is_told(error: BaseException) -> bool:
    """Whether another process prints what is to be said about an exception."""
    return getattr(error, "_is_told", False)


def barrier() -> None:
    """Wait until every process is here."""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether a flag is set in any process."""
    return summed([float(flag)])[0] > 0


def summed(values: Sequence[float], meanwhile: Callable[[], object] | None = None) -> list[float]:
    """Return the sum over the processes of each number; the same bits in each of them.

    Args:
        values: of this process.
        meanwhile: called in a job once they are on their way; it sends nothing.
    """
    if not _joined:
        return list(values)
    import torch
    import torch.distributed as dist

    total = torch.tensor(values, dtype=torch.float64)
    sending = dist.all_reduce(total, async_op=True)
    if meanwhile is not None:
        meanwhile()
    sending.wait()
    return total.tolist()


def all_rows(rows: "torch.Tensor", counts: Sequence[int]) -> "torch.Tensor":
    """Return the rows of all processes, by rank; without a gradient.

    Args:
        rows: of this process.
        counts: number of rows of each.
    """
    import torch
    import torch.distributed as dist

    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def sum_in_place(values: "torch.Tensor") -> None:
    """Replace a tensor by its sum over the processes."""
    import torch.distributed as dist

    dist.all_reduce(values)


def sum_rows(rows: "torch.Tensor") -> "torch.Tensor":
    """Return the sum of a tensor over the processes."""
    total = rows.contiguous().clone()
    sum_in_place(total)
    return total


def take_from_main(tensors: Iterable["torch.Tensor"]) -> None:
    """Give tensors the values that they have in the main process."""
    if _joined:
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)
