"""The kernels of the `triton` backends: on a GPU where there is one, else in Triton's interpreter on the CPU."""

import random

import jaxtyping
import pytest
import torch
from ops_oracles import attention_shapes, draw_inputs, gated_shapes, structure_of, values_and_gradients

from relgrounding.ops import _triton
from relgrounding.ops.gated_sum.naive import gated_sum_naive
from relgrounding.ops.gated_sum.triton import gated_sum_triton
from relgrounding.ops.graph_attention.naive import graph_attention_naive
from relgrounding.ops.graph_attention.triton import graph_attention_triton

pytest.importorskip("triton", reason="Triton is not installed: its kernels were not tested")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = 3
HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def attention(structure, *inputs, slope=0.2, run=graph_attention_triton):
    return run(structure, *inputs, slope)


def attention_naive(structure, *inputs, slope=0.2):
    return attention(structure, *inputs, slope=slope, run=graph_attention_naive)


def gated_shapes_of(nodes, heads, dim):
    return gated_shapes(nodes, TYPES, heads * dim)


OPERATORS = [(attention, attention_naive, attention_shapes), (gated_sum_triton, gated_sum_naive, gated_shapes_of)]
operators = pytest.mark.parametrize(("kernels", "naive", "shapes"), OPERATORS, ids=["graph_attention", "gated_sum"])


def random_edges(counts, edges, types=TYPES, seed=0):
    """Edges inside the items; with more of them than pairs of nodes there are parallel ones."""
    draw, first, starts = random.Random(seed), 0, []
    for count in counts:
        starts += [(first, count)] * count
        first += count
    chosen = [draw.choice(starts) for _ in range(edges)]
    return [(s + draw.randrange(n), s + draw.randrange(n), draw.randrange(types)) for s, n in chosen]


def on_device(function, structure):
    """`function` on the tests' device, from tensors of the CPU to a tensor of the CPU."""
    moved = structure.to(DEVICE)
    return lambda *inputs: function(moved, *(x.to(DEVICE) for x in inputs)).cpu()


def assert_same_as_naive(kernels, naive, structure, inputs):
    """Within a few roundings of the inputs' type and those of the sums, against float64 from the same inputs."""
    found = values_and_gradients(on_device(kernels, structure), inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = values_and_gradients(lambda *x: naive(structure, *x), exact)
    dtype = inputs[0].dtype
    rounding = 8 * torch.finfo(dtype).eps + 128 * torch.finfo(_triton.accumulator(dtype)).eps
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == dtype
        largest = float(y.abs().max()) if y.numel() else 0.0
        torch.testing.assert_close(x.double(), y, rtol=rounding, atol=rounding * max(largest, 1.0))


CASES = {
    "no node": ([0], 0, 1, 3),
    "no edge": ([1, 2], 0, 3, 4),
    "one node": ([1], 5, 3, 1),
    "an empty item in the middle and isolated nodes": ([5, 0, 3], 7, 3, 3),
    "many steps of a loop, parallel edges": ([3], 150, 1, 100),
    "two chunks of features": ([2, 1], 24, 1, 513),
    "two blocks of heads": ([3], 9, 20, 4),
    "rows of a power of two": ([6], 30, 4, 64),
}


@operators
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_naive(kernels, naive, shapes, dtype, case):
    counts, edges, heads, dim = CASES[case]
    structure = structure_of(counts, random_edges(counts, edges))
    assert_same_as_naive(kernels, naive, structure, draw_inputs(1, shapes(sum(counts), heads, dim), dtype))


@operators
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", ["many steps of a loop, parallel edges", "two chunks of features"])
def test_half_types_are_summed_in_float32(kernels, naive, shapes, dtype, case):
    counts, edges, heads, dim = CASES[case]
    structure = structure_of(counts, random_edges(counts, edges))
    assert_same_as_naive(kernels, naive, structure, draw_inputs(1, shapes(sum(counts), heads, dim), dtype))


def test_a_node_that_every_node_points_at_and_that_points_at_every_node():
    edges = [(j, 7, 0) for j in range(150)] + [(7, i, 0) for i in range(150)]
    inputs = draw_inputs(1, attention_shapes(150, 1, 3), torch.float32)
    assert_same_as_naive(attention, attention_naive, structure_of([150], edges), inputs)


def test_sums_over_the_batch_in_several_parts():
    structure = structure_of([270], random_edges([270], 2100))
    inputs = draw_inputs(1, gated_shapes(270, TYPES, 2), torch.float32)
    assert_same_as_naive(gated_sum_triton, gated_sum_naive, structure, inputs)


@pytest.mark.parametrize("types", [1, 20])
def test_any_number_of_types(types):
    structure = structure_of([4], random_edges([4], 60, types), types)
    inputs = draw_inputs(1, gated_shapes(4, types, 5), torch.float32)
    assert_same_as_naive(gated_sum_triton, gated_sum_naive, structure, inputs)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_the_slope_of_the_leaky_relu(slope):
    structure = structure_of([4], random_edges([4], 20))
    kernels, naive = (lambda *x, f=f: f(*x, slope=slope) for f in (attention, attention_naive))
    assert_same_as_naive(kernels, naive, structure, draw_inputs(1, attention_shapes(4, 2, 3), torch.float32))


@operators
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_enormous_scores_are_a_choice_and_not_an_overflow(kernels, naive, shapes, dtype):
    structure = structure_of([5], random_edges([5], 40))
    inputs = draw_inputs(1, shapes(5, 2, 3), dtype)
    with torch.no_grad():
        for scores in inputs[1:3]:
            # Thousands: their sums are exact, and so two logits are equal or far apart, in every type.
            scores.copy_(torch.randint(-10, 11, scores.shape) * 1024)
    assert_same_as_naive(kernels, naive, structure, inputs)


@operators
def test_gradcheck(kernels, naive, shapes):
    structure = structure_of([2], [(0, 1, 0), (1, 1, 2), (1, 1, 2), (0, 0, 1)])
    inputs = draw_inputs(1, shapes(2, 1, 2))
    assert torch.autograd.gradcheck(on_device(kernels, structure), inputs)


@operators
def test_every_run_gives_the_same_bits(kernels, naive, shapes):
    structure = structure_of([6], random_edges([6], 200))
    inputs = draw_inputs(1, shapes(6, 2, 16), torch.float32)
    runs = [values_and_gradients(on_device(kernels, structure), inputs) for _ in range(3)]
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=0, atol=0)


@operators
def test_the_order_of_edges_does_not_matter(kernels, naive, shapes):
    edges = random_edges([3, 4], 60)
    inputs = draw_inputs(1, shapes(7, 2, 5), torch.float32)
    shuffled = random.Random(1).sample(edges, len(edges))
    orders = [values_and_gradients(on_device(kernels, structure_of([3, 4], e)), inputs) for e in (edges, shuffled)]
    torch.testing.assert_close(*orders, rtol=0, atol=0)


@operators
def test_a_batch_equals_its_items_to_the_last_bit(kernels, naive, shapes):
    counts = [3, 0, 1, 12]
    structure = structure_of(counts, random_edges(counts, 150))
    inputs = draw_inputs(1, shapes(16, 2, 33), torch.float32)
    per_node = [len(x) == 16 for x in inputs]
    out = on_device(kernels, structure)(*inputs)
    grads = torch.autograd.grad(out.square().sum(), inputs)
    parts = [x.split(counts) if mine else [x] * len(counts) for x, mine in zip(inputs, per_node, strict=True)]
    starts = torch.tensor(counts).cumsum(0) - torch.tensor(counts)
    for item, (count, start) in enumerate(zip(counts, starts.tolist(), strict=True)):
        rows = slice(start, start + count)
        alone = [part[item].detach().requires_grad_() for part in parts]
        out_alone = on_device(kernels, structure.select(torch.tensor([item])))(*alone)
        grads_alone = torch.autograd.grad(out_alone.square().sum(), alone)
        torch.testing.assert_close(out_alone, out[rows], rtol=0, atol=0)
        for mine, found, expected in zip(per_node, grads_alone, grads, strict=True):
            if mine:
                torch.testing.assert_close(found, expected[rows], rtol=0, atol=0)


@operators
def test_strided_inputs_and_expanded_gradients(kernels, naive, shapes):
    structure = structure_of([4], random_edges([4], 9))
    inputs = draw_inputs(1, shapes(4, 2, 3), torch.float32)
    first = inputs[0].detach()
    apart = torch.cat([first, first], -1)[..., : first.shape[-1]].requires_grad_()
    turned = [x.detach().mT.contiguous().mT.requires_grad_() if x.ndim > 1 else x for x in inputs]
    layouts = [inputs, [apart, *inputs[1:]], turned]
    assert [x[0].is_contiguous() for x in layouts] == [True, False, False]
    run = on_device(kernels, structure)
    # A sum hands back one number and a mean over nodes one row, expanded to the shape of the output.
    for reduce in (lambda x: x.sum(), lambda x: x.mean(0).square().sum()):
        grads = [torch.autograd.grad(reduce(run(*layout)), layout) for layout in layouts]
        for other in grads[1:]:
            torch.testing.assert_close(other, grads[0], rtol=0, atol=0)


@operators
def test_only_what_needs_a_gradient_gets_one(kernels, naive, shapes):
    structure = structure_of([4], random_edges([4], 30))
    inputs = draw_inputs(1, shapes(4, 2, 3), torch.float32)
    everything = values_and_gradients(on_device(kernels, structure), inputs)[1:]
    for needed in range(1, 2 ** len(inputs) - 1):
        chosen = [bool(needed >> i & 1) for i in range(len(inputs))]
        some = [x.detach().requires_grad_(need) for x, need in zip(inputs, chosen, strict=True)]
        wanted = [x for x in some if x.requires_grad]
        _, *grads = values_and_gradients(lambda *_, some=some: on_device(kernels, structure)(*some), wanted)
        expected = [g for g, need in zip(everything, chosen, strict=True) if need]
        torch.testing.assert_close(grads, expected, rtol=0, atol=0)


@pytest.fixture
def _unchecked_shapes():
    """A compiler cannot trace the check of shapes that goes on in tests."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@operators
@pytest.mark.usefixtures("_unchecked_shapes")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # PyTorch's compiler does
def test_a_compiler_takes_the_operator_whole(kernels, naive, shapes):
    structure = structure_of([4], random_edges([4], 12)).to(DEVICE)
    inputs = [x.detach().to(DEVICE).requires_grad_() for x in draw_inputs(1, shapes(4, 2, 3), torch.float32)]

    def layer(*inputs):
        assert _triton.triton_reason(inputs[0].device, inputs[0].dtype) is None
        return kernels(structure, *(2 * x for x in inputs)).square()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, compiled):
        out = run(*inputs)
        results.append([out.detach(), *torch.autograd.grad(out.sum(), inputs)])
    torch.testing.assert_close(*results, rtol=0, atol=0)


@operators
def test_a_compiler_is_told_the_shapes_and_types_of_the_results(kernels, naive, shapes):
    structure = structure_of([2], random_edges([2], 4)).to(DEVICE)
    seen = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function.namespace == "relgrounding":
                seen.append((function, tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments)))
            return function(*arguments, **(options or {}))

    for needed in (0, 1, 2, 3, None):
        inputs = [x.detach().to(DEVICE) for x in draw_inputs(1, shapes(2, 2, 3), torch.bfloat16)]
        for i, x in enumerate(inputs):
            x.requires_grad_(needed in (i, None))
        if not any(x.requires_grad for x in inputs):
            continue
        with Recorder():
            kernels(structure, *inputs).sum().backward()
    assert len({function for function, _ in seen}) == 2
    for function, arguments in seen:
        torch.library.opcheck(function, arguments, test_utils=("test_schema", "test_faketensor"))


@operators
def test_no_tensor_of_edges_times_features_is_made(kernels, naive, shapes):
    nodes, dim = 24, 64
    structure = structure_of([nodes], [(j, i, 0) for i in range(nodes) for j in range(nodes)]).to(DEVICE)
    inputs = [x.detach().to(DEVICE).requires_grad_() for x in draw_inputs(0, shapes(nodes, 1, dim), torch.float32)]
    largest = {}
    for run in (kernels, naive):
        torch.autograd.grad(run(structure, *inputs).sum(), inputs)
        with torch.profiler.profile(profile_memory=True) as profile:
            torch.autograd.grad(run(structure, *inputs).sum(), inputs)
        events = profile.events()
        largest[run] = max(max(e.self_cpu_memory_usage, e.self_device_memory_usage) for e in events)
    rows = structure.num_edges * dim * 4
    assert largest[kernels] <= max(structure.num_nodes * dim, structure.num_edges) * 4 < rows / 4
    assert largest[naive] >= rows, "or else the profiler does not see such tensors"
