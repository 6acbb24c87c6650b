"""What the grid does not hold of the Triton kernels: on a GPU where there is one, else in Triton's interpreter."""

import jaxtyping
import pytest
import torch

from relgrounding import ops
from relgrounding.ops import _triton
from relgrounding.ops._registry import candidates
from tests.ops.cases import (
    CUDA,
    GRAPH_OPERATORS,
    TRITON,
    draw_inputs,
    graph_problem,
    problem,
    random_edges,
    random_structure,
)
from tests.ops.cases import values_and_gradients as both
from tests.ops.test_grid import compare

pytest.importorskip("triton", reason="Triton is not installed: its kernels were not tested")
DEVICE = "cuda" if CUDA else "cpu"
operators = pytest.mark.parametrize("operator", GRAPH_OPERATORS)
tiled = operators


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch):
    if not CUDA:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def test_a_node_that_every_node_points_at_and_that_points_at_every_node():
    edges = [(j, 7, 0) for j in range(150)] + [(7, i, 0) for i in range(150)]
    task = graph_problem("graph_attention", [150], edges)
    compare(task, draw_inputs(1, task.shapes, torch.float32), "triton")


@pytest.mark.slow
def test_sums_over_the_batch_in_several_parts():
    task = problem("gated_sum", [270], 0.03, dim=2)
    compare(task, draw_inputs(1, task.shapes, torch.float32), "triton")


@pytest.fixture
def _unchecked_shapes():
    """A compiler cannot trace the check of shapes that goes on in tests."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def on_device(operator, dtype, needed=None, backend="triton"):
    task = graph_problem(operator, [4], random_edges([4], 0.6, copies=2), 2)
    inputs = [x.detach().to(DEVICE) for x in draw_inputs(1, task.shapes, dtype)]
    inputs = [x.requires_grad_(needed in (i, None)) for i, x in enumerate(inputs)]
    structure = task.structure.to(DEVICE)
    return lambda *x: getattr(ops, operator)(structure, *x, backend=backend), inputs


@operators
@pytest.mark.usefixtures("_unchecked_shapes")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # PyTorch's compiler does
def test_a_compiler_takes_the_operator_whole(operator):
    function, inputs = on_device(operator, torch.float32)

    def layer(*inputs):
        assert _triton.triton_reason(inputs[0].device, inputs[0].dtype) is None
        return function(*(2 * x for x in inputs)).square()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(both(compiled, inputs), both(layer, inputs), rtol=0, atol=0)


@tiled
@pytest.mark.usefixtures("_unchecked_shapes")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # PyTorch's compiler does
def test_a_compiler_takes_the_kernels_over_edges_for_those_on_tiles(operator):
    function, inputs = on_device(operator, torch.float32, backend="triton_dense")
    edgewise, _ = on_device(operator, torch.float32)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(both(compiled, inputs), both(edgewise, inputs), rtol=0, atol=0)


@operators
def test_a_compiler_is_told_the_shapes_and_types_of_the_results(operator):
    seen = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function.namespace == "relgrounding":
                seen.append((function, tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments)))
            return function(*arguments, **(options or {}))

    for needed in (0, 1, 2, 3, 4, None):
        function, inputs = on_device(operator, torch.bfloat16, needed)
        if any(x.requires_grad for x in inputs):
            with Recorder():
                function(*inputs).sum().backward()
    assert len({function for function, _ in seen}) == 2
    for function, arguments in seen:
        torch.library.opcheck(function, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("operator", "backend"), [*(("graph_attention", x) for x in TRITON), ("typed_comparison", "triton_dense")]
)
def test_gradients_of_bfloat16_scores_do_not_feel_that_the_output_was_rounded(operator, backend):
    task = problem(operator, [12, 9], 0.6, heads=2, dim=64)
    short = [x.detach().bfloat16() for x in draw_inputs(2, task.shapes, torch.float32)]
    exact, found = (
        both(task.run(name), [x.to(dtype).requires_grad_() for x in short])
        for name, dtype in (("naive", torch.float64), (backend, torch.bfloat16))
    )
    for one, other in list(zip(found, exact, strict=True))[2:4]:  # of sources and destinations
        assert (one.double() - other).norm() < 0.005 * other.norm()


@tiled
def test_items_of_several_tiles_in_every_direction(operator):
    task = problem(operator, [70, 3], 0.4, heads=1, dim=70)
    assert task.structure.tiles.planes.shape == (1, 73, 80)
    compare(task, draw_inputs(1, task.shapes, torch.float32), "triton_dense")


@tiled
def test_graphs_that_do_not_fit_tiles_run_on_the_kernels_over_edges(operator):
    assert graph_problem(operator, [257], [(0, 256, 1)]).structure.tiles is None
    assert graph_problem(operator, [2], [(0, 1, 1)], types=256).structure.tiles is None
    task = graph_problem(operator, [2], [(0, 1, 1)] * 17)
    assert task.structure.tiles is None
    inputs = draw_inputs(0, task.shapes)
    results = [both(task.run(backend), inputs) for backend in TRITON]
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("backend", TRITON)
def test_more_types_than_a_block_has(backend):
    edges = [(j, i, (5 * j + 3 * i) % 20) for j, i, _ in random_edges([4, 2], 0.8)]
    task = graph_problem("gated_sum", [4, 2], edges, 1, 3, 20)
    compare(task, draw_inputs(1, task.shapes), backend)


@tiled
@pytest.mark.parametrize(
    ("counts", "density", "copies", "chosen"),
    [([50], 0.3, 1, "triton_dense"), ([50], 0.04, 1, "triton"), ([257], 0.3, 1, "triton"), ([9], 1.0, 17, "triton")],
)
def test_auto_takes_tiles_for_items_that_are_small_and_dense(operator, counts, density, copies, chosen):
    structure = random_structure(counts, density, copies=copies)
    name = next(name for name, x in candidates(operator, "cuda") if x.suits is None or x.suits(structure))
    assert name == chosen


@pytest.mark.parametrize(("asked", "found"), [("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")])
def test_products_of_float32_are_as_exact_as_those_of_pytorch(asked, found):
    from relgrounding.ops._triton._jit import precision

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(asked)
    assert precision() == found
    torch.set_float32_matmul_precision(before)
