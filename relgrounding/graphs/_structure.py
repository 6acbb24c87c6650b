"""``GraphStructure``: a batch of proposal graphs as the plain tensors that kernels read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, wraps
from itertools import accumulate
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding._host import on_host, to_device
from relgrounding.graphs import _dgl_graphs
from relgrounding.graphs._inputs import ArrayLike, check_edges, read_integers
from relgrounding.graphs._items._flat import by_source, cut, offsets, ragged_arange, shifted
from relgrounding.graphs._items._padded import ItemGroup, item_groups
from relgrounding.graphs._items._tiles import Tiles, tile_cells
from relgrounding.graphs._selection import LazySelection

EDGES = ("indices", "etype", "out_indices", "out_edges")
"""Fields with a number per edge."""

T = TypeVar("T")


def _outside_inference(function: Callable[["GraphStructure"], T]) -> Callable[["GraphStructure"], T]:
    """Let a function make no tensors of inference mode: they are kept, and no backward pass could save them later."""

    @wraps(function)
    def run(structure: "GraphStructure") -> T:
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            return function(structure)
        with torch.inference_mode(False):
            return function(structure)

    return run


@dataclass(frozen=True, eq=False)
class GraphStructure:
    """A batch of graphs with typed edges, sorted by destination and, a second time, by source.

    Edges are numbered in the forward order: by destination, then source, then type. An edge never leaves its item.
    Nothing is copied or checked here; `from_edges` does both. Tensors are not to be changed in place: where every edge
    has one that points back, those of both orders may be the same.

    Args:
        indptr: (N + 1,) the in-edges of node i are ``indptr[i] : indptr[i + 1]``.
        indices: (E,) source of each edge.
        etype: (E,) type of each edge, a 0-based position in `edge_types`.
        edge_types: names of the types.
        batch_num_nodes: (B,) number of nodes of each item.
        out_indptr: (N + 1,) the out-edges of node j are ``out_indptr[j] : out_indptr[j + 1]`` of the next two.
        out_indices: (E,) destinations, edges sorted by source, then destination, then type.
        out_edges: (E,) number of each of these edges in the forward order.
    """

    indptr: Int64[Tensor, " nodes_plus_one"]
    indices: Int64[Tensor, " edges"]
    etype: Int64[Tensor, " edges"]
    edge_types: tuple[str, ...]
    batch_num_nodes: Int64[Tensor, " items"]
    out_indptr: Int64[Tensor, " nodes_plus_one"]
    out_indices: Int64[Tensor, " edges"]
    out_edges: Int64[Tensor, " edges"]

    def __post_init__(self) -> None:
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                given = {name: x for name, x in vars(self).items() if isinstance(x, Tensor) and x.is_inference()}
                copies = {id(x): x.clone() for x in given.values()}
                for name, x in given.items():
                    object.__setattr__(self, name, copies[id(x)])

    @staticmethod
    def from_edges(
        sources: ArrayLike,
        destinations: ArrayLike,
        etype: ArrayLike,
        edge_types: Sequence[str],
        batch_num_nodes: ArrayLike,
    ) -> "GraphStructure":
        """Structure from edges in any order; parallel edges are kept.

        Args:
            sources: (E,) node numbers, counted through the whole batch.
            destinations: (E,) the same.
            etype: (E,) positions in `edge_types`.
            edge_types: names of the types, all different.
            batch_num_nodes: (B,) number of nodes of each item.

        Raises:
            ValueError: a node or type that does not exist, an edge between two items, or other numbers than whole ones.

        >>> one = GraphStructure.from_edges([2, 0], [1, 1], [0, 0], ["near"], [3])
        >>> one.indptr.tolist(), one.indices.tolist()
        ([0, 0, 2, 2], [0, 2])
        """
        edge_types = tuple(edge_types)
        given = (sources, destinations, etype, batch_num_nodes)
        names = ("sources", "destinations", "etype", "batch_num_nodes")
        sources, destinations, etype, batch_num_nodes = map(read_integers, given, names)
        check_edges(sources, destinations, etype, edge_types, batch_num_nodes)
        nodes = int(batch_num_nodes.sum())
        order = ((destinations * nodes + sources) * max(len(edge_types), 1) + etype).argsort(stable=True)
        sources, in_degree = sources[order], torch.bincount(destinations, minlength=nodes)
        forward = (in_degree, sources, etype[order])
        both_orders = (*forward, *by_source(in_degree, sources))
        return GraphStructure._from_columns(both_orders, edge_types, batch_num_nodes.clone())

    @staticmethod
    def _from_columns(
        columns: Sequence[Tensor], edge_types: tuple[str, ...], batch_num_nodes: Int64[Tensor, " items"]
    ) -> "GraphStructure":
        """Structure from what is sorted already, any integers. Nothing is checked.

        Args:
            columns: (N,) in-degrees, (E,) sources, (E,) types; (N,) out-degrees, (E,) `out_indices`, (E,) `out_edges`.
            edge_types: names of the types.
            batch_num_nodes: (B,) number of nodes of each item.
        """
        in_degree, indices, etype, out_degree, out_indices, out_edges = columns
        indptr, out_indptr = offsets(in_degree), offsets(out_degree)
        indices, out_indices = indices.long(), out_indices.long()
        # Where every edge has one that points back, both orders are the same, and are held once.
        if torch.equal(out_indptr, indptr) and torch.equal(out_indices, indices):
            out_indptr, out_indices = indptr, indices
        return GraphStructure(
            indptr=indptr,
            indices=indices,
            etype=etype.long(),
            edge_types=edge_types,
            batch_num_nodes=batch_num_nodes,
            out_indptr=out_indptr,
            out_indices=out_indices,
            out_edges=out_edges.long(),
        )

    @staticmethod
    def of_nodes(edge_types: tuple[str, ...], batch_num_nodes: Int64[Tensor, " items"]) -> "GraphStructure":
        """Nodes and items alone, on the device of the numbers."""
        nodes = int(on_host(batch_num_nodes).sum())
        nowhere = to_device(torch.zeros(nodes + 1, dtype=torch.int64), batch_num_nodes.device)
        none = nowhere[:0]
        return GraphStructure(nowhere, none, none, edge_types, batch_num_nodes, nowhere, none, none)

    @staticmethod
    def batch(structures: Sequence["GraphStructure"]) -> "GraphStructure":
        """The structures one after another; an item stays an item, so batches can be batched.

        Raises:
            ValueError: no structure, or structures with different edge types.
        """
        if not structures:
            raise ValueError("GraphStructure.batch: the list is empty; give at least one structure")
        first = structures[0]
        for position, other in enumerate(structures):
            if other.edge_types != first.edge_types:
                raise ValueError(
                    f"GraphStructure.batch: structure {position} has the edge types {other.edge_types}, "
                    f"structure 0 has {first.edge_types}; batch only structures of one kind"
                )
        nodes = list(accumulate((s.num_nodes for s in structures), initial=0))[:-1]
        edges = list(accumulate((s.num_edges for s in structures), initial=0))[:-1]

        def joined(name: str, shifts: Sequence[int]) -> Tensor:
            return shifted([getattr(s, name) for s in structures], shifts)

        def joined_pointers(name: str) -> Tensor:
            parts = [getattr(s, name)[1:] for s in structures]
            return shifted([getattr(first, name)[:1], *parts], [0, *edges])

        indptr, indices = joined_pointers("indptr"), joined("indices", nodes)
        symmetric = all(s._is_symmetric for s in structures)
        batch = GraphStructure(
            indptr=indptr,
            indices=indices,
            etype=torch.cat([s.etype for s in structures]),
            edge_types=first.edge_types,
            batch_num_nodes=first._there(torch.cat([on_host(s.batch_num_nodes) for s in structures])),
            out_indptr=indptr if symmetric else joined_pointers("out_indptr"),
            out_indices=indices if symmetric else joined("out_indices", nodes),
            out_edges=joined("out_edges", edges),
        )
        if all(s.__dict__.get("most_parallel") == 1 for s in structures):
            batch.__dict__["most_parallel"] = 1
        return batch

    def select(self, items: ArrayLike) -> "GraphStructure":
        """The batch made of these items, in this order; an item may come several times.

        Args:
            items: (K,) positions, 0 to B - 1.

        Raises:
            ValueError: an item that does not exist.
        """
        return self._chosen(*self._items_and_nodes(items))

    def _later(self, items: ArrayLike) -> "GraphStructure":
        """As `select`, but a tensor of edges is made when it is first read, and takes no memory until then."""
        return self._with_fewer(_Selection(self, *self._items_and_nodes(items)))

    def item_nodes(self, items: ArrayLike) -> Int64[Tensor, " nodes"]:
        """The nodes of these items, one item after another: node n of `select(items)` is node ``item_nodes(items)[n]``.

        Args:
            items: (K,) positions, 0 to B - 1; an item may come several times.

        Raises:
            ValueError: an item that does not exist.
        """
        return self._there(self._items_and_nodes(items)[1])

    def select_with_nodes(self, items: ArrayLike) -> tuple["GraphStructure", Int64[Tensor, " nodes"]]:
        """`select` and `item_nodes` of the same items, at the cost of one."""
        chosen, nodes = self._items_and_nodes(items)
        return self._chosen(chosen, nodes), self._there(nodes)

    def _chosen(self, items: Tensor, nodes: Tensor) -> "GraphStructure":
        if not self.num_edges:
            counts = on_host(self.batch_num_nodes)[items]
            return self._with_fewer(GraphStructure.of_nodes(self.edge_types, self._there(counts)))
        chosen = _Selection(self, items, nodes)
        return self._with_fewer(GraphStructure(**{f.name: getattr(chosen, f.name) for f in fields(self)}))

    def _items_and_nodes(self, items: ArrayLike) -> tuple[Tensor, Tensor]:
        items = on_host(read_integers(items, "items"))
        low, high = items.aminmax() if len(items) else (0, -1)
        if low < 0 or high >= self.batch_size:
            wrong = (items < 0) | (items >= self.batch_size)
            raise ValueError(
                f"item {int(items[wrong][0])} does not exist; the batch has {self.batch_size} items, counted from 0"
            )
        return items, ragged_arange(on_host(self.item_indptr)[items], on_host(self.batch_num_nodes)[items])

    def _there(self, x: Tensor) -> Tensor:
        """A tensor of the host, on the structure's device."""
        return to_device(x, self.device)

    def without_edges(self) -> "GraphStructure":
        """The nodes and items alone."""
        return GraphStructure.of_nodes(self.edge_types, self.batch_num_nodes) if self.num_edges else self

    def keep_edges(self, keep: Bool[Tensor, " edges"], count: int | None = None) -> "GraphStructure":
        """The graphs with some of their edges; every node stays.

        Args:
            keep: (E,) True for the edges that stay.
            count: number of those edges; without it, this waits for the device. Compared with `keep` on the CPU alone.

        Raises:
            ValueError: not one truth value per edge, or another number of them.
        """
        if keep.dtype != torch.bool or keep.shape != self.indices.shape:
            raise ValueError(
                f"keep is {keep.dtype} of the shape {tuple(keep.shape)}; give one truth value per edge, "
                f"({self.num_edges},) of torch.bool"
            )
        if count is None:
            count = int(keep.sum())
        elif keep.device.type == "cpu" and not torch.compiler.is_compiling() and int(keep.sum()) != count:
            raise ValueError(f"count is {count}, but keep is True for {int(keep.sum())} edges")
        by_source = keep[self.out_edges]
        kept, kept_out = (torch.nonzero_static(mask, size=count).squeeze(1) for mask in (keep, by_source))
        before = offsets(keep)
        fewer = self._with(
            indptr=before[self.indptr],
            indices=self.indices[kept],
            etype=self.etype[kept],
            out_indptr=offsets(by_source)[self.out_indptr],
            out_indices=self.out_indices[kept_out],
            out_edges=before[self.out_edges[kept_out]],
        )
        return self._with_fewer(fewer)

    @property
    def num_nodes(self) -> int:
        """Number of nodes of the whole batch."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """Number of edges of the whole batch."""
        return len(self.indices)

    @property
    def num_types(self) -> int:
        """Number of edge types, those without edges included."""
        return len(self.edge_types)

    @property
    def batch_size(self) -> int:
        """Number of items in the batch, those without nodes included."""
        return len(self.batch_num_nodes)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.indptr.device

    @property
    def sources(self) -> Int64[Tensor, " edges"]:
        """(E,) source of each edge: `indices`."""
        return self.indices

    @property
    def destinations(self) -> Int64[Tensor, " edges"]:
        """(E,) destination of each edge, ascending; computed once."""
        # A compiler cannot trace a cache; it computes these once per graph by itself.
        return self._find_destinations() if torch.compiler.is_compiling() else self._destinations

    @cached_property
    @_outside_inference
    def _destinations(self) -> Tensor:
        return self._find_destinations()

    def _find_destinations(self) -> Tensor:
        nodes = torch.arange(self.num_nodes, device=self.device)
        return torch.repeat_interleave(nodes, self.indptr.diff(), output_size=self.num_edges)

    @property
    def out_etype(self) -> Int64[Tensor, " edges"]:
        """(E,) type of each edge, sorted by source as `out_indices`; computed once."""
        return self.etype[self.out_edges] if torch.compiler.is_compiling() else self._out_etype

    @cached_property
    @_outside_inference
    def _out_etype(self) -> Tensor:
        return self.etype[self.out_edges]

    @property
    def edge_index(self) -> Int64[Tensor, "2 edges"]:
        """(2, E) sources and destinations in the forward order, as PyTorch Geometric takes them; a new tensor.

        Column e belongs to ``etype[e]``.
        """
        return torch.stack([self.sources, self.destinations])

    @cached_property
    @_outside_inference
    def item_indptr(self) -> Int64[Tensor, " items_plus_one"]:
        """(B + 1,) the nodes of item b are ``item_indptr[b] : item_indptr[b + 1]``."""
        return self._there(offsets(on_host(self.batch_num_nodes)))

    @property
    def node_item(self) -> Int64[Tensor, " nodes"]:
        """(N,) item that each node belongs to, ascending; computed once."""
        return self._find_node_item() if torch.compiler.is_compiling() else self._node_item

    @cached_property
    @_outside_inference
    def _node_item(self) -> Tensor:
        sizes = on_host(self.batch_num_nodes)
        return self._there(torch.arange(len(sizes)).repeat_interleave(sizes, output_size=self.num_nodes))

    def _find_node_item(self) -> Tensor:
        items = torch.arange(len(self.batch_num_nodes), device=self.device)
        return torch.repeat_interleave(items, self.batch_num_nodes, output_size=self.num_nodes)

    @cached_property
    @_outside_inference
    def num_pairs(self) -> int:
        """Number of ordered pairs of nodes of one item, a node with itself included."""
        return int(on_host(self.batch_num_nodes).square().sum())

    def pieces(self, edges: int) -> Iterator[tuple[slice, slice, "GraphStructure"]]:
        """Consecutive items with at most `edges` edges together, or one item: their nodes, their edges and their graph.

        A batch with at most `edges` edges is one piece, the structure itself.
        """
        for items, nodes, own in self._cut(edges):
            yield nodes, own, self._piece(items, nodes, own)

    def ranges(self, edges: int) -> Iterator[tuple[slice, slice]]:
        """Nodes and edges of the `pieces`, without their graphs."""
        return ((nodes, own) for _, nodes, own in self._cut(edges))

    def _cut(self, edges: int) -> Iterator[tuple[slice, slice, slice]]:
        if self.num_edges <= edges:
            # Does not wait for the device.
            return iter([(slice(0, self.batch_size), slice(0, self.num_nodes), slice(0, self.num_edges))])
        return cut(on_host(self.batch_num_nodes).tolist(), self.item_edges, edges)

    def _piece(self, items: slice, nodes: slice, edges: slice) -> "GraphStructure":
        if nodes == slice(0, self.num_nodes):
            return self
        pointers = slice(nodes.start, nodes.stop + 1)
        # Edges stay inside their item: those of an item are one range, and the same range in both orders.
        return self._with(
            indptr=self.indptr[pointers] - edges.start,
            indices=self.indices[edges] - nodes.start,
            etype=self.etype[edges],
            batch_num_nodes=self.batch_num_nodes[items],
            out_indptr=self.out_indptr[pointers] - edges.start,
            out_indices=self.out_indices[edges] - nodes.start,
            out_edges=self.out_edges[edges] - edges.start,
        )

    @cached_property
    @_outside_inference
    def item_edges(self) -> list[int]:
        """First edge of each item, and the number of all edges."""
        return on_host(self.indptr)[on_host(self.item_indptr)].tolist()

    @cached_property
    @_outside_inference
    def groups(self) -> tuple[ItemGroup, ...]:
        """The items as padded matrices, a few at a time; items without nodes left out. Waits for the device."""
        sizes = on_host(self.batch_num_nodes).tolist()
        return item_groups(sizes, self.indices, self.destinations, self.etype, self.num_types)

    @cached_property
    @_outside_inference
    def most_parallel(self) -> int:
        """Largest number of edges from one node to another one, 1 where there is none.

        Waits for the device, unless the structure was moved there, or made of one of which it was known.
        """
        again = self.indices[1:] == self.indices[:-1]
        bounds = self.indptr[1:-1]
        again[bounds[(bounds > 0) & (bounds < self.num_edges)] - 1] = False  # two destinations with the same source
        if not again.any():
            return 1
        first = torch.cat([again.new_zeros(1), again]).logical_not_().nonzero().flatten()
        return int(torch.cat([first, first.new_full((1,), self.num_edges)]).diff().max())

    def _with_fewer(self, other: "GraphStructure") -> "GraphStructure":
        """`other`, a structure of items or edges of this one: where none are parallel here, none are there."""
        if self.__dict__.get("most_parallel") == 1:
            other.__dict__["most_parallel"] = 1
        return other

    @cached_property
    @_outside_inference
    def tiles(self) -> Tiles | None:
        """The edges as a byte for any two nodes of an item; None where they are too many. See `most_parallel`."""
        longest = self._longest
        if longest > Tiles.MOST_NODES or self.num_types > Tiles.MOST_TYPES or self.most_parallel > Tiles.MOST_PARALLEL:
            return None
        # Not kept: only edges with a number of their own ask for `tile_cells`.
        return Tiles.of(longest, self.most_parallel, self.num_nodes, self._find_cells(), self.etype, self.num_types)

    @cached_property
    @_outside_inference
    def tile_cells(self) -> Int64[Tensor, " edges"]:
        """(E,) where each edge is in the flat planes of `tiles`."""
        return self._find_cells()

    def _find_cells(self) -> Tensor:
        first_N = self.item_indptr.index_select(0, self.node_item)
        width = Tiles.width(self._longest)
        return tile_cells(self.most_parallel, first_N, width, self.indices, self.destinations)

    @property
    def _longest(self) -> int:
        return int(on_host(self.batch_num_nodes).max()) if self.batch_size else 0

    def reverse(self) -> "GraphStructure":
        """The graph with every edge reversed and its type kept; computed once."""
        return self._turn() if torch.compiler.is_compiling() else self._reversed

    @cached_property
    @_outside_inference
    def _reversed(self) -> "GraphStructure":
        return self._with_fewer(self._turn())

    def _turn(self) -> "GraphStructure":
        forward = torch.empty_like(self.out_edges)
        forward[self.out_edges] = torch.arange(self.num_edges, device=self.device)
        return GraphStructure(
            indptr=self.out_indptr,
            indices=self.out_indices,
            etype=self.out_etype,
            edge_types=self.edge_types,
            batch_num_nodes=self.batch_num_nodes,
            out_indptr=self.indptr,
            out_indices=self.indices,
            out_edges=forward,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "GraphStructure":
        """The structure on `device`; itself if it is there already."""
        if self.device == torch.device(device):
            return self
        # Of the edges, the host need not know more than their number and whether some are parallel.
        moved = self._mapped(lambda name, x: to_device(x, device, non_blocking, known=name not in EDGES))
        if self.device.type == "cpu":
            moved.__dict__["most_parallel"] = self.most_parallel
        return moved

    def pin_memory(self) -> "GraphStructure":
        """The structure in page-locked memory, from which copies to a GPU run asynchronously."""
        return self._mapped(lambda _, x: x.pin_memory())

    def _with(self, **changes: Any) -> "GraphStructure":
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in changes}
        return GraphStructure(**kept, **changes)

    def _mapped(self, function: Callable[[str, Tensor], Tensor]) -> "GraphStructure":
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "edge_types"}
        # Where both orders are the same tensors they stay so.
        mapped = {id(tensor): function(name, tensor) for name, tensor in tensors.items()}
        return self._with(**{name: mapped[id(tensor)] for name, tensor in tensors.items()})

    @property
    def _is_symmetric(self) -> bool:
        """Whether both orders are the same tensors: every edge has one that points back."""
        return self.out_indices is self.indices and self.out_indptr is self.indptr

    def to_dgl(self) -> dgl.DGLGraph:
        """The batched heterograph with node type ``proposal``; built once, and rebuilt after somebody changed it.

        Edges of one type keep the forward order. It is on the structure's device if DGL supports that, else on the CPU.

        Raises:
            ValueError: there are no edge types, without which DGL has no graph.
        """
        if not self.num_types:
            raise ValueError("to_dgl: the structure has no edge types, and DGL needs one; homogeneous() needs none")
        return self._unchanged("_heterograph")

    def homogeneous(self) -> dgl.DGLGraph:
        """The graph with one edge type and edges numbered in the forward order; otherwise as `to_dgl`."""
        return self._unchanged("_homogeneous")

    def _unchanged(self, name: str) -> dgl.DGLGraph:
        graph, index = getattr(self, name)
        if graph._graph is not index:  # DGL replaces it where edges or nodes are added or removed
            del self.__dict__[name]
            graph, _ = getattr(self, name)
        return graph

    @cached_property
    @_outside_inference
    def _heterograph(self) -> tuple[dgl.DGLGraph, object]:
        if self.num_types == 1:
            graph = _dgl_graphs.of_one_type(self.indptr, self.indices, self.batch_num_nodes, self.edge_types[0])
            return graph, graph._graph
        # Bytes are sorted by counting.
        number = (self.etype + 1).to(torch.uint8 if self.num_types < 256 else torch.int64)
        columns = (number, self.indices, self.destinations, self.indptr[self.item_indptr[1:]])
        graph = _dgl_graphs.heterograph(*columns, self.edge_types, self.batch_num_nodes)
        return graph, graph._graph

    @cached_property
    @_outside_inference
    def _homogeneous(self) -> tuple[dgl.DGLGraph, object]:
        graph = _dgl_graphs.of_one_type(self.indptr, self.indices, self.batch_num_nodes)
        return graph, graph._graph

    def __getstate__(self) -> dict:
        # What was computed from the tensors is cheaper to compute than to send to another process.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __repr__(self) -> str:
        return (
            f"GraphStructure(items={len(self.batch_num_nodes)}, nodes={self.num_nodes}, edges={self.num_edges}, "
            f"types={self.num_types}, device={str(self.device)!r})"
        )


class _Selection(LazySelection, GraphStructure):
    """Items of a structure, see `GraphStructure._later`."""

    def __new__(cls, *given: Any, **fields: Any) -> Any:
        # `dataclasses.replace` gives the fields of a structure, and gets one.
        return GraphStructure(**fields) if fields else super().__new__(cls)
