"""Training objectives: one file per objective holds its settings, losses and step."""

from relgrounding.objectives._bank import MemoryBank
from relgrounding.objectives._counterfactual import EdgeChange, destroy_edges, replace_rows
from relgrounding.objectives._objective import OBJECTIVES, Objective, register_objective
from relgrounding.objectives._pairings import align_pairings
from relgrounding.objectives._selection import gradient_importance, split_proposals
from relgrounding.objectives.ccl import CCL, Bound, CCLConfig, consistency_loss, ranking_loss
from relgrounding.objectives.cotrain import CoTraining, CoTrainingConfig, posterior_loss
from relgrounding.objectives.mil import MIL, MILConfig, contrastive_loss, draw_negatives, mil_loss
from relgrounding.objectives.reconstruction import Reconstruction, ReconstructionConfig, WordDecoder, draw_words
from relgrounding.objectives.scn import CompletionConfig, SemanticCompletion, choose_windows, draw_masked, reward_loss

__all__ = [
    "CCL",
    "MIL",
    "OBJECTIVES",
    "Bound",
    "CCLConfig",
    "CoTraining",
    "CoTrainingConfig",
    "CompletionConfig",
    "EdgeChange",
    "MILConfig",
    "MemoryBank",
    "Objective",
    "Reconstruction",
    "ReconstructionConfig",
    "SemanticCompletion",
    "WordDecoder",
    "align_pairings",
    "choose_windows",
    "consistency_loss",
    "contrastive_loss",
    "destroy_edges",
    "draw_masked",
    "draw_negatives",
    "draw_words",
    "gradient_importance",
    "mil_loss",
    "posterior_loss",
    "ranking_loss",
    "register_objective",
    "replace_rows",
    "reward_loss",
    "split_proposals",
]
