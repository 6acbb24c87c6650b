"""Whether the processes of a job agree."""

import hashlib
from typing import Any

from torch import Tensor

from relgrounding._ranks import everywhere, gather, is_joined
from relgrounding.runs import RunError


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


def _digest(values: Any) -> str:
    digest = hashlib.blake2b()
    for value in values if isinstance(values, list) else [values]:
        digest.update(value.detach().cpu().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()
