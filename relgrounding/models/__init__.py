"""Grounding systems; each file reads like its equations."""

from relgrounding.models._committee import (
    Committee,
    Plan,
    first_member,
    item_log_softmax,
    log_odds,
    shared_graph_options,
)
from relgrounding.models._compile import compile_pieces
from relgrounding.models._explain import Message, Recorded
from relgrounding.models._grounding import Encoded, GroundingModel
from relgrounding.models._relation import RELATIONS, Relation, register_relation
from relgrounding.models._system import MODELS, ModelConfig, System, first_weight, register_model
from relgrounding.models.arn import ARN, ARNConfig
from relgrounding.models.ign import IGN, IGNConfig
from relgrounding.models.scn import SCN, SCNConfig
from relgrounding.models.vgn import VGN, VGNConfig

__all__ = [
    "ARN",
    "IGN",
    "MODELS",
    "RELATIONS",
    "SCN",
    "VGN",
    "ARNConfig",
    "Committee",
    "Encoded",
    "GroundingModel",
    "IGNConfig",
    "Message",
    "ModelConfig",
    "Plan",
    "Recorded",
    "Relation",
    "SCNConfig",
    "System",
    "VGNConfig",
    "compile_pieces",
    "first_member",
    "first_weight",
    "item_log_softmax",
    "log_odds",
    "register_model",
    "register_relation",
    "shared_graph_options",
]
