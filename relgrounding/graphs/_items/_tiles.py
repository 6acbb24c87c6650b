"""Items as tiles for a GPU: a byte per pair of nodes."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """A byte for any two nodes of an item, in rows that a GPU reads 16 bytes at a time.

    Args:
        planes: (planes, N, width) type of the edge j -> i in row i and column j, where j is counted within its item, or
            the number of types where there is none. A second and further planes hold parallel edges.
        longest: nodes of the largest item.
    """

    planes: Shaped[Tensor, "planes nodes width"]
    longest: int

    MOST_NODES: ClassVar[int] = 256
    MOST_PARALLEL: ClassVar[int] = 16
    MOST_TYPES: ClassVar[int] = 255

    @staticmethod
    def width(longest: int) -> int:
        """Columns of the planes."""
        return longest + -longest % 16

    @staticmethod
    def of(longest: int, planes: int, nodes: int, cell_E: Tensor, etype: Tensor, num_types: int) -> "Tiles":
        """The tiles of edges at known cells, see `tile_cells`."""
        shape = planes, nodes, Tiles.width(longest)
        empty = torch.full((math.prod(shape),), num_types, dtype=torch.uint8, device=etype.device)
        return Tiles(empty.index_put_((cell_E,), etype.to(torch.uint8)).view(shape), longest)


def tile_cells(
    most_parallel: int, first_N: Int64[Tensor, " nodes"], width: int, sources: Tensor, destinations: Tensor
) -> Int64[Tensor, " edges"]:
    """Where each edge is in the flat planes of a batch's tiles.

    Args:
        most_parallel: see `GraphStructure.most_parallel`.
        first_N: first node of each node's item.
        width: of the tiles.
        sources: (E,) in the forward order.
        destinations: (E,) the same.
    """
    nodes, device = len(first_N), first_N.device
    cell_E = sources + (torch.arange(nodes, device=device) * width - first_N).index_select(0, destinations)
    if most_parallel <= 1:
        return cell_E
    # Parallel edges follow each other: how many there are before each one.
    number_E = torch.arange(len(cell_E), device=device)
    anew = torch.ones_like(cell_E, dtype=torch.bool)
    torch.ne(cell_E[1:], cell_E[:-1], out=anew[1:])
    plane_E = number_E - torch.where(anew, number_E, 0).cummax(0).values
    return cell_E + plane_E * (nodes * width)
