"""``GraphStructure``: a batch of proposal graphs as the plain tensors that kernels read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from relgrounding._dgl import dgl
from relgrounding.graphs import _dgl_graphs
from relgrounding.graphs._edge_checks import check_edges
from relgrounding.graphs._padded import ItemGroup, item_groups
from relgrounding.graphs._pieces import pieces, ranges
from relgrounding.graphs._ragged import offsets, ragged_arange


@dataclass(frozen=True, eq=False)
class GraphStructure:
    """A batch of graphs with typed edges, sorted by destination and, a second time, by source.

    Edges are numbered in the forward order: by destination, then source, then type. An edge never leaves its item.
    Nothing is copied or checked here; `from_edges` does both.

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

    @staticmethod
    def from_edges(
        sources: Int64[Tensor, " edges"],
        destinations: Int64[Tensor, " edges"],
        etype: Int64[Tensor, " edges"],
        edge_types: Sequence[str],
        batch_num_nodes: Int64[Tensor, " items"],
    ) -> "GraphStructure":
        """Structure from edges in any order; parallel edges are kept.

        Args:
            sources: (E,) node numbers, counted through the whole batch.
            destinations: (E,) the same.
            etype: (E,) positions in `edge_types`.
            edge_types: names of the types, all different.
            batch_num_nodes: (B,) number of nodes of each item.

        Raises:
            ValueError: a node or type that does not exist, or an edge between two items.

        >>> one = GraphStructure.from_edges(
        ...     torch.tensor([2, 0]), torch.tensor([1, 1]), torch.tensor([0, 0]), ["near"], torch.tensor([3])
        ... )
        >>> one.indptr.tolist(), one.indices.tolist()
        ([0, 0, 2, 2], [0, 2])
        """
        edge_types = tuple(edge_types)
        check_edges(sources, destinations, etype, edge_types, batch_num_nodes)
        nodes = int(batch_num_nodes.sum())
        order = ((destinations * nodes + sources) * max(len(edge_types), 1) + etype).argsort(stable=True)
        sources, destinations = sources[order], destinations[order]
        # A stable sort by source keeps the order by destination and type within one source.
        out_edges = sources.argsort(stable=True)
        return GraphStructure(
            indptr=offsets(torch.bincount(destinations, minlength=nodes)),
            indices=sources,
            etype=etype[order],
            edge_types=edge_types,
            batch_num_nodes=batch_num_nodes,
            out_indptr=offsets(torch.bincount(sources, minlength=nodes)),
            out_indices=destinations[out_edges],
            out_edges=out_edges,
        )

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

        def joined(name: str, shifts: Sequence[int] = ()) -> Tensor:
            parts = [getattr(s, name) for s in structures]
            return torch.cat([part + shift for part, shift in zip(parts, shifts, strict=True)] if shifts else parts)

        def joined_pointers(name: str) -> Tensor:
            ends = [getattr(s, name)[1:] + shift for s, shift in zip(structures, edges, strict=True)]
            return torch.cat([getattr(first, name)[:1], *ends])

        return GraphStructure(
            indptr=joined_pointers("indptr"),
            indices=joined("indices", nodes),
            etype=joined("etype"),
            edge_types=first.edge_types,
            batch_num_nodes=joined("batch_num_nodes"),
            out_indptr=joined_pointers("out_indptr"),
            out_indices=joined("out_indices", nodes),
            out_edges=joined("out_edges", edges),
        )

    def select(self, items: Int64[Tensor, " selected"]) -> "GraphStructure":
        """The batch made of these items, in this order; an item may come several times.

        Args:
            items: (K,) positions, 0 to B - 1.

        Raises:
            ValueError: an item that does not exist.
        """
        nodes = self.item_nodes(items)
        items = items.to(self.device)
        starts = offsets(self.batch_num_nodes)[:-1][items]
        counts = self.batch_num_nodes[items]
        # Edges stay inside their item: those of an item are one range, and the same range in both orders.
        edge_starts = self.indptr[starts]
        edge_counts = self.indptr[starts + counts] - edge_starts
        total = int(edge_counts.sum())
        node_shift = (counts.cumsum(0) - counts - starts).repeat_interleave(edge_counts, output_size=total)
        edge_shift = edge_counts.cumsum(0) - edge_counts - edge_starts
        edge_shift = edge_shift.repeat_interleave(edge_counts, output_size=total)
        edges = torch.arange(total, device=self.device) - edge_shift

        def taken(name: str) -> Tensor:
            return getattr(self, name).index_select(0, edges)

        return GraphStructure(
            indptr=offsets(self.indptr.diff()[nodes]),
            indices=taken("indices").add_(node_shift),
            etype=taken("etype"),
            edge_types=self.edge_types,
            batch_num_nodes=counts,
            out_indptr=offsets(self.out_indptr.diff()[nodes]),
            out_indices=taken("out_indices").add_(node_shift),
            out_edges=taken("out_edges").add_(edge_shift),
        )

    def item_nodes(self, items: Int64[Tensor, " selected"]) -> Int64[Tensor, " nodes"]:
        """The nodes of these items, one item after another: node n of `select(items)` is node ``item_nodes(items)[n]``.

        Args:
            items: (K,) positions, 0 to B - 1; an item may come several times.

        Raises:
            ValueError: an item that does not exist.
        """
        if items.dtype in (torch.bool, torch.float32, torch.float64) or items.ndim != 1:
            raise ValueError(f"items are {items.dtype} of shape {tuple(items.shape)}; give a list of whole numbers")
        wrong = (items < 0) | (items >= len(self.batch_num_nodes))
        if wrong.any():
            raise ValueError(
                f"item {int(items[wrong][0])} does not exist; "
                f"the batch has {len(self.batch_num_nodes)} items, counted from 0"
            )
        items = items.to(self.device)
        return ragged_arange(offsets(self.batch_num_nodes)[:-1][items], self.batch_num_nodes[items])

    def without_edges(self) -> "GraphStructure":
        """The nodes and items alone."""
        none, nowhere = self.indices[:0], torch.zeros_like(self.indptr)
        return replace(
            self,
            indptr=nowhere,
            indices=none,
            etype=none,
            out_indptr=nowhere,
            out_indices=none,
            out_edges=none,
        )

    def keep_edges(self, keep: Bool[Tensor, " edges"]) -> "GraphStructure":
        """The graphs with some of their edges; every node stays.

        Args:
            keep: (E,) True for the edges that stay.
        """
        before = offsets(keep)
        kept_out = keep[self.out_edges]
        return replace(
            self,
            indptr=before[self.indptr],
            indices=self.indices[keep],
            etype=self.etype[keep],
            out_indptr=offsets(kept_out)[self.out_indptr],
            out_indices=self.out_indices[kept_out],
            out_edges=before[self.out_edges[kept_out]],
        )

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
        """Number of edge types, those without an edge included."""
        return len(self.edge_types)

    @property
    def batch_size(self) -> int:
        """Number of items of the batch, those without a node included."""
        return len(self.batch_num_nodes)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.indptr.device

    @property
    def destinations(self) -> Int64[Tensor, " edges"]:
        """(E,) destination of each edge, ascending; computed once."""
        # A compiler does not see through what is kept; it computes these once a graph by itself.
        return self._find_destinations() if torch.compiler.is_compiling() else self._destinations

    @cached_property
    def _destinations(self) -> Tensor:
        return self._find_destinations()

    def _find_destinations(self) -> Tensor:
        nodes = torch.arange(self.num_nodes, device=self.device)
        return torch.repeat_interleave(nodes, self.indptr.diff(), output_size=self.num_edges)

    @cached_property
    def node_item(self) -> Int64[Tensor, " nodes"]:
        """(N,) item that each node belongs to, ascending."""
        items = torch.arange(len(self.batch_num_nodes), device=self.device)
        return torch.repeat_interleave(items, self.batch_num_nodes, output_size=self.num_nodes)

    @cached_property
    def num_pairs(self) -> int:
        """Number of ordered pairs of nodes of one item, a node with itself included. Waits for the device."""
        return int(self.batch_num_nodes.square().sum())

    def pieces(self, edges: int) -> Iterator[tuple[slice, slice, "GraphStructure"]]:
        """Consecutive items of at most so many edges together, or one: their nodes, their edges and their graph.

        The graph itself, uncopied, where it has no more.
        """
        return pieces(self, edges)

    def ranges(self, edges: int) -> Iterator[tuple[slice, slice]]:
        """Nodes and edges of the `pieces`, without their graphs."""
        return ((nodes, own) for _, nodes, own in ranges(self, edges))

    @cached_property
    def item_edges(self) -> list[int]:
        """Number of the first edge of each item, and of all edges. Waits for the device."""
        return self.indptr[offsets(self.batch_num_nodes)].tolist()

    @cached_property
    def groups(self) -> tuple[ItemGroup, ...]:
        """The items as padded matrices, a few at a time; items without nodes left out. Waits for the device."""
        return item_groups(self)

    def reverse(self) -> "GraphStructure":
        """The graph with every edge turned round and its type kept; computed once."""
        return self._turn() if torch.compiler.is_compiling() else self._reversed

    @cached_property
    def _reversed(self) -> "GraphStructure":
        return self._turn()

    def _turn(self) -> "GraphStructure":
        forward = torch.empty_like(self.out_edges)
        forward[self.out_edges] = torch.arange(self.num_edges, device=self.device)
        return GraphStructure(
            indptr=self.out_indptr,
            indices=self.out_indices,
            etype=self.etype[self.out_edges],
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
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "GraphStructure":
        """The structure in page-locked memory, from where copies to a GPU run beside other work."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, function) -> "GraphStructure":
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "edge_types"}
        return replace(self, **{name: function(tensor) for name, tensor in tensors.items()})

    def to_dgl(self) -> dgl.DGLGraph:
        """The batched heterograph with node type ``proposal``; built once, and again after it was changed.

        Edges of one type keep the forward order. It lives on the structure's device where DGL can, else on the CPU.
        """
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
    def _heterograph(self) -> tuple[dgl.DGLGraph, object]:
        graph = _dgl_graphs.heterograph(self)
        return graph, graph._graph

    @cached_property
    def _homogeneous(self) -> tuple[dgl.DGLGraph, object]:
        graph = _dgl_graphs.homogeneous(self)
        return graph, graph._graph

    def __getstate__(self) -> dict:
        # What was computed from the tensors would only make the way between processes longer.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __repr__(self) -> str:
        return (
            f"GraphStructure(items={len(self.batch_num_nodes)}, nodes={self.num_nodes}, edges={self.num_edges}, "
            f"types={self.num_types}, device={str(self.device)!r})"
        )
