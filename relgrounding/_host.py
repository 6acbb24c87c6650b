"""Small tensors whose values the host knows while they are on a device, so that reading them does not wait for it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_known = WeakTensorKeyDictionary()


def to_device(x: Tensor, device: torch.device | str, non_blocking: bool = True, known: bool = True) -> Tensor:
    """Return a tensor on a device, itself if it is there; the host keeps the values of integers and booleans.

    A copy to CUDA is made from page-locked memory without waiting for it. What follows on the current stream sees it.

    Args:
        x: any tensor.
        device: where it is to be.
        non_blocking: False: the copy is complete on return.
        known: False: the host does not keep them.
    """
    device = torch.device(device)
    if x.device.type != "cpu" or device.type == "cpu":
        return x if x.device == device else x.to(device)
    if device.type == "cuda" and non_blocking:
        copy = (x if x.is_pinned() else x.pin_memory()).to(device, non_blocking=True)
    else:
        copy = x.to(device)
    if known and not x.is_floating_point():
        _known[copy] = x, _versions(x, copy)
    return copy


def on_host(x: Tensor) -> Tensor:
    """Return a tensor on the CPU, itself if it is there.

    What `to_device` made is known. All else waits for the device, also where either was changed in place since.
    """
    if x.device.type == "cpu":
        return x
    values, versions = _known.get(x, (None, None))
    return x.cpu() if values is None or versions != _versions(values, x) else values


def _versions(*tensors: Tensor) -> list[int | None]:
    # Inference tensors do not count their changes.
    return [None if x.is_inference() else x._version for x in tensors]


class Numbers:
    """Single numbers on their way from a device to the host, which goes on meanwhile.

    Args:
        tensors: of one element each, all on one device. CUDA copies them when it gets there; elsewhere they are read.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._arrived: torch.cuda.Event | None = None
        if tensors[0].device.type != "cuda":
            self._read = [x.item() for x in tensors]
            return
        on_device = torch.stack([x.detach().double() for x in tensors])
        self._values = torch.empty(len(tensors), dtype=torch.float64).pin_memory()
        self._values.copy_(on_device, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def read(self) -> list[float]:
        """Return them, once they have arrived."""
        if self._arrived is None:
            return self._read
        self._arrived.synchronize()
        return self._values.tolist()
