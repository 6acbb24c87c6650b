"""Transformations that take from chosen proposals what the alignment may rest on.

The same functions serve the destructive transformation, which is given the critical proposals, and the robust one,
which is given the inessential ones.
"""

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
    """Put rows of other samples in the place of the chosen ones: the feature and the interaction level.

    Args:
        features: proposal features h (feature level), or their language features c (interaction level).
        chosen: proposals to change.
        bank: features of other samples.
        owners: sample that each row belongs to.
        generator: source of the randomness, on the CPU.

    Returns:
        (N, dim); rows that were not chosen keep their bits and their gradients, the others have no gradient.

    Raises:
        ValueError: the bank holds fewer than two samples.
    """
    places = chosen.nonzero().squeeze(1)
    return features.index_copy(0, places, bank.draw(owners[places], generator).to(features.dtype))


def destroy_edges(
    structure: GraphStructure,
    chosen: Bool[Tensor, " nodes"],
    change: EdgeChange = "removed",
    generator: torch.Generator | None = None,
) -> GraphStructure:
    """Destroy the edges from and to the chosen proposals: the relation level.

    A loop from a proposal to itself is no relation and stays.

    Args:
        structure: the graphs.
        chosen: proposals to change.
        change: removed: the edges are gone; rewired: the end that is not chosen (of two chosen ends the source) moves
            to a proposal of the same item drawn at random, but not onto the other end; retyped: the edge gets another
            type, drawn from all others.
        generator: source of the randomness, on the CPU.

    Returns:
        A new structure; edges that touch no chosen proposal are as they were. Rewired and retyped keep the number of
        edges (two of the same ends and type may then lie side by side).

    Raises:
        ValueError: an unknown change, or another type wanted where there is one type only.
    """
    if change not in get_args(EdgeChange):
        raise ValueError(f"change is {change!r}; it is one of {', '.join(get_args(EdgeChange))}")
    sources, destinations = structure.indices, structure.destinations
    touched = (chosen[sources] | chosen[destinations]) & (sources != destinations)
    if change == "removed":
        return structure.keep_edges(~touched)
    edges = touched.nonzero().squeeze(1)
    sources, destinations, etype = sources.clone(), destinations.clone(), structure.etype.clone()
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
        # One of the n - 1 places other than the kept end.
        share = torch.rand(len(edges), generator=generator, dtype=torch.float64).to(kept.device)
        moved = (share * (counts - 1)).long().clamp(max=counts - 2)
        moved = moved + (moved >= kept) + first
        sources[edges] = torch.where(at_source, moved, sources[edges])
        destinations[edges] = torch.where(at_source, destinations[edges], moved)
    return GraphStructure.from_edges(sources, destinations, etype, structure.edge_types, structure.batch_num_nodes)
