"""Which backends each operator has, where they can run, and which of them `auto` prefers.

A backend is a function with the signature of its operator's ``naive.py``, registered where it is written; nothing else
names it. The modules of an operator's folder register themselves when the operator is imported, code outside this
package by a call of `register_backend`.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable)

FLOAT = (torch.float32, torch.float64)
HALF = (torch.float16, torch.bfloat16)
MESSAGE_PASSING = ("graph_attention", "gated_sum", "typed_comparison")
"""The operators whose backends layers, models and configurations choose by name."""

_DEVICES = {"cpu": "the CPU", "cuda": "CUDA"}


@dataclass(frozen=True)
class Backend:
    """A function and what `register_backend` was told of it."""

    function: Callable[..., Any]
    devices: tuple[str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    reason: Callable[[torch.device, torch.dtype], str | None] | None = None
    auto: Mapping[str, int] = field(default_factory=dict)
    suits: Callable[[Any], bool] | None = None
    widen_half: bool = False
    opaque: bool = False
    own_autocast: bool = False
    per_edge: bool = False

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it cannot run on a device with numbers of a type; None where it can."""
        if self.devices is not None and device.type not in self.devices:
            return f"it runs on {' and on '.join(_DEVICES.get(x, x) for x in self.devices)}, not on {device}"
        if self.dtypes is not None and dtype not in self.dtypes and not (self.widen_half and dtype in HALF):
            *most, last = (str(x).removeprefix("torch.") for x in self.dtypes)
            taken = f"{', '.join(most)} and {last}" if most else last
            return f"its kernels take {taken}, not {str(dtype).removeprefix('torch.')}"
        return self.reason(device, dtype) if self.reason else None


_operators: dict[str, dict[str, Backend]] = {}


def constant(function: F) -> F:
    """Tell `torch.compile` that a function returns the same at each call.

    As `torch.compiler.assume_constant_result`, which imports the whole compiler: more than a second for every process.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function


def register_backend(
    operator: str,
    name: str,
    *,
    devices: Sequence[str] | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    reason: Callable[[torch.device, torch.dtype], str | None] | None = None,
    auto: Mapping[str, int] | None = None,
    suits: Callable[[Any], bool] | None = None,
    widen_half: bool = False,
    opaque: bool = False,
    own_autocast: bool = False,
    per_edge: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function that computes an operator, and may then be chosen by name.

    It has the signature of the operator's ``naive.py``, gets inputs whose shapes, types and devices were checked, and
    returns what `naive` returns, with the same gradients. See ``docs/extending.md``.

    Args:
        operator: "graph_attention", "gated_sum", "typed_comparison", "edge_dot", "additive_attention", "window_max" or
            "gru"; or "attention_layer" or "gated_layer", a layer in one go, for a backend that has the operator below
            it, too.
        name: of the backend. The same name may stand for a function of each operator. "naive" makes a new operator.
        devices: types of devices on which it runs, such as ("cpu", "cuda"); None: on all.
        dtypes: types that it computes in; None: any.
        reason: takes a device and a type and returns why it cannot run there, or None; asked after the two above.
        auto: rank per type of device. ``backend="auto"`` takes the backend of the highest rank that can run, and
            `naive` where there is none; a backend without a rank on a device runs there only by its name.
        suits: takes the graph; `auto` passes over the backend where it returns False.
        widen_half: give it float16 and bfloat16 inputs as float32, and return what it makes of them in their type.
        opaque: `torch.compile` calls it as it stands, forward and backward, instead of tracing it. For kernels that
            autograd records as one step; their results must be one tensor like the first input, or `per_edge`.
        own_autocast: it runs under autocast, and checks the types of its inputs itself. Otherwise autocast is off, and
            all inputs have the type of the first.
        per_edge: its result is (edges,); said of every backend of the operator.

    Raises:
        ValueError: there is no such operator, or the name is taken.

    >>> from relgrounding.ops.graph_attention.naive import graph_attention_naive
    >>> @register_backend("graph_attention", "spoken", devices=["cpu"])
    ... def graph_attention_spoken(structure, feat, score_src, score_dst, negative_slope):
    ...     print("attending over", structure.num_edges, "edges")
    ...     return graph_attention_naive(structure, feat, score_src, score_dst, negative_slope)
    >>> "spoken" in backend_names("graph_attention")
    True
    """
    if name == "naive":
        _operators.setdefault(operator, {})
    backends = _operators.get(operator)
    if backends is None:
        nearest = difflib.get_close_matches(operator, _operators, 1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"the operators are {', '.join(_operators)}"
        raise ValueError(f"unknown operator '{operator}'; {hint}")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        taken = backends.get(name)
        if name == "auto" or (taken and _identity(taken.function) != _identity(function)):
            raise ValueError(f"'{operator}' has a backend '{name}'; choose another name")
        backends[name] = Backend(
            function,
            None if devices is None else tuple(devices),
            None if dtypes is None else tuple(dtypes),
            reason,
            dict(auto or {}),
            suits,
            widen_half,
            opaque,
            own_autocast,
            per_edge,
        )
        _candidates.clear()
        return function

    return register


def _identity(function: Callable[..., Any]) -> tuple[str, str]:
    """The same for a function whose module was loaded again."""
    return function.__module__, function.__qualname__


def load_backends(package: str, path: Sequence[str]) -> None:
    """Import all modules of an operator's folder, of which each registers its backend."""
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")


def find_backend(operator: str, name: str) -> Backend:
    """The backend of an operator by its name.

    Raises:
        ValueError: there is none.
    """
    try:
        return _operators[operator][name]
    except KeyError:
        check_backend(name, operator)
        raise


def find_layer(layer: str, name: str) -> Backend | None:
    """The backend of that name of a layer in one go, where it has one."""
    return _operators[layer].get(name)


_candidates: dict[tuple[str, str], list[tuple[str, Backend]]] = {}


def candidates(operator: str, device: str) -> list[tuple[str, Backend]]:
    """Backends that `auto` may take on a type of device, the one that it prefers first."""
    key = operator, device
    if key not in _candidates:
        ranked = [(name, x) for name, x in _operators[operator].items() if device in x.auto]
        _candidates[key] = sorted(ranked, key=lambda entry: -entry[1].auto[device])
    return _candidates[key]


def backend_names(*operators: str) -> tuple[str, ...]:
    """Names of the backends of some operators; of `MESSAGE_PASSING` where none is given.

    >>> "naive" in backend_names()
    True
    """
    return tuple(dict.fromkeys(name for operator in operators or MESSAGE_PASSING for name in _operators[operator]))


def check_backend(name: str, *operators: str) -> None:
    """Raise where a name is neither "auto" nor that of a backend of some operators, as in `backend_names`.

    Raises:
        ValueError: there is no such backend.
    """
    names = backend_names(*operators)
    if name != "auto" and name not in names:
        raise ValueError(f"unknown backend '{name}'; the backends are auto, {', '.join(names)}")


def available_backends(*operators: str) -> dict[str, str | None]:
    """Return for each backend, as in `backend_names`, why it cannot run on this machine's GPU or CPU; None if it can.

    >>> available_backends()["naive"] is None
    True
    """
    found: dict[str, str | None] = {}
    for operator in operators or MESSAGE_PASSING:
        for name, backend in _operators[operator].items():
            found.setdefault(name, _why_not_here(backend))
    return found


def _why_not_here(backend: Backend) -> str | None:
    devices = [x for x in ("cuda", "cpu") if backend.devices is None or x in backend.devices]
    if not torch.cuda.is_available() and "cpu" in devices:
        devices = ["cpu"]
    reasons = [backend.why_not(torch.device(device), torch.float32) for device in devices]
    if reasons and reasons[0] and None in reasons:
        return f"on CPU tensors only: {reasons[0]}"
    return reasons[0] if reasons else f"it runs on {', '.join(backend.devices or ())}"
