"""Parts of models whose backward is written out: few passes over memory, and products of few shapes."""

from relgrounding.ops._fused._gates import open_gates
from relgrounding.ops._fused._linear import linear

__all__ = ["linear", "open_gates"]
