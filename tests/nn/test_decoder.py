import math

import pytest
import torch

from relgrounding.nn import DecoderLayer, DecoderStack, sinusoidal_positions


def attention(part, queries, keys, seen):
    """Attention of one sequence to another, position by position and head by head."""
    width, heads = part.embed_dim, part.num_heads
    maps = list(zip(part.in_proj_weight.split(width), part.in_proj_bias.split(width), strict=True))
    q, k, v = (x @ w.T + b for x, (w, b) in zip((queries, keys, keys), maps, strict=True))
    rows = []
    for i in range(len(q)):
        parts = []
        for h in range(heads):
            columns = slice(h * width // heads, (h + 1) * width // heads)
            allowed = [j for j in range(len(k)) if seen(i, j)]
            logits = torch.stack([q[i, columns] @ k[j, columns] / math.sqrt(width // heads) for j in allowed])
            parts.append(sum(a * v[j, columns] for a, j in zip(logits.softmax(0), allowed, strict=True)))
        rows.append(part.out_proj(torch.cat(parts)))
    return torch.stack(rows)


def slow_layer(layer, x, memory=None):
    x = layer.norms[0](x + attention(layer.own, x, x, lambda i, j: j <= i))
    if memory is not None:
        x = layer.norms[1](x + attention(layer.other, x, memory, lambda i, j: True))
    return layer.norms[2](x + layer.outer(layer.inner(x).relu()))


@pytest.mark.parametrize("lengths", [[1, 1], [4, 2]])
def test_a_stack_follows_its_equations_with_and_without_memory_and_padding_is_not_read(lengths):
    torch.manual_seed(0)
    stack = DecoderStack(2, 8, 2, 5).double()
    x, memory = torch.randn(2, lengths[0], 8).double(), torch.randn(2, 3, 8).double()
    there = torch.tensor([[True] * 3, [True, False, False]])
    alone, both = stack(x), stack(x, memory, there)
    for item, (length, known) in enumerate(zip(lengths, (3, 1), strict=True)):
        expected, heard = x[item, :length], x[item, :length]
        for layer in stack:
            expected = slow_layer(layer, expected)
            heard = slow_layer(layer, heard, memory[item, :known])
        torch.testing.assert_close(alone[item, :length], expected)
        torch.testing.assert_close(both[item, :length], heard)


def test_a_layer_without_memory_leaves_the_weights_of_the_other_attention_alone():
    layer = DecoderLayer(8, 2, 5)
    layer(torch.randn(1, 3, 8)).sum().backward()
    assert all(p.grad is None for p in [*layer.other.parameters(), *layer.norms[1].parameters()])


def test_positions_are_sines_and_cosines_of_falling_rates():
    found = sinusoidal_positions(7, 6)
    for p in range(7):
        for i in range(3):
            angle = p / 10_000 ** (2 * i / 6)
            assert found[p, 2 * i : 2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)
