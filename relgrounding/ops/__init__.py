"""Message passing and other operators with hand-written gradients: one contract each, several backends."""

from relgrounding.ops._choice import set_backend
from relgrounding.ops._dispatch import as_structure
from relgrounding.ops._registry import available_backends, backend_names, check_backend, register_backend
from relgrounding.ops.additive_attention import additive_attention
from relgrounding.ops.edge_dot import edge_dot
from relgrounding.ops.gated_sum import gated_sum
from relgrounding.ops.graph_attention import graph_attention
from relgrounding.ops.gru import gru
from relgrounding.ops.typed_comparison import typed_comparison
from relgrounding.ops.window_max import window_max

__all__ = [
    "additive_attention",
    "as_structure",
    "available_backends",
    "backend_names",
    "check_backend",
    "edge_dot",
    "gated_sum",
    "graph_attention",
    "gru",
    "register_backend",
    "set_backend",
    "typed_comparison",
    "window_max",
]
