"""Grounding models; each file reads like its equations."""

from relgrounding.models._grounding import Encoded, GroundingModel
from relgrounding.models._ign import IGN
from relgrounding.models._vgn import VGN

__all__ = ["IGN", "VGN", "Encoded", "GroundingModel"]
