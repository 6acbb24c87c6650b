"""Grounding systems; each file reads like its equations."""

from relgrounding.models._grounding import Encoded, GroundingModel
from relgrounding.models._relation import RELATIONS, Relation, register_relation
from relgrounding.models._system import MODELS, ModelConfig, System, first_weight, register_model
from relgrounding.models.ign import IGN, IGNConfig
from relgrounding.models.scn import SCN, SCNConfig
from relgrounding.models.vgn import VGN, VGNConfig

__all__ = [
    "IGN",
    "MODELS",
    "RELATIONS",
    "SCN",
    "VGN",
    "Encoded",
    "GroundingModel",
    "IGNConfig",
    "ModelConfig",
    "Relation",
    "SCNConfig",
    "System",
    "VGNConfig",
    "first_weight",
    "register_model",
    "register_relation",
]
