"""Operators and layers as one compiled graph, forward and backward, against eager; prints the backends that agree.

A second derivative is refused.
"""

import pytest
import torch

from relgrounding import nn, ops
from relgrounding.ops._cpp import cpp_reason
from tests.ops.cases import draw_inputs, structure_of, values_and_gradients

STRUCTURE = structure_of([5, 0, 1, 3], [(0, 1, 0), (1, 1, 0), (4, 2, 2), (6, 7, 1), (8, 7, 0)])


def agree(function, inputs) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(values_and_gradients(compiled, inputs), values_and_gradients(function, inputs))


def refuse_twice(layer) -> None:
    for compiler in ("aot_eager", "eager"):
        torch._dynamo.reset()
        (x,) = draw_inputs(0, [(9, 4)], torch.float32)
        compiled = torch.compile(lambda x: layer(STRUCTURE, x), fullgraph=True, backend=compiler)
        (gradient,) = torch.autograd.grad(compiled(x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match=r"double backward|not twice differentiable"):
            gradient.square().sum().backward()


for backend in ("naive", *(["cpp"] if cpp_reason() is None else []), "dense", "csr", "auto"):
    for operator, shapes in (
        (ops.graph_attention, [(9, 2, 3), (9, 2), (9, 2)]),
        (ops.gated_sum, [(9, 4), (9,), (3,), (3, 4)]),
        (ops.typed_comparison, [(9, 4), (9,), (9, 3), (3, 4), (5,)]),
        (ops.edge_dot, [(9, 4)]),
    ):
        if backend not in ("auto", *ops.backend_names(operator.__name__)):
            continue
        for dtype in (torch.float64, torch.bfloat16):
            agree(
                lambda *x, b=backend, run=operator: run(STRUCTURE, *x, backend=b).sin(), draw_inputs(0, shapes, dtype)
            )
    for layer in (nn.GraphAttention(4, 6, 2, backend=backend), nn.EdgeGatedGCN(4, 6, 3, backend=backend)):
        agree(lambda x, run=layer: run(STRUCTURE, x), draw_inputs(0, [(9, 4)], torch.float32))
        agree(
            lambda x, b, run=layer: torch.cat([y.flatten() for y in run(STRUCTURE, x, b, True)]),
            draw_inputs(0, [(9, 4), (5,)], torch.float32),
        )
        if backend != "naive":
            refuse_twice(layer)
    compare = nn.RelationalComparison(4, 3, 2, 3, backend=backend)
    torch.nn.init.normal_(compare.score.weight)
    agree(
        lambda x, c, q, b, run=compare: torch.cat(run(STRUCTURE, x, run.share(c, q), b, True)),
        draw_inputs(0, [(9, 4), (9, 3), (9, 2), (5,)], torch.float32),
    )
    if backend == "auto":
        similar = nn.EdgeSimilarity(4)
        agree(lambda x, run=similar: run(STRUCTURE, run.keys(x)), draw_inputs(0, [(9, 4)], torch.float32))
    print(backend)
