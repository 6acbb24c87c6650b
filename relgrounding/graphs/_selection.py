"""Items of a batch whose edges are copied when they are first read."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relgrounding._host import on_host
from relgrounding.graphs._items._flat import Ranges, offsets


class LazySelection:
    """What makes a `GraphStructure` one of some items of another: all but the edges is there at once.

    Args:
        whole: the structure that has these items.
        items: (K,) their positions, on the host.
        nodes: (N,) their nodes, in the same order, on the host.
    """

    indptr: Tensor
    _whole: Any
    _items: Tensor
    _nodes: Tensor
    _ranges: Ranges
    _node_shifts: Tensor
    _edge_shifts: Tensor
    _made: dict[str, Tensor]

    def __init__(self, whole: Any, items: Tensor, nodes: Tensor) -> None:
        # All but the edges is computed on the host.
        indptr, counts = on_host(whole.indptr), on_host(whole.batch_num_nodes)[items]
        starts = on_host(whole.item_indptr)[items]
        # Edges stay inside their item: those of an item are one range, and the same range in both orders.
        begins = indptr[starts]
        sizes = indptr[starts + counts] - begins
        # A frozen dataclass sets its attributes like this, too.
        vars(self).update(
            edge_types=whole.edge_types,
            batch_num_nodes=whole._there(counts),
            indptr=whole._there(offsets(indptr.diff()[nodes])),
            _whole=whole,
            _items=items,
            _nodes=nodes,
            _ranges=Ranges(begins, sizes, int(sizes.sum())),
            _node_shifts=counts.cumsum(0) - counts - starts,
            _edge_shifts=sizes.cumsum(0) - sizes - begins,
            _made={},
        )

    def _once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        # A compiler cannot trace a cache.
        if torch.compiler.is_compiling():
            return make()
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def num_edges(self) -> int:
        return self._ranges.total

    @property
    def indices(self) -> Tensor:
        return self._once("indices", lambda: self._ranges.of(self._whole.indices, self._node_shifts))

    @property
    def etype(self) -> Tensor:
        return self._once("etype", lambda: self._ranges.of(self._whole.etype, torch.zeros_like(self._items)))

    @property
    def out_indptr(self) -> Tensor:
        if self._whole._is_symmetric:
            return self.indptr
        degree = on_host(self._whole.out_indptr).diff()
        return self._once("out_indptr", lambda: self._whole._there(offsets(degree[self._nodes])))

    @property
    def out_indices(self) -> Tensor:
        if self._whole._is_symmetric:
            return self.indices
        return self._once("out_indices", lambda: self._ranges.of(self._whole.out_indices, self._node_shifts))

    @property
    def out_edges(self) -> Tensor:
        return self._once("out_edges", lambda: self._ranges.of(self._whole.out_edges, self._edge_shifts))

    def _mapped(self, function: Callable[[str, Tensor], Tensor]) -> Any:
        return type(self)(self._whole._mapped(function), self._items, self._nodes)

    def __reduce__(self) -> tuple:
        return type(self), (self._whole, self._items, self._nodes)
