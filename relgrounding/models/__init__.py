"""Grounding models; each file reads like its equations."""

from relgrounding.models._ign import IGN
from relgrounding.models._vgn import VGN, Encoded

__all__ = ["IGN", "VGN", "Encoded"]
