"""Counterfactual transformations of chosen proposals.

The destructive transformation applies these functions to the critical proposals, the robust one to the inessential
proposals.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relgrounding.graphs import GraphStructure
from relgrounding.objectives._bank import MemoryBank

EdgeChange = Literal["removed", "rewired", "retyped"]


def replace_rows(
    features: Float[Tensor, "nodes dim"],
    chosen: Bool[Tensor, " nodes"],
    bank: MemoryBank,
    owners: Int[Tensor, " nodes"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "nodes dim"]:
    """Replace the chosen rows by rows of other samples: the feature and the interaction level.

    Args:
        features: proposal features h (feature level), or their language features c (interaction level).
        chosen: proposals to change.
        bank: features of other samples.
        owners: id of the sample of each row.
        generator: source of the randomness, on the CPU.

    Returns:
        (N, dim); rows that are not chosen are unchanged and keep their gradients, replaced rows have none.

    Raises:
        ValueError: the bank holds fewer than two samples.
    """
    indices = chosen.nonzero().squeeze(1)
    return replace_at(features, indices, bank, owners[indices], generator)


def replace_at(
    features: Float[Tensor, "nodes dim"],
    indices: Int[Tensor, " chosen"],
    bank: MemoryBank,
    owners: Int[Tensor, " chosen"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "nodes dim"]:
    """`replace_rows` by the numbers of the rows, and the owners of these rows alone."""
    return features.index_copy(0, indices, bank.draw(owners, generator).to(features.dtype))


def remove_edges(structure: GraphStructure, masks: Sequence[Bool[Tensor, " nodes"]]) -> list[GraphStructure]:
    """Remove the edges from and to the proposals of each mask; waits for the device once, for the numbers of edges."""
    keep = [~_touched(structure, mask) for mask in masks]
    counts = torch.stack([kept.sum() for kept in keep]).tolist()
    return [structure.keep_edges(kept, count) for kept, count in zip(keep, counts, strict=True)]


def _touched(structure: GraphStructure, chosen: Bool[Tensor, " nodes"]) -> Bool[Tensor, " edges"]:
    sources, destinations = structure.indices, structure.destinations
    return (chosen[sources] | chosen[destinations]) & (sources != destinations)


def destroy_edges(
    structure: GraphStructure,
    chosen: Bool[Tensor, " nodes"],
    change: EdgeChange = "removed",
    generator: torch.Generator | None = None,
) -> GraphStructure:
    """Destroy the edges from and to the chosen proposals: the relation level.

    Self-loops are not relations and are kept.

    Args:
        structure: the proposal graphs.
        chosen: proposals to change.
        change: removed: the edges are deleted; rewired: the end that is not chosen (of two chosen ends, the source)
            moves to a random proposal of the same item other than the kept end; retyped: the edge gets a random other
            type.
        generator: source of the randomness, on the CPU.

    Returns:
        A new structure; edges that touch no chosen proposal are unchanged. Rewired and retyped keep the number of edges
        (and may create duplicate edges).

    Raises:
        ValueError: `change` is unknown, or retyped with a single edge type.
    """
    if change not in get_args(EdgeChange):
        raise ValueError(f"change is {change!r}; it is one of {', '.join(get_args(EdgeChange))}")
    if change == "removed":
        return remove_edges(structure, [chosen])[0]
    edges = _touched(structure, chosen).nonzero().squeeze(1)
    sources, destinations, etype = (x.clone() for x in (structure.indices, structure.destinations, structure.etype))
    if change == "retyped":
        if structure.num_types < 2:
            raise ValueError(f"edges of the one type {structure.edge_types} cannot get another; use removed or rewired")
        shift = torch.randint(1, structure.num_types, (len(edges),), generator=generator).to(etype.device)
        etype[edges] = (etype[edges] + shift) % structure.num_types
    else:
        item = structure.node_item[sources[edges]]
        counts = structure.batch_num_nodes[item]
        first = structure.batch_num_nodes.cumsum(0)[item] - counts
        at_source = chosen[destinations[edges]]
        kept = torch.where(at_source, destinations[edges], sources[edges]) - first
        # One of the n - 1 nodes other than the kept end.
        share = torch.rand(len(edges), generator=generator, dtype=torch.float64).to(kept.device)
        moved = (share * (counts - 1)).long().clamp(max=counts - 2)
        moved = moved + (moved >= kept) + first
        sources[edges] = torch.where(at_source, moved, sources[edges])
        destinations[edges] = torch.where(at_source, destinations[edges], moved)
    return GraphStructure.from_edges(sources, destinations, etype, structure.edge_types, structure.batch_num_nodes)
