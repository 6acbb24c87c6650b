"""Message passing and other operators with hand-written gradients: one contract each, several backends."""

from relgrounding.ops._dispatch import as_structure, set_backend
from relgrounding.ops._registry import available_backends, backend_names, check_backend, register_backend
from relgrounding.ops.gated_sum import gated_sum
from relgrounding.ops.graph_attention import graph_attention

__all__ = [
    "as_structure",
    "available_backends",
    "backend_names",
    "check_backend",
    "gated_sum",
    "graph_attention",
    "register_backend",
    "set_backend",
]
