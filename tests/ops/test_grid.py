"""Every backend against `naive` in float64, over the shapes that go wrong, and in every float type."""

import importlib

import pytest
import torch
from ops_oracles import attention_shapes, draw_inputs, gated_shapes, values_and_gradients

from relgrounding import ops
from relgrounding.graphs import GraphStructure, _items

BACKENDS = ("dgl", "cpp", "dense", "csr")
TYPES = ("a", "b", "c")


def random_structure(counts, density, seed=0, copies=1):
    """A random graph an item; with several copies, edges lie parallel, of the same and of other types."""
    generator = torch.Generator().manual_seed(seed)
    ends, first = [], 0
    for count in counts:
        joined = torch.rand(copies, count, count, generator=generator) < density
        ends.append(joined.nonzero()[:, 1:] + first)
        first += count
    sources, destinations = torch.cat(ends).unbind(1)
    etype = torch.randint(0, len(TYPES), sources.shape, generator=generator)
    columns = (sources.contiguous(), destinations.contiguous(), etype)
    return GraphStructure.from_edges(*columns, TYPES, torch.tensor(counts))


SHAPES = {
    "no edges": ([3], 0.0, 1, 1, 3),
    "one node": ([1], 1.0, 1, 3, 1),
    "an empty item in the middle": ([4, 0, 3], 0.7, 1, 3, 3),
    "isolated nodes": ([12, 9], 0.08, 1, 1, 100),
    "ragged": ([1, 7, 0, 40, 3, 90], 0.3, 1, 3, 3),
    "all joined": ([17, 17, 17], 1.0, 1, 1, 1),
    "parallel": ([6, 11], 0.5, 3, 3, 100),
    "600 nodes": ([600], 0.02, 1, 1, 3),
}
# Half types: the inputs are rounded before, so that only the result's own rounding differs.
TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def compare(operator, structure, shapes, backend, dtype, score_scale=1.0):
    inputs = [x.detach() for x in draw_inputs(5, shapes)]
    inputs[1:] = [x * score_scale for x in inputs[1:3]] + inputs[3:]
    inputs = [x.to(dtype) for x in inputs]
    found, expected = (
        values_and_gradients(
            lambda *x, b=b: operator(structure, *x, backend=b), [x.to(t).requires_grad_() for x in inputs]
        )
        for b, t in ((backend, dtype), ("naive", torch.float64))
    )
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        scale = max(1.0, float(b.abs().max()) if b.numel() else 1.0)
        torch.testing.assert_close(a.double(), b, rtol=0, atol=scale * TOLERANCES[dtype])


def shapes_of(operator, nodes, heads, dim):
    return attention_shapes(nodes, heads, dim) if operator is ops.graph_attention else gated_shapes(nodes, 3, dim)


operators = pytest.mark.parametrize("operator", [ops.graph_attention, ops.gated_sum])


@operators
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("case", SHAPES)
def test_values_and_gradients(operator, backend, dtype, case):
    if backend == "dgl" and dtype.itemsize == 2:
        pytest.skip("DGL takes float32 and float64")
    counts, density, copies, heads, dim = SHAPES[case]
    structure = random_structure(counts, density, copies=copies)
    compare(operator, structure, shapes_of(operator, sum(counts), heads, dim), backend, dtype)


@operators
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_scores(operator, backend, scale, dtype):
    # The logit of a float32 score of 1e4 is known to 1e-3 only: for values powers of two keep the sums exact.
    structure = random_structure([30, 5, 0, 8], 0.4, copies=2)
    shapes = shapes_of(operator, 43, 3, 4)
    if dtype == torch.float64 or scale < 100:
        return compare(operator, structure, shapes, backend, dtype, scale)
    inputs = [x.detach().to(dtype) for x in draw_inputs(5, shapes)]
    inputs[1:3] = [(x * 8).round() * 1024 for x in inputs[1:3]]
    found, expected = (
        values_and_gradients(
            lambda *x, b=b: operator(structure, *x, backend=b), [x.to(t).requires_grad_() for x in inputs]
        )
        for b, t in ((backend, dtype), ("naive", torch.float64))
    )
    torch.testing.assert_close([x.double() for x in found], expected, rtol=1e-4, atol=1e-4)


@operators
@pytest.mark.parametrize("counts", [[23, 5, 31, 2, 2, 2], [16, 16, 16]])
@pytest.mark.parametrize("cells", [8, 200, 2000])
def test_dense_in_smaller_pieces_gives_the_same(operator, counts, cells, monkeypatch):
    monkeypatch.setattr(_items, "CELLS", cells)
    structure = random_structure(counts, 0.4, copies=2)
    pieces = structure.groups
    assert sum(group.nodes.stop - group.nodes.start for group in pieces) == sum(counts)
    assert len(pieces) > 1 or cells > 1000
    for group in pieces:
        rows = [r.stop - r.start for r in group.blocks()]
        assert group.size[0] == 1 or group.size[0] * group.size[1] ** 2 <= cells
        assert sum(rows) == group.size[1]
        assert max(rows) == 1 or group.size[0] * max(rows) * group.size[1] <= cells
    for scale in (1.0, 1e3):
        compare(operator, structure, shapes_of(operator, sum(counts), 2, 3), "dense", torch.float64, scale)


@operators
@pytest.mark.parametrize("piece", [1, 300])
def test_csr_in_smaller_pieces_gives_the_same(operator, piece, monkeypatch):
    module = importlib.import_module(f"relgrounding.ops.{operator.__name__}.csr")
    monkeypatch.setattr(module, "PIECE", piece)
    structure = random_structure([0, 23, 5, 1, 0, 0, 31, 2, 2, 0], 0.3, copies=2)
    pieces = list(structure.pieces(piece))
    assert len(pieces) > 1
    assert torch.equal(GraphStructure.batch([p for *_, p in pieces]).out_edges, structure.out_edges)
    for scale in (1.0, 1e3):
        compare(operator, structure, shapes_of(operator, 64, 2, 3), "csr", torch.float64, scale)


@operators
@pytest.mark.parametrize("backend", ["naive", *BACKENDS])
def test_two_runs_are_equal_to_the_last_bit(operator, backend):
    structure = random_structure([40, 3, 25], 0.5, copies=2)
    inputs = draw_inputs(1, shapes_of(operator, 68, 3, 16), torch.float32)
    first, *others = (
        values_and_gradients(lambda *x: operator(structure, *x, backend=backend), inputs) for _ in range(3)
    )
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


@operators
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_some_inputs_only(operator, backend):
    structure = random_structure([5, 3], 0.6)
    inputs = draw_inputs(1, shapes_of(operator, 8, 2, 3))
    every = values_and_gradients(lambda *x: operator(structure, *x, backend=backend), inputs)[1:]
    for position in range(len(inputs)):
        fixed = [x if i == position else x.detach() for i, x in enumerate(inputs)]
        alone = values_and_gradients(
            lambda x, fixed=fixed, i=position: operator(structure, *fixed[:i], x, *fixed[i + 1 :], backend=backend),
            [inputs[position]],
        )
        torch.testing.assert_close(alone[1], every[position])
