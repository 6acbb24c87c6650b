import pytest
import torch
from ops_oracles import draw_inputs, gated_shapes, structure_of, values_and_gradients

from relgrounding.ops import gated_sum

backends = pytest.mark.parametrize("backend", ["naive", "dgl", "cpp", "dense", "csr"])


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_enormous_logits_open_and_close_the_gate(backend, dtype):
    feat, _, gate_bias, type_bias = draw_inputs(0, gated_shapes(3, 3, 8), dtype)
    gate = torch.tensor([1e4, -1e4, 0], dtype=dtype, requires_grad=True)
    out, *gradients = values_and_gradients(
        lambda *x: gated_sum(structure_of([3], [(0, 2, 1), (1, 2, 0)]), *x, backend=backend),
        [feat, gate, gate_bias, type_bias],
    )
    torch.testing.assert_close(out[2], (feat[0] + type_bias[1]).detach())
    assert all(g.isfinite().all() for g in gradients)


@backends
def test_out_edges_through_the_reversed_structure(backend):
    edges = [(0, 1, 0), (2, 1, 1), (1, 2, 2)]
    inputs = draw_inputs(0, gated_shapes(3, 3, 4))
    turned = structure_of([3], [(d, s, r) for s, d, r in edges])
    out = [gated_sum(graph, *inputs, backend=backend) for graph in (structure_of([3], edges).reverse(), turned)]
    torch.testing.assert_close(*out)
