"""What an operator promises beyond the grid: special values, messages, and agreement with other libraries."""

import functools
import gc
import subprocess
import sys
import weakref

import pytest
import torch

from relgrounding import nn, ops
from relgrounding._dgl import dgl
from relgrounding.ops.additive_attention import pieces as in_pieces
from relgrounding.ops.gated_sum import naive as gated_naive
from tests.ops.cases import (
    GRAPH_OPERATORS,
    OPERATORS,
    TRITON,
    as_list,
    draw_inputs,
    graph_problem,
    problem,
    random_edges,
    random_structure,
    structure_of,
    values_and_gradients,
)

graph_operators = pytest.mark.parametrize("operator", GRAPH_OPERATORS)
backends = pytest.mark.parametrize("backend", ops.backend_names())
floats = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
comparison_backends = pytest.mark.parametrize("backend", ops.backend_names("typed_comparison"))
additive_backends = pytest.mark.parametrize("backend", ops.backend_names("additive_attention"))


def test_public_api():
    assert ops.__all__ == [
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
    assert all(callable(getattr(ops, name)) for name in ops.__all__)


def test_uninitialised_memory_is_nan_in_these_tests_also_where_dgl_asks_for_it():
    assert torch.empty(3).isnan().all()
    assert dgl.backend.empty((3,), torch.float32, torch.device("cpu")).isnan().all()


@backends
@graph_operators
@floats
@pytest.mark.parametrize("dim", [1, 64])
def test_a_node_without_in_edges_gets_zeros(operator, backend, dtype, dim):
    task = graph_problem(operator, [3], [(0, 1, 0), (1, 1, 2)], dim=dim)
    out, *gradients = values_and_gradients(task.run(backend), draw_inputs(0, task.shapes, dtype))
    assert (out[[0, 2]] == 0).all()
    assert (out[1] != 0).any()
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][2] == 0).all()
    assert operator == "graph_attention" or (gradients[3][1] == 0).all(), "no edge has this type"
    for counts in ([0], [1], [2, 0, 1]):
        task = graph_problem(operator, counts, [], dim=dim)
        assert all((x == 0).all() for x in values_and_gradients(task.run(backend), draw_inputs(0, task.shapes, dtype)))


@backends
@pytest.mark.parametrize("operator", ["gated_sum", "typed_comparison"])
@pytest.mark.parametrize("types", [1, 20])
def test_any_number_of_types(operator, backend, types):
    edges = [(j, i, n % types) for n, (j, i, _) in enumerate(random_edges([4], 0.9, copies=4))]
    task = graph_problem(operator, [4], edges, dim=5, types=types)
    inputs = draw_inputs(1, task.shapes, torch.float32)
    results = [values_and_gradients(task.run(name), inputs) for name in (backend, "naive")]
    torch.testing.assert_close(*results, rtol=2e-5, atol=2e-5)


@backends
@floats
def test_enormous_scores_choose_one_source_and_enormous_logits_open_and_close_the_gate(backend, dtype):
    feat, gate_bias, type_bias = draw_inputs(0, [(4, 8), (3,), (3, 8)], dtype)
    edges, high = structure_of([4], [(0, 3, 1), (1, 3, 0), (2, 3, 0)]), torch.tensor([1e4, -1e4, -9e3, 0.0]).to(dtype)
    for offset in (-1e4, 0.0, 1e4):
        inputs = [feat.unsqueeze(1), high.unsqueeze(1).clone(), torch.full((4, 1), offset, dtype=dtype)]
        inputs = [x.detach().requires_grad_() for x in inputs]
        out, *gradients = values_and_gradients(lambda *x: ops.graph_attention(edges, *x, backend=backend), inputs)
        torch.testing.assert_close(out[3, 0], feat[0].detach())
        assert all(g.isfinite().all() for g in gradients)
    inputs = [feat, high.clone().requires_grad_(), gate_bias, type_bias]
    out, *gradients = values_and_gradients(lambda *x: ops.gated_sum(edges, *x, backend=backend), inputs)
    torch.testing.assert_close(out[3], (feat[0] + type_bias[1]).detach())
    assert all(g.isfinite().all() for g in gradients)


@comparison_backends
@floats
@pytest.mark.parametrize("edges", [1, 20])
def test_counts_and_sums_of_a_comparison_saturate(backend, dtype, edges):
    graph, logit = structure_of([edges + 1], [(j, 0, 1) for j in range(edges)]), 1e4
    ones = [torch.ones(shape, dtype=dtype) for shape in [(edges + 1, 8), (edges + 1,), (edges + 1, 3), (3, 8)]]
    for feat, gate, type_gate, bias, share in (
        (0.0, logit, 0.0, 1.0, edges / (1 + edges)),
        (1.0, 0.0, logit, 0.0, edges / (1 + edges)),
        (1.0, -logit, 0.0, 1.0, 0.0),
        (1.0, -logit, logit, 1.0, edges / (1 + 0.5 * edges)),
    ):
        inputs = [x * value for x, value in zip(ones, (feat, gate, type_gate, bias), strict=True)]
        inputs = [x.requires_grad_() for x in inputs]
        out, *gradients = values_and_gradients(lambda *x: ops.typed_comparison(graph, *x, backend=backend), inputs)
        torch.testing.assert_close(out[0], torch.full_like(out[0], share))
        assert all(g.isfinite().all() for g in gradients)


@comparison_backends
@floats
@pytest.mark.parametrize("taken", [[], [0], [0, 1, 2], range(5)])
def test_an_edge_bias_of_minus_infinity_is_no_edge_and_none_at_all_is_zero(backend, dtype, taken):
    task = graph_problem("typed_comparison", [5], [(0, 1, 0), (2, 1, 1), (1, 1, 1), (1, 3, 2), (4, 3, 2)])
    *inputs, bias = draw_inputs(0, task.shapes, dtype)
    keep = torch.ones(5, dtype=torch.bool)
    keep[list(taken)] = False
    results = []
    for graph, edge_bias in (
        (task.structure, torch.zeros_like(bias).masked_fill(~keep, -torch.inf)),
        (task.structure.keep_edges(keep), None),
    ):
        leaves = [*inputs, *([] if edge_bias is None else [edge_bias.requires_grad_()])]
        run = functools.partial(ops.typed_comparison, graph, backend=backend)
        results.append(values_and_gradients(run, leaves))
    torch.testing.assert_close(results[0][:5], results[1])
    assert (results[0][5][~keep] == 0).all()
    assert (results[0][5][keep] != 0).all()


@pytest.mark.parametrize("backend", [name for name in ops.backend_names("typed_comparison") if name not in TRITON])
def test_a_bias_of_minus_infinity_takes_an_edge_out_also_where_its_gate_overflowed(backend):
    task = graph_problem("typed_comparison", [3], [(0, 1, 0), (2, 1, 1)])
    feat, gate, *others, _ = draw_inputs(0, task.shapes)
    inputs = [feat, torch.tensor([torch.inf, 0, 0], dtype=gate.dtype).requires_grad_(), *others]
    run = functools.partial(ops.typed_comparison, backend=backend)
    bias = torch.tensor([-torch.inf, 0], dtype=gate.dtype)
    found = values_and_gradients(lambda *x: run(task.structure, *x, bias), inputs)
    fewer = task.structure.keep_edges(torch.tensor([False, True]))
    torch.testing.assert_close(found, values_and_gradients(lambda *x: run(fewer, *x), inputs))


@backends
@floats
def test_a_score_of_minus_infinity_is_no_edge_and_none_at_all_is_zero(backend, dtype):
    edges, every, left = [(0, 1, 0), (2, 1, 1), (1, 1, 1), (1, 3, 2), (4, 3, 2), (3, 4, 0), (0, 1, 0)], [], []
    taken = [([1], []), ([0, 2], []), ([0, 1, 2, 4], []), ([], [1]), ([2], [3])]
    feat, *scores = (x.detach() for x in draw_inputs(0, [(25, 2, 3), (25, 2), (25, 2)], dtype))
    masked = [score.clone() for score in scores]
    for first, nodes in zip(range(0, 25, 5), taken, strict=True):
        for score, rows in zip(masked, nodes, strict=True):
            score[[first + row for row in rows]] = -torch.inf
        here = [(first + j, first + i, r) for j, i, r in edges]
        every += here
        left += [edge for edge in here if edge[0] - first not in nodes[0] and edge[1] - first not in nodes[1]]
    results = []
    for some, columns in ((every, masked), (left, scores)):
        graph = structure_of([5] * 5, some)

        def run(*x, graph=graph):  # a large gradient, as of a loss that is scaled
            return 1000 * ops.graph_attention(graph, *x, backend=backend)

        found = values_and_gradients(run, [x.clone().requires_grad_() for x in (feat, *columns)])
        results.append([x / 1000 for x in found])
    torch.testing.assert_close(*results)


@backends
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_the_slope_of_the_leaky_relu(backend, slope):
    task = graph_problem("graph_attention", [4], [(0, 1, 0), (2, 1, 1), (2, 1, 0), (1, 1, 0), (3, 2, 0)], 2)
    inputs = draw_inputs(1, task.shapes)
    results = [
        values_and_gradients(functools.partial(run, negative_slope=slope), inputs)
        for run in (task.oracle, functools.partial(ops.graph_attention, task.structure, backend=backend))
    ]
    torch.testing.assert_close(*results)


@backends
def test_out_edges_through_the_reversed_structure(backend):
    edges = [(0, 1, 0), (2, 1, 1), (1, 2, 2)]
    task, turned = (graph_problem("gated_sum", [3], e) for e in (edges, [(d, s, r) for s, d, r in edges]))
    inputs = draw_inputs(0, task.shapes)
    found = ops.gated_sum(task.structure.reverse(), *inputs, backend=backend)
    torch.testing.assert_close(found, turned.oracle(*inputs))


def test_agrees_with_the_gat_layer_of_dgl():
    structure = structure_of([5], [(j, i, 0) for i in range(5) for j in range(5) if (i + j) % 3], types=1)
    layer = dgl.nn.GATConv(6, 4, 3, bias=False)
    x = torch.randn(5, 6)
    feat = layer.fc(x).view(5, 3, 4)
    scores = [(feat * a).sum(-1) for a in (layer.attn_l, layer.attn_r)]
    torch.testing.assert_close(ops.graph_attention(structure, feat, *scores), layer(structure.to_dgl(), x))


def test_a_structure_is_not_kept_alive_by_its_dgl_graph():
    structure = structure_of([2], [(0, 1, 0)])
    ops.graph_attention(structure, *draw_inputs(0, [(2, 1, 1), (2, 1), (2, 1)]), backend="dgl")
    seen = weakref.ref(structure)
    del structure
    gc.collect()
    assert seen() is None


@additive_backends
@floats
@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_arguments_far_outside_the_range_of_an_exponential(backend, dtype, scale):
    task = problem("additive_attention", [5, 0, 3], dim=4)
    a, b, w, s = draw_inputs(0, task.shapes, dtype)
    inputs = [(a * scale).detach(), (b * scale).detach(), w.detach(), s.detach()]
    inputs = [x.requires_grad_() for x in inputs]
    found = values_and_gradients(task.run(backend), inputs)
    torch.testing.assert_close(found, values_and_gradients(task.run("naive"), inputs))


@additive_backends
def test_large_arguments_of_opposite_sign_cancel(backend):
    task = problem("additive_attention", [4], dim=4)
    a, b, w, s = draw_inputs(0, task.shapes, torch.float32)
    inputs = [x.detach().requires_grad_() for x in (a + 300, b * 1e-3 - 300, w, s)]
    results = [values_and_gradients(task.run(name), inputs) for name in (backend, "naive")]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("most", [1, 40, 200, 2**20])
@pytest.mark.parametrize("counts", [[9, 0, 3, 3, 3, 1, 8], [0], [2, 2, 2, 2]])
def test_pieces_of_pairs_cover_every_proposal_once_stay_small_and_change_nothing(counts, most, monkeypatch):
    monkeypatch.setattr(in_pieces, "PIECE_ON_CPU", most)
    lengths = [1 + (3 * i) % 4 for i in range(len(counts))]
    pieces = in_pieces.Pieces(counts, lengths, 4, torch.device("cpu")).pieces
    assert [n for p in pieces for n in range(p.nodes.start, p.nodes.stop)] == list(range(sum(counts)))
    for piece in pieces:
        rows = len(piece.counts) * max(piece.counts)
        assert rows * piece.length * 4 <= most or rows == 1
        assert rows <= 1.25 * sum(piece.counts)
        assert piece.length == max(lengths[piece.items])
    task = problem("additive_attention", counts, dim=4)
    inputs = draw_inputs(0, task.shapes)
    results = [values_and_gradients(task.run(name), inputs) for name in ("pieces", "naive")]
    torch.testing.assert_close(*results)


@additive_backends
@pytest.mark.parametrize("unused", [0, 1])
def test_either_result_of_additive_attention_may_stay_unused(backend, unused):
    task = problem("additive_attention", [4, 0, 1], dim=4)
    inputs = draw_inputs(0, task.shapes)
    results = [
        values_and_gradients(lambda *x, b=name: task.run(b)(*x)[1 - unused], inputs) for name in (backend, "naive")
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("backend", [b for b in ops.backend_names("additive_attention") if b != "naive"])
def test_the_pairs_are_never_kept_and_sums_are_as_exact_as_those_of_naive(backend):
    task = problem("additive_attention", [50, 50], dim=32)
    inputs = draw_inputs(0, task.shapes, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        found = task.run(backend)(*inputs)
    assert max(kept) < 100 * task.shapes[1][1] * 32 / 2
    exact = task.run("naive")(*(x.double() for x in inputs))
    errors = [
        max((a - b).abs().max() for a, b in zip(exact, results, strict=True))
        for results in (found, task.run("naive")(*inputs))
    ]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("backend", ops.backend_names("window_max"))
def test_windows_hand_their_gradient_to_the_first_of_equal_clips_exactly_and_a_nan_shows(backend):
    def run(clips, spans, video=None):
        spans = torch.tensor(spans)
        return ops.window_max(clips, spans, torch.zeros(len(spans)).long() if video is None else video, backend)

    clips = torch.tensor([[[1.0], [2.0], [2.0], [0.0], [2.0]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(run(clips, [[0, 5], [2, 5], [3, 5]]).sum(), clips)
    assert gradient.flatten().tolist() == [0, 1, 1, 0, 1]
    lowest = torch.full((1, 4, 1), -torch.inf, requires_grad=True)
    (gradient,) = torch.autograd.grad(run(lowest, [[1, 3]]).sum(), lowest)
    assert gradient.flatten().tolist() == [0, 1, 0, 0]
    for position in range(5):
        broken = torch.randn(1, 5, 1)
        broken[0, position] = torch.nan
        assert run(broken, [[0, 5], [position, position + 1]]).isnan().all()
    assert run(torch.tensor([[[torch.nan], [1.0], [3.0], [torch.nan]]]), [[1, 3]]).item() == 3
    task = problem("window_max", [90, 200, 0, 150], dim=4)
    (long,) = draw_inputs(0, task.shapes, torch.float32)
    weight = torch.randint(-9, 9, (440, 4)).float()
    found, expected = (
        torch.autograd.grad((f(long) * weight).sum(), long)[0] for f in (lambda x: task.run(backend)(x)[0], task.oracle)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_padding_of_sequences_and_sentences_is_not_read_and_gets_no_weight():
    x, *weights = draw_inputs(0, [(2, 5, 3), *[(12, 3), (12, 4), (12,), (12,)] * 2])
    lengths, filled = torch.tensor([5, 2]), x.detach().clone()
    filled[1, 2:] = torch.nan
    for backend in ops.backend_names("gru"):
        out = ops.gru(filled, lengths, weights, backend)
        torch.testing.assert_close(out, ops.gru(x, lengths, weights, backend))
        assert (out[1, 2:] == 0).all()
    a, b, w, s = draw_inputs(0, [(4, 3), (2, 5, 3), (3,), (2, 5, 6)])
    rest = torch.tensor([2, 5]), torch.tensor([1, 0, 1, 0])
    for backend in ops.backend_names("additive_attention"):
        before = ops.additive_attention(a, b, w, s, *rest, backend)
        padded = [x.detach().index_fill(1, torch.tensor([2, 3, 4]), 1e6) for x in (b, s)]
        padded = [torch.stack([p[0], x[1]]) for p, x in zip(padded, (b, s), strict=True)]
        torch.testing.assert_close(ops.additive_attention(a, padded[0], w, padded[1], *rest, backend), before)
        assert (before[1][[1, 3], 2:] == 0).all()


def test_rows_added_to_a_weight_for_the_alignment_on_a_gpu_change_nothing(monkeypatch):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert [gated_naive.spare_rows(maps, cuda) for maps in (256, 257, 770)] == [0, 15, 14]
    assert gated_naive.spare_rows(257, cpu) == 0
    structure = random_structure([5], 0.5)
    torch.manual_seed(0)
    for layer in (nn.GatedSum(4, 6, 3, backend="csr"), nn.EdgeGatedGCN(4, 6, 3, backend="csr")):
        x = torch.randn(5, 4)
        plain = values_and_gradients(lambda *_, layer=layer, x=x: layer(structure, x), list(layer.parameters()))
        monkeypatch.setattr(gated_naive, "spare_rows", lambda maps, device: -maps % 16)
        padded = values_and_gradients(lambda *_, layer=layer, x=x: layer(structure, x), list(layer.parameters()))
        monkeypatch.undo()
        torch.testing.assert_close(padded, plain, rtol=1e-6, atol=1e-6)


def test_messages_of_graph_operators():
    feat, source, destination = draw_inputs(0, [(3, 2, 4), (3, 2), (3, 2)])
    with pytest.raises(ValueError, match=r"the graph has 2 nodes; feat \(3, 2, 4\), score_src \(3, 2\)"):
        ops.graph_attention(structure_of([2], []), feat, source, destination)
    with pytest.raises(ValueError, match=r"the graph has 3 nodes and 3 edge types; .* = \(\(3, 4\), \(3,\), \(3,\)"):
        ops.gated_sum(structure_of([3], []), *draw_inputs(0, [(3, 4), (3,), (2,), (2, 4)]))
    comparison = draw_inputs(0, [(3, 4), (3,), (3, 3), (3, 4), (2,)])
    with pytest.raises(ValueError, match=r"edge_bias has the shape \(2,\), the graph has 1 edges; give \(1,\)$"):
        ops.typed_comparison(structure_of([3], [(0, 1, 0)]), *comparison)
    with pytest.raises(ValueError, match=r"the graph has 3 nodes and 2 edge types; .* = \(\(3, 4\), \(3,\), \(3, 2\)"):
        ops.typed_comparison(structure_of([3], [], 2), *comparison[:4])
    with pytest.raises(
        ValueError, match=r"^the graph has 2 nodes; keys have the shape \(3, 4\) .* \(nodes, dim\) floats$"
    ):
        ops.edge_dot(structure_of([2], []), comparison[0])


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_unknown_backend_and_inputs_of_two_types_or_devices_are_refused(operator):
    task = problem(operator, [3], 1.0)
    inputs = draw_inputs(0, task.shapes)
    with pytest.raises(ValueError, match="unknown backend 'fast'; the backends are auto, naive, "):
        task.run("fast")(*inputs)
    if operator in (*GRAPH_OPERATORS, "gru"):
        with pytest.raises(ValueError, match=r"torch.float32 on cpu, another input is torch.float64 on cpu; give all"):
            task.run("naive")(inputs[0].float(), *inputs[1:])
    if operator in GRAPH_OPERATORS:
        with pytest.raises(ValueError, match=r"the graph is on cpu, the features are on meta; move one with .to\(\)"):
            task.call(lambda x: x, [x.to("meta") for x in inputs], "auto")


def test_shapes_lengths_and_items_that_do_not_fit_reach_no_kernel():
    # In a process of its own: here jaxtyping would see some of them first.
    code = """
import torch
from relgrounding import ops
def refused(message, function, *arguments):
    try:
        function(*arguments)
    except ValueError as error:
        assert message in str(error), (message, str(error))
        print("refused")
item = torch.arange(20) // 5
fine = [torch.randn(20, 6), torch.randn(4, 5, 6), torch.randn(6), torch.randn(4, 5, 3), torch.tensor([5, 1, 3, 2])]
wrong = [(0, (20, 7)), (0, (19, 6)), (1, (4, 5, 7)), (1, (3, 5, 6)), (3, (4, 4, 3)), (4, (3,)), (4, (4, 1))]
for changed, shape in wrong:
    given = [x if i != changed else torch.ones(shape, dtype=x.dtype) for i, x in enumerate(fine)]
    refused("have shape", ops.additive_attention, *given, item)
empty = torch.tensor([1, 0, 1, 1])
refused("sentence 1 has length 0; lengths are 1 to 5", ops.additive_attention, *fine[:4], empty, item)
refused("lengths are torch.float32; give integers", ops.additive_attention, *fine[:4], fine[4].float(), item)
refused("items are torch.float64; give integers", ops.additive_attention, *fine, item.double())
refused("proposal 0 belongs to item 4; there are 4, counted from 0", ops.additive_attention, *fine, item + 4)
clips = torch.zeros(1, 8, 1)
for span in ([2, 2], [-1, 2], [3, 9]):
    spans = torch.tensor([[0, 1], span])
    refused(f"proposal 1 is the span {span}; spans are", ops.window_max, clips, spans, torch.tensor([0, 0]))
refused("proposal 0 belongs to item 1; there are 1", ops.window_max, clips, torch.tensor([[0, 1]]), torch.tensor([1]))
weights = [torch.zeros(12, 3), torch.zeros(12, 4), torch.zeros(12), torch.zeros(12)] * 2
x = torch.zeros(2, 5, 3)
for wrong in (0, 6):
    refused(f"sequence 1 has length {wrong}; lengths are 1 to 5", ops.gru, x, torch.tensor([2, wrong]), weights)
refused("weights have shape (12, 3); beside", ops.gru, x[..., :2], torch.tensor([2, 1]), weights)
refused("lengths have shape (3,); beside", ops.gru, x, torch.tensor([2, 1, 1]), weights)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("refused") == 19


def test_no_item_at_all():
    nothing = torch.zeros(0, dtype=torch.int64)
    a, b, w, s = (torch.zeros(shape) for shape in [(0, 4), (0, 5, 4), (4,), (0, 5, 6)])
    for backend in ops.backend_names("additive_attention"):
        results = ops.additive_attention(a, b, w, s, nothing, nothing, backend)
        assert [x.shape for x in results] == [(0, 6), (0, 5)]
    assert ops.window_max(torch.zeros(2, 3, 4), torch.zeros(0, 2).long(), nothing).shape == (0, 4)
    weights = [torch.zeros(12, 3), torch.zeros(12, 4), torch.zeros(12), torch.zeros(12)] * 2
    assert ops.gru(torch.zeros(0, 5, 3), nothing, weights).shape == (0, 5, 8)
    assert as_list(torch.zeros(1)) == [torch.zeros(1)]
