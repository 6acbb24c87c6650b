"""What the Triton backends share: whether they can run, tile sizes, and operators that `torch.compile` takes whole.

Triton itself is imported by the modules that hold kernels, at their first launch; nothing here needs it installed.
"""

import importlib.util
import os
from collections.abc import Callable

import torch
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.ops._registry import constant

INSTALL = 'python -m pip install "triton==3.7.1"'
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_installed = importlib.util.find_spec("triton") is not None
_library = torch.library.Library("relgrounding", "FRAGMENT")


def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU and one program after another: for tests."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


@constant
def triton_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels cannot run on a device; None where they can."""
    if not _installed:
        return f"Triton is not installed: on Linux run {INSTALL}, or the release that your PyTorch asks for"
    if device.type == "cpu" and interpreting():
        return None
    if device.type != "cuda":
        return f"its kernels run on CUDA, not on {device}; for a check on the CPU set TRITON_INTERPRET=1"
    if torch.version.cuda and (capability := torch.cuda.get_device_capability(device)) < (7, 0):
        return f"Triton needs a GPU of compute capability 7.0, this one has {capability[0]}.{capability[1]}"
    return None


def register(schema: str, run: Callable, fake: Callable) -> Callable:
    """Return an operator that a compiler takes whole, from its schema, its function and its shapes."""
    name = schema.partition("(")[0]
    _library.define(schema)
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"relgrounding::{name}", fake, lib=_library)
    return getattr(torch.ops.relgrounding, name).default


def power_of_two(size: int) -> int:
    """The smallest power of two from `size` up, at least 1."""
    return 1 << max(size - 1, 0).bit_length()


def tile(dim: int) -> tuple[int, int, int]:
    """Edges and features that one step of a program works on, and its warps.

    2,048 numbers: 16 a thread at 4 warps, so that a tile of sums and a tile of features stay in registers. Nothing but
    `dim` decides, and so an item's result does not depend, to the last bit, on what else is in its batch.
    """
    features = min(power_of_two(dim), 512)
    edges = min(2048 // features, 64)
    return edges, features, max(edges * features // 512, 1)


# Of all ordered pairs of nodes: joined pairs from which `auto` takes the kernels on tiles. Chosen by counting: a pair
# costs a matrix product's share of a row, an edge the read of a row.
SHARE = 0.1
# Types whose sums a program on tiles keeps in registers.
MOST_TYPES = 16


def fits_tiles(graph: GraphStructure) -> bool:
    """Whether the kernels on tiles can run; a compiler cannot trace how tiles are made."""
    return not torch.compiler.is_compiling() and graph.tiles is not None


def suits_tiles(graph: GraphStructure) -> bool:
    """Whether `auto` takes the kernels on tiles."""
    return not torch.compiler.is_compiling() and graph.num_edges >= SHARE * graph.num_pairs and fits_tiles(graph)


def fits_typed_tiles(graph: GraphStructure) -> bool:
    """Whether the kernels on tiles that add up by type can run."""
    return graph.num_types <= MOST_TYPES and fits_tiles(graph)


def suits_typed_tiles(graph: GraphStructure) -> bool:
    """Whether `auto` takes the kernels on tiles that add up by type."""
    return graph.num_types <= MOST_TYPES and suits_tiles(graph)


def dense_rows(tensor: Tensor) -> Tensor:
    """`tensor`, copied only if its rows (all axes but the first) are not contiguous; rows may lie apart."""
    return tensor if len(tensor) == 0 or tensor[0].is_contiguous() else tensor.contiguous()


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums are made."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Gradients(torch.autograd.Function):
    """The call of a backward operator, which says so when somebody differentiates it."""

    @staticmethod
    def forward(ctx, operator: str, backward: Callable, *arguments) -> tuple[Tensor, ...]:
        """Return what `backward` makes of `arguments`."""
        ctx.operator = operator
        return backward(*arguments)

    @staticmethod
    def backward(ctx, *_):
        """Refuse."""
        raise RuntimeError(f"{ctx.operator}: the Triton kernels have no second derivative; use backend='naive'")
