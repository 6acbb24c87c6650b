"""Every backend that is registered, over the same laws and the shapes that go wrong, in every float type."""

import importlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relgrounding import ops
from relgrounding.graphs import GraphStructure
from relgrounding.graphs._items import _padded
from tests.ops.cases import (
    CUDA,
    GRAPH_OPERATORS,
    OPERATORS,
    TOLERANCES,
    TRITON,
    draw_inputs,
    edge_lists,
    graph_problem,
    penalised,
    problem,
    structure_of,
    values_and_gradients,
)

# Nodes of each item, density, parallel copies, heads, dim.
CASES = {
    "no node": ([0], 0.0, 1, 1, 3),
    "no edges": ([3, 1], 0.0, 1, 3, 4),
    "one node": ([1], 1.0, 1, 3, 1),
    "an empty item in the middle": ([4, 0, 3], 0.7, 1, 3, 3),
    "isolated nodes": ([12, 9], 0.08, 1, 1, 100),
    "ragged": ([1, 7, 0, 40, 3, 90], 0.3, 1, 3, 3),
    "all joined": ([17, 17, 17], 1.0, 1, 1, 1),
    "parallel, many steps of a loop": ([6, 11], 0.5, 3, 3, 100),
    "two chunks of features": ([2, 1], 0.9, 4, 1, 513),
    "two blocks of heads": ([3], 0.9, 1, 20, 4),
    "rows of a power of two": ([6], 0.8, 1, 4, 64),
    "600 nodes": ([600], 0.02, 1, 1, 3),
}
SLOW_IN_AN_INTERPRETER = {"ragged", "all joined", "600 nodes"}
SLOW_ON_TILES = {"two chunks of features"}  # those of float32 and float64 are small: 100 features are two of them, too
HALF_IN_AN_INTERPRETER = {"parallel, many steps of a loop", "two chunks of features"}
PAIRS = [(operator, backend) for operator in OPERATORS for backend in ops.backend_names(operator)]
# In an interpreter the products of whole tiles take seconds.
MARKED = [pytest.param(*p, marks=[pytest.mark.slow] * (p[1] == "triton_dense" and not CUDA)) for p in PAIRS]
pairs = pytest.mark.parametrize(("operator", "backend"), MARKED)
graph_pairs = pytest.mark.parametrize(("operator", "backend"), [p for p in MARKED if p.values[0] in GRAPH_OPERATORS])
few = st.integers(0, 99)


def compare(task, inputs, backend):
    """Within a few roundings of the inputs' type and those of the sums, against float64 from the same inputs."""
    dtype = inputs[0].dtype
    tolerance = TOLERANCES[dtype]
    if backend == "triton" and dtype.itemsize == 2:
        # Its backward sums products with the rounded output: errors grow with the root of their number.
        tolerance *= max(1.0, inputs[0].shape[-1] ** 0.5 / 5)
    found = values_and_gradients(task.run(backend), inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    for x, expected in zip(found, values_and_gradients(task.run("naive"), exact), strict=True):
        assert x.dtype == dtype
        scale = max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
        torch.testing.assert_close(x.double(), expected, rtol=0, atol=scale * tolerance)


@pytest.mark.parametrize(("operator", "backend"), [pair for pair in PAIRS if CUDA or pair[1] not in TRITON])
@settings(max_examples=20)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=3), density=st.sampled_from([0.2, 0.7]), seed=few)
def test_naive_is_the_formula_and_every_backend_is_naive(operator, backend, counts, density, seed):
    task = problem(operator, counts, density, copies=2, heads=2, seed=seed)
    inputs = draw_inputs(seed, task.shapes)
    expected = values_and_gradients(task.oracle if backend == "naive" else task.run("naive"), inputs)
    torch.testing.assert_close(values_and_gradients(task.run(backend), inputs), expected, rtol=1e-10, atol=1e-11)


def combinations():
    """Each case in each type by each backend, without what has no meaning or would take minutes."""
    for case, dtype, (operator, backend) in itertools.product(CASES, TOLERANCES, PAIRS):
        if dtype.itemsize == 2 and (backend == "naive" or operator == "gru"):
            continue  # it adds up in the short type
        interpreted = backend in TRITON and not CUDA
        long = SLOW_IN_AN_INTERPRETER if dtype.itemsize > 2 else set(CASES) - HALF_IN_AN_INTERPRETER
        if backend == "triton_dense" and dtype.itemsize > 2:
            long = long | SLOW_ON_TILES
        if interpreted and case in long:
            continue
        marks = [pytest.mark.slow] * (interpreted and dtype != torch.float32)
        name = f"{case}-{str(dtype).removeprefix('torch.')}-{operator}-{backend}"
        yield pytest.param(case, dtype, operator, backend, marks=marks, id=name)


@pytest.mark.parametrize(("case", "dtype", "operator", "backend"), list(combinations()))
def test_values_and_gradients_are_those_of_naive_in_float64(case, dtype, operator, backend):
    task = problem(operator, *CASES[case])
    # Larger weights than a GRU's own make a chaotic sequence.
    scale = 0.1 if operator == "gru" else 1.0
    compare(task, draw_inputs(5, task.shapes, dtype, scale), backend)


@pairs
def test_finite_differences_agree(operator, backend):
    task = problem(operator, [3, 0, 1, 2], 0.6, heads=2, dim=2)
    inputs = draw_inputs(1, task.shapes)
    # In an interpreter one direction at a time takes too long.
    assert torch.autograd.gradcheck(task.run(backend), inputs, fast_mode=backend in TRITON)
    if backend not in TRITON:
        assert torch.autograd.gradgradcheck(task.run(backend), inputs, fast_mode=operator == "gru")  # many weights


@pairs
@pytest.mark.parametrize("linear", [True, False])
def test_gradients_and_gradient_penalties_of_some_inputs_only(operator, backend, linear):
    if backend in TRITON and linear:
        pytest.skip("there are no penalties, and the rest is the same")
    task = problem(operator, [3, 0, 2], 0.6, heads=2, dim=2)
    drawn = draw_inputs(0, task.shapes)
    every = values_and_gradients(task.run(backend), drawn)[-len(drawn) :]
    subsets = list(itertools.product([False, True], repeat=len(drawn)))[1:]
    for needed in subsets[:: max(1, len(subsets) // (3 if backend in TRITON else 10))]:
        inputs = [x.detach().requires_grad_(need) for x, need in zip(drawn, needed, strict=True)]
        wanted = [x for x in inputs if x.requires_grad]
        found = values_and_gradients(lambda *_, inputs=inputs: task.run(backend)(*inputs), wanted)[-len(wanted) :]
        torch.testing.assert_close(found, [g for g, need in zip(every, needed, strict=True) if need])
        if backend in TRITON:
            # What no derivative depends on is zero with `naive`, and refused here.
            with pytest.raises(RuntimeError, match="the Triton kernels have no second derivative; use backend='naive'"):
                penalised(task.run(backend), inputs, wanted, linear)
            continue
        results = [penalised(task.run(name), inputs, wanted, linear) for name in (backend, "naive")]
        torch.testing.assert_close(*results)


@pairs
def test_inputs_may_depend_on_each_other_and_be_strided(operator, backend):
    task = problem(operator, [3, 0, 1], 0.6, heads=2, dim=2)
    (x,) = draw_inputs(0, [(60, 60)])

    def function(x, name):
        rows = x.T.sin().flatten()
        pieces = [rows[i :: len(task.shapes)][: torch.Size(s).numel()].view(s) for i, s in enumerate(task.shapes)]
        return task.run(name)(pieces[0], *(p * pieces[0].sum() for p in pieces[1:]))

    def first_order(name):
        return torch.autograd.grad(sum(y.square().sum() for y in function(x, name)), x)

    torch.testing.assert_close(first_order(backend), first_order("naive"))
    if backend not in TRITON:
        results = [penalised(lambda x, b=name: function(x, b), [x], [x], False) for name in (backend, "naive")]
        torch.testing.assert_close(*results)


@pairs
def test_the_layout_of_inputs_and_of_incoming_gradients_does_not_matter(operator, backend):
    task = problem(operator, [4, 3], 0.6, heads=2)
    inputs = draw_inputs(0, task.shapes)
    first = inputs[0].detach()
    apart = torch.cat([first, first], -1)[..., : first.shape[-1]].requires_grad_()
    turned = [x.detach().mT.contiguous().mT.requires_grad_() if x.ndim > 1 else x for x in inputs]
    assert not apart[0].is_contiguous() or apart.ndim < 3
    # A sum hands back one number and a mean over nodes one row, expanded to the shape of the output.
    for reduce in (lambda x: x.sum(), lambda x: x.mean(0).square().sum()):
        results = [
            torch.autograd.grad(sum(map(reduce, task.run(name)(*layout))), layout)
            for name, layout in (("naive", inputs), (backend, [apart, *inputs[1:]]), (backend, turned))
        ]
        torch.testing.assert_close(results[1], results[0])
        torch.testing.assert_close(results[2], results[0])


@pairs
def test_two_runs_are_equal_to_the_last_bit(operator, backend):
    task = problem(operator, [11, 3, 6], 0.5, copies=2, heads=2, dim=16)
    inputs = draw_inputs(1, task.shapes, torch.float32)
    first, *others = (values_and_gradients(task.run(backend), inputs) for _ in range(3))
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


@pytest.mark.parametrize(("operator", "backend"), [*((name, "auto") for name in OPERATORS), *PAIRS])
def test_autocast_computes_in_the_type_of_the_features(operator, backend):
    if operator == "gru" and backend == "pytorch":
        pytest.skip("it runs under autocast")
    task = problem(operator, [4, 0, 3], 0.6, heads=2)
    first, *rest = draw_inputs(0, task.shapes, torch.float32)
    short = first.detach().bfloat16().requires_grad_()
    expected = task.run(backend)(first, *rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(task.run(backend)(first, *rest), expected)
        if operator in GRAPH_OPERATORS and backend not in ("dgl", *TRITON):
            (out,) = task.run(backend)(short, *rest)
            gradients = torch.autograd.grad(out.float().square().sum(), [short, *rest])
            assert out.dtype == torch.bfloat16
            assert [g.dtype for g in gradients] == [x.dtype for x in (short, *rest)]
            torch.testing.assert_close(out.float(), expected[0], rtol=0.03, atol=0.03)


@graph_pairs
def test_a_gradient_penalty_under_autocast_and_in_half_precision(operator, backend):
    if backend in ("naive", "dgl", *TRITON):
        pytest.skip("PyTorch's own gradients under autocast, no second derivative, or no half precision")
    task = problem(operator, [4], 0.6, heads=2)
    half = draw_inputs(0, task.shapes, torch.bfloat16)
    results = [
        penalised(lambda *x, b=name: task.run(b)(*x)[0].float(), [x.to(t) for x in half], half, True)
        for name, t in ((backend, torch.bfloat16), ("naive", torch.float64))
    ]
    torch.testing.assert_close(*results, rtol=0.1, atol=0.1)
    inputs = draw_inputs(0, task.shapes, torch.float32)
    expected = penalised(task.run("naive"), inputs, inputs, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = penalised(task.run(backend), inputs, inputs, False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pairs
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's own, in jvp
def test_transforms_of_functions_are_right_or_refused(operator, backend):
    task = problem(operator, [4], 0.6, heads=2)
    inputs = tuple(x.detach() for x in draw_inputs(0, task.shapes))
    directions = tuple(torch.ones_like(x) for x in inputs)
    plain = values_and_gradients(lambda *x: task.run("naive")(*x), [x.clone().requires_grad_() for x in inputs])[0]
    attempts = {
        "jvp": lambda: torch.func.jvp(lambda *x: task.run(backend)(*x)[0], inputs, directions)[0],
        "grad": lambda: torch.func.grad(lambda *x: task.run(backend)(*x)[0].sum(), has_aux=False)(*inputs),
        "vmap": lambda: torch.func.vmap(lambda *x: task.run(backend)(*x)[0])(*(torch.stack([x, x]) for x in inputs))[0],
    }
    (exact,) = torch.autograd.grad(
        task.run("naive")(*(leaves := [x.clone().requires_grad_() for x in inputs]))[0].sum(), leaves[0]
    )
    for kind, attempt in attempts.items():
        try:
            found = attempt()
        except (RuntimeError, NotImplementedError, ValueError, UserWarning):
            continue
        torch.testing.assert_close(found, exact if kind == "grad" else plain)


@graph_pairs
@settings(max_examples=10)
@given(graph=edge_lists(), seed=few, data=st.data())
def test_neither_the_order_of_edges_nor_the_rest_of_the_batch_matters(operator, backend, graph, seed, data):
    counts, edges = graph
    tasks = [graph_problem(operator, counts, x, 2) for x in (edges, data.draw(st.permutations(edges)))]
    inputs = draw_inputs(seed, tasks[0].shapes)
    results = [values_and_gradients(task.run(backend), inputs) for task in tasks]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    # Which rows of each input belong to an item: those of its nodes, those of its in-edges, or all.
    per_node = {"gated_sum": "nn..", "graph_attention": "nnn", "typed_comparison": "nnn.e"}[operator]
    run, exact = getattr(ops, operator), {"rtol": 0, "atol": 0} if backend in TRITON else {}

    def squared(structure, inputs):
        out = run(structure, *inputs, backend=backend)
        return out.detach(), *torch.autograd.grad(out.square().sum(), inputs)

    whole, first = squared(tasks[0].structure, inputs), 0
    for item, count in enumerate(counts):
        edges = slice(*tasks[0].structure.item_edges[item : item + 2])
        rows = {"n": slice(first, first + count), "e": edges, ".": slice(None)}
        mine = [x.detach()[rows[own]].requires_grad_() for x, own in zip(inputs, per_node, strict=True)]
        alone = squared(tasks[0].structure.select(torch.tensor([item])), mine)
        for found, expected, own in zip(alone, whole, "n" + per_node, strict=True):
            if own != ".":
                torch.testing.assert_close(found, expected[rows[own]], **exact)
        first += count


@graph_pairs
@pytest.mark.parametrize("scale", [30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_scores_are_a_choice_and_not_an_overflow(operator, backend, scale, dtype):
    if backend in TRITON and not CUDA and dtype == torch.float64:
        pytest.skip("too slow in Triton's interpreter, and less than float32 tells")
    task = problem(operator, [9, 5, 0, 8], 0.4, copies=2, heads=2, dim=4)
    inputs = [x.detach() for x in draw_inputs(5, task.shapes)]
    for scores in (*inputs[1:3], *inputs[4:]):
        scores *= scale
        if dtype == torch.float32 and scale > 100:
            # The logit of a float32 score of 1e4 is known to 1e-3 only: of powers of two the sums are exact.
            scores.copy_((scores / 1024).round() * 1024)
    compare(task, [x.to(dtype).requires_grad_() for x in inputs], backend)


@graph_pairs
def test_a_graph_of_dgl_and_its_types_in_the_order_of_the_structure(operator, backend):
    from relgrounding._dgl import dgl

    graph = dgl.heterograph({("p", "b", "p"): ([0, 1], [1, 1]), ("p", "a", "p"): ([2], [1])}, {"p": 4})
    task = graph_problem(operator, [4], [])
    inputs = draw_inputs(0, task.shapes)[: 4 if operator == "graph_attention" else 2]
    if operator == "gated_sum":
        inputs += draw_inputs(1, [(2,), (2, 3)])
    if operator == "typed_comparison":
        inputs += draw_inputs(1, [(4, 2), (2, 3), (3,)])
    structure = structure_of([4], [(0, 1, 1), (1, 1, 1), (2, 1, 0)], 2)
    out = [getattr(ops, operator)(g, *inputs, backend=backend) for g in (graph, structure)]
    torch.testing.assert_close(*out, rtol=0, atol=0)


@graph_pairs
def test_only_naive_makes_a_tensor_of_edges_times_features(operator, backend):
    nodes, dim = 24, 64
    task = graph_problem(operator, [nodes], [(j, i, 0) for i in range(nodes) for j in range(nodes)], 1, dim)
    inputs = draw_inputs(0, task.shapes, torch.float32)
    torch.autograd.grad(task.run(backend)(*inputs)[0].sum(), inputs)
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.grad(task.run(backend)(*inputs)[0].sum(), inputs)
    largest = max(max(event.self_cpu_memory_usage, event.self_device_memory_usage) for event in profile.events())
    rows = nodes**2 * dim * 4
    assert largest >= rows if backend == "naive" else largest < rows / 4


@pytest.mark.parametrize("operator", GRAPH_OPERATORS)
@pytest.mark.parametrize("counts", [[23, 5, 31, 2, 2, 2], [16, 16, 16]])
@pytest.mark.parametrize("cells", [8, 200, 2000])
def test_dense_in_smaller_pieces_gives_the_same(operator, counts, cells, monkeypatch):
    monkeypatch.setattr(_padded, "CELLS", cells)
    task = problem(operator, counts, 0.4, copies=2, heads=2)
    pieces = task.structure.groups
    assert sum(group.nodes.stop - group.nodes.start for group in pieces) == sum(counts)
    assert len(pieces) > 1 or cells > 1000
    for group in pieces:
        rows = [r.stop - r.start for r in group.blocks()]
        assert group.size[0] == 1 or group.size[0] * group.size[1] ** 2 <= cells
        assert sum(rows) == group.size[1]
        assert max(rows) == 1 or group.size[0] * max(rows) * group.size[1] <= cells
    compare(task, draw_inputs(5, task.shapes), "dense")


@pytest.mark.parametrize("operator", GRAPH_OPERATORS)
@pytest.mark.parametrize("piece", [1, 300])
def test_csr_in_smaller_pieces_gives_the_same(operator, piece, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"relgrounding.ops.{operator}.csr"), "PIECE", piece)
    task = problem(operator, [0, 23, 5, 1, 0, 0, 31, 2, 2, 0], 0.3, copies=2, heads=2)
    pieces = list(task.structure.pieces(piece))
    assert len(pieces) > 1
    assert torch.equal(GraphStructure.batch([p for *_, p in pieces]).out_edges, task.structure.out_edges)
    compare(task, draw_inputs(5, task.shapes), "csr")
