"""What makes a program wait for a GPU, counted without one.

Within `PretendedGPU`, tensors that are created on or copied to "cuda" compute on the CPU, but name that device, so that
the code takes the paths that it takes on a GPU. Every operation whose result the host must have before it can go on is
noted with the line of this project that asks for it: `item`, `tolist` and `bool` of a tensor; copies to the host, and
copies to the device from memory that is not page-locked; shapes that depend on values (`nonzero`, masks as indices,
`repeat_interleave` without `output_size`, `unique`, `bincount`). Operations on tensors of two devices fail, as they do
on a GPU. Kernels of Triton are not run: what they would fill is zero.
"""

import os
import traceback
from collections import Counter
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

ROOT = Path(__file__).parents[1]
OWN = tuple(f"{ROOT / name}{os.sep}" for name in ("relgrounding", "benchmarks", "tests", "tools"))
"""Where this project's lines are: an environment may lie below its root, too."""
GPU = torch.device("cuda", 0)
VALUES = {
    *("_local_scalar_dense", "is_nonzero", "equal", "allclose", "item"),
    *("nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "histc"),
}
"""Operations whose result is a number of the host, or whose shape depends on values."""
ON_HOST = ("_pack_padded_sequence", "_pack_padded_sequence_backward", "_pad_packed_sequence")
"""Operations that take lengths on the host."""
BELOW = "relgrounding/_host.py"
"""Whoever calls what is there asks for the wait."""
MASKS = torch.bool, torch.uint8
CLIPPING = "torch.nn.utils.clip_grad"
INDEXED = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")


class OnGPU(Tensor):
    """A tensor that computes on the CPU and names a GPU as its device."""

    held: Tensor
    gpu: "PretendedGPU"

    @staticmethod
    def __new__(cls, inner: Tensor, gpu: "PretendedGPU") -> "OnGPU":
        """Return the tensor around one on the CPU."""
        strides, offset = inner.stride(), inner.storage_offset()
        made: Any = Tensor._make_wrapper_subclass(cls, inner.shape, strides, offset, dtype=inner.dtype)
        made.held, made.gpu = inner, gpu
        return made

    def __init__(self, inner: Tensor, gpu: "PretendedGPU") -> None:
        pass

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return OnGPU(self.held.detach().clone(), self.gpu).requires_grad_(self.requires_grad)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # PyTorch has one more, for itself
        return f"OnGPU({self.held!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as PyTorch's subclasses do

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        gpu = next(x.gpu for x in tree_flatten((args, kwargs))[0] if isinstance(x, OnGPU))
        return gpu.run(function, args, kwargs)


class PretendedGPU(TorchFunctionMode):
    """Pretend that there is a GPU, and count what waits for it.

    Attributes:
        lines: waits by what they are and where this project asks for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter[str] = Counter()
        self._patches = ExitStack()

    def __enter__(self) -> "PretendedGPU":
        self._patches.enter_context(mock.patch("torch.cuda.Event", _Event))
        self._patches.enter_context(mock.patch("torch.cuda.get_rng_state", _random_state))
        self._patches.enter_context(mock.patch("torch.cuda.set_rng_state"))
        self._patches.enter_context(mock.patch("torch.cuda.synchronize"))
        if find_spec("triton"):
            self._patches.enter_context(mock.patch("relgrounding.ops._triton._jit.Kernel.run"))
        self._patches.enter_context(mock.patch("torch.cuda.get_device_name", return_value="a pretended GPU"))
        self._patches.enter_context(mock.patch(f"{CLIPPING}._group_tensors_by_device_and_dtype", _grouped))
        # Functions of Python are no operations: what they call is.
        for module in ("torch._tensor", "torch.autograd", "torch.functional", "torch.nn.functional"):
            for kind in ("", "_unary", "_variadic"):
                if hasattr(import_module(module), f"has_torch_function{kind}"):
                    patch = mock.patch(f"{module}.has_torch_function{kind}", _no)
                    self._patches.enter_context(patch)
        # Modules get new parameters when they are moved.
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        self._patches.callback(torch.__future__.set_overwrite_module_params_on_conversion, before)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    @property
    def waits(self) -> int:
        """Number of waits since the last `reset`."""
        return sum(self.lines.values())

    def reset(self) -> None:
        """Count from 0."""
        self.lines.clear()

    def note(self, what: str) -> None:
        """Count a wait."""
        stack = [f for f in traceback.extract_stack() if f.filename != __file__]
        own = [f for f in stack if f.filename.startswith(OWN) and not f.filename.endswith(BELOW)]
        where = f"{Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno} {own[-1].name}" if own else "elsewhere"
        self.lines[f"{where}: {what}"] += 1

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls from Python, before PyTorch looks for the device."""
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if function == Tensor.device.__get__:
            return GPU if isinstance(args[0], OnGPU) else torch.device("cpu")
        if name in ("tolist", "numpy", "__array__") and isinstance(args[0], OnGPU):
            self.note(name)
            return getattr(args[0].held, name)()
        if name == "pin_memory":
            return _Pinned.of(args[0])
        if name == "is_pinned":
            return isinstance(args[0], _Pinned)
        if function in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return self._move(name, args, kwargs)
        target = kwargs.get("device")
        if target is None or torch.device(target).type != "cuda":
            out = function(*args, **kwargs)
            if name == "new_tensor" and isinstance(args[0], OnGPU) and target is None:
                self.note("a copy of numbers to the device")
                out = OnGPU(out, self)
            return out
        kwargs["device"] = "cpu"
        if name in ("tensor", "as_tensor", "asarray"):
            self.note("a copy of numbers to the device")
        out = function(*args, **kwargs)
        return out if isinstance(out, OnGPU) else OnGPU(out, self)

    def _move(self, name: str, args: Any, kwargs: Any) -> Tensor:
        x, *rest = args
        rest = [GPU, *rest] if name == "cuda" else [torch.device("cpu"), *rest] if name == "cpu" else rest
        target, others = None, []
        for given in [kwargs.pop("device", None), *rest]:
            if isinstance(given, Tensor):
                target, kwargs["dtype"] = given.device, given.dtype
            elif isinstance(given, (str, torch.device, int)) and not isinstance(given, bool):
                target = torch.device(given)
            elif given is not None:
                others.append(given)
        if others and isinstance(others[0], torch.dtype):
            kwargs["dtype"] = others.pop(0)
        if others:
            kwargs["non_blocking"] = others.pop(0)
        there = target is None or (target.type == "cuda") == isinstance(x, OnGPU)
        plain = x.held if isinstance(x, OnGPU) and not there else x
        quick = kwargs.pop("non_blocking", False)
        if there:
            return x.to(**kwargs) if kwargs else x
        if isinstance(x, OnGPU):
            if not quick:
                self.note("a copy to the host")
            return _Copy.apply(x, None, kwargs.get("dtype")) if x.requires_grad else plain.to(**kwargs, copy=True)
        if not (quick and isinstance(x, _Pinned)):
            self.note("a copy to the device" + (" from memory that is not page-locked" if quick else ""))
        if x.requires_grad and torch.is_grad_enabled():
            return _Copy.apply(x, self, kwargs.get("dtype"))
        return OnGPU(x.detach().as_subclass(Tensor).to(**kwargs, copy=True), self)

    def run(self, function: Any, args: Any, kwargs: Any) -> Any:
        """An operation that PyTorch dispatches, on at least one tensor of this device."""
        name = function.overloadpacket.__name__
        self._check(name, args, kwargs)
        inner_args, inner_kwargs = tree_map_only(OnGPU, lambda x: x.held, (args, kwargs))
        if inner_kwargs.get("device") is not None:
            inner_kwargs["device"] = "cpu"
        out = function(*inner_args, **inner_kwargs)
        if "empty" in name or "triton" in name:  # what a kernel would fill
            tree_map_only(Tensor, Tensor.zero_, out)
        if name == "_pack_padded_sequence":
            return OnGPU(out[0], self), out[1]  # its sizes stay on the host
        out = tree_map_only(Tensor, lambda x: OnGPU(x, self), out)
        return return_and_correct_aliasing(function, args, kwargs, out)

    def _check(self, name: str, args: Any, kwargs: Any) -> None:
        counted = name == "repeat_interleave" and kwargs.get("output_size") is None
        masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in MASKS] if name in INDEXED else []
        if name in VALUES or counted or masks:
            self.note(name)
        if name == "copy_":
            if not isinstance(args[0], OnGPU):
                if not ((len(args) > 2 and args[2]) or kwargs.get("non_blocking")):
                    self.note("a copy to the host")
                return
            if not isinstance(args[1], OnGPU) and args[1].ndim:
                self.note("a copy to the device")
            return
        if name in ON_HOST:
            return
        if torch._C._current_graph_task_id() != -1:
            return  # a gradient of zeros that autograd makes by itself
        for x in tree_flatten((args, kwargs))[0]:
            if isinstance(x, Tensor) and not isinstance(x, OnGPU) and x.ndim:
                if name in INDEXED:
                    self.note("indices copied to the device")
                    continue
                raise RuntimeError(f"{name}: one tensor is on {GPU}, another one, {tuple(x.shape)}, on the CPU")


class _Pinned(Tensor):
    """A tensor in memory that counts as page-locked."""

    @staticmethod
    def of(x: Tensor) -> "_Pinned":
        return x if isinstance(x, _Pinned) else x.clone().as_subclass(_Pinned)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_function__(function, types, args, kwargs)
        return tree_map_only(_Pinned, lambda x: x.as_subclass(Tensor), out)


class _Copy(torch.autograd.Function):
    """A copy between the devices, with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gpu: PretendedGPU | None, dtype: torch.dtype | None) -> Tensor:
        ctx.back = x.gpu if isinstance(x, OnGPU) else None
        plain = x.held if isinstance(x, OnGPU) else x.as_subclass(Tensor)
        plain = plain.to(dtype or plain.dtype, copy=True)
        return plain if gpu is None else OnGPU(plain, gpu)

    @staticmethod
    def backward(ctx: Any, above: Any) -> tuple[Tensor, None, None]:
        return (above.held if ctx.back is None else OnGPU(above, ctx.back)), None, None


def _no(*_: Any) -> bool:
    return False


def _random_state(*_: Any) -> Tensor:
    return torch.get_rng_state()


def _grouped(lists: list[list[Tensor]], *_: Any) -> dict[tuple[torch.device, torch.dtype], Any]:
    """All tensors as one group: PyTorch's own function looks at the device that they are really on."""
    first = lists[0][0]
    return {(first.device, first.dtype): (lists, list(range(len(lists[0]))))}


class _Event:
    """A point in the work of the device, which on the CPU is always over."""

    def record(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True
