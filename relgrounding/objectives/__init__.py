"""Training objectives."""

from relgrounding.objectives._bank import MemoryBank
from relgrounding.objectives._ccl import Bound, consistency_loss, ranking_loss
from relgrounding.objectives._counterfactual import EdgeChange, destroy_edges, replace_rows
from relgrounding.objectives._mil import contrastive_loss, draw_negatives, mil_loss
from relgrounding.objectives._selection import gradient_importance, split_proposals

__all__ = [
    "Bound",
    "EdgeChange",
    "MemoryBank",
    "consistency_loss",
    "contrastive_loss",
    "destroy_edges",
    "draw_negatives",
    "gradient_importance",
    "mil_loss",
    "ranking_loss",
    "replace_rows",
    "split_proposals",
]
