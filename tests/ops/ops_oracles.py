"""Random graphs and inputs for the operators on graphs."""

import torch
from hypothesis import strategies as st

from relgrounding.graphs import GraphStructure
from relgrounding.ops._cpp import cpp_reason

HAS_CPP = cpp_reason() is None


@st.composite
def edge_lists(draw, max_items=3, max_nodes=5, types=3):
    """Nodes of each item and (source, destination, type) triples in any order, parallel ones and loops included."""
    counts = draw(st.lists(st.integers(0, max_nodes), min_size=1, max_size=max_items))
    edges, first = [], 0
    for count in counts:
        if count:
            node = st.integers(first, first + count - 1)
            edges += draw(st.lists(st.tuples(node, node, st.integers(0, types - 1)), max_size=12))
        first += count
    return counts, draw(st.permutations(edges))


def structure_of(counts, edges, types=3):
    columns = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).unbind(1)
    names = [f"type_{r}" for r in range(types)]
    return GraphStructure.from_edges(*(c.contiguous() for c in columns), names, torch.tensor(counts))


def draw_inputs(seed, shapes, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in inputs]


def attention_shapes(nodes, heads, dim):
    return [(nodes, heads, dim), (nodes, heads), (nodes, heads)]


def gated_shapes(nodes, types, dim):
    return [(nodes, dim), (nodes,), (types,), (types, dim)]


def values_and_gradients(function, inputs, weight_seed=7):
    out = function(*inputs)
    generator = torch.Generator().manual_seed(weight_seed)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    gradients = torch.autograd.grad((out * weight).sum(), inputs)
    return [out.detach(), *gradients]
