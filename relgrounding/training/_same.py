"""Whether the processes of a job agree."""

import hashlib
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from relgrounding._ranks import everywhere, gather, is_joined
from relgrounding.config import Config
from relgrounding.runs import RunError, flat

PATHS = ("data.root", "data.features", "data.word_vectors", "data.workers")
"""Settings that may differ between machines; `check_same` compares the content of the files."""


def check_same(values: Any, what: str) -> None:
    """Compare what processes have.

    Args:
        values: tensors, or plain data.
        what: ends the message, such as "read other data".

    Raises:
        RunError: they differ.
    """
    if not is_joined():
        return
    found = gather(_digest(values))
    other = [str(number) for number, digest in enumerate(found) if digest != found[0]]
    if other:
        raise everywhere(
            RunError(
                f"processes {', '.join(other)} {what} than process 0; all need the same files, versions and kind of "
                "processor; last.pt is as it was last written"
            )
        )


def check_settings_same(config: Config) -> None:
    """Compare the settings of processes, whose commands or environments may differ, but for the paths of files.

    Raises:
        RunError: they differ; the message names the first setting that does, with both values.
    """
    if not is_joined():
        return
    first, *others = gather(flat(OmegaConf.to_container(OmegaConf.structured(config))))
    for number, other in enumerate(others, start=1):
        for key in [key for key in {**first, **other} if key not in PATHS]:
            if first.get(key) != other.get(key):
                raise everywhere(
                    RunError(
                        f"process {number} has other settings than process 0: {key} is {other.get(key)!r} there and "
                        f"{first.get(key)!r} here; give all the same command"
                    )
                )


def _digest(values: Any) -> str:
    digest = hashlib.blake2b()
    for value in values if isinstance(values, list) else [values]:
        digest.update(value.detach().cpu().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()
