"""Message-passing operators: one contract, several backends."""

from relgrounding.ops._dispatch import as_structure, available_backends, set_backend
from relgrounding.ops.gated_sum import gated_sum
from relgrounding.ops.graph_attention import graph_attention

__all__ = ["as_structure", "available_backends", "gated_sum", "graph_attention", "set_backend"]
