import pytest
import torch
from ops_oracles import attention_shapes, draw_inputs, structure_of, values_and_gradients

from relgrounding._dgl import dgl
from relgrounding.ops import graph_attention

backends = pytest.mark.parametrize("backend", ["naive", "dgl", "cpp", "dense", "csr"])


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_in_edge_copies_its_source_whatever_the_score(backend, dtype):
    feat, source, destination = draw_inputs(0, attention_shapes(3, 3, 4), dtype, scale=1e4)
    out = graph_attention(structure_of([3], [(2, 0, 1)]), feat, source, destination, backend=backend)
    torch.testing.assert_close(out[0], feat[2])


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_enormous_scores_are_a_choice_and_not_an_overflow(backend, dtype):
    feat, _, _ = draw_inputs(0, attention_shapes(4, 1, 8), dtype)
    source = torch.tensor([[1e4], [-1e4], [9e3], [0.0]], dtype=dtype, requires_grad=True)
    for offset in (-1e4, 0.0, 1e4):
        destination = torch.full((4, 1), offset, dtype=dtype, requires_grad=True)
        out, *gradients = values_and_gradients(
            lambda *x: graph_attention(structure_of([4], [(0, 3, 0), (1, 3, 0), (2, 3, 0)]), *x, backend=backend),
            [feat, source, destination],
        )
        torch.testing.assert_close(out[3], feat[0].detach())
        assert all(g.isfinite().all() for g in gradients)


@backends
def test_weights_sum_to_one(backend):
    structure = structure_of([3], [(j, i, 0) for i in range(3) for j in range(3)])
    _, source, destination = draw_inputs(0, attention_shapes(3, 2, 1))
    out = graph_attention(structure, torch.ones(3, 2, 5, dtype=torch.float64), source, destination, backend=backend)
    torch.testing.assert_close(out, torch.ones_like(out))


def test_agrees_with_the_gat_layer_of_dgl():
    structure = structure_of([5], [(j, i, 0) for i in range(5) for j in range(5) if (i + j) % 3], types=1)
    layer = dgl.nn.GATConv(6, 4, 3, bias=False)
    x = torch.randn(5, 6)
    feat = layer.fc(x).view(5, 3, 4)
    scores = [(feat * a).sum(-1) for a in (layer.attn_l, layer.attn_r)]
    torch.testing.assert_close(graph_attention(structure, feat, *scores), layer(structure.to_dgl(), x))
