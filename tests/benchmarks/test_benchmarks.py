from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from benchmarks import cases, criteria, providers, timing
from benchmarks import measure as measure_module
from benchmarks.cases import Case
from benchmarks.functions import FUNCTIONS, draw_weights
from benchmarks.gate import Problem, check, reduced
from benchmarks.graph_building import KINDS, right_ways, ways
from benchmarks.graph_specs import denser_images, denser_videos, images, videos
from benchmarks.measure import Row, Settings, measure, time_sizes, weigh
from benchmarks.memory import allocated, peak_memory
from benchmarks.report import case_table
from benchmarks.timing import Quantiles, interleaved
from relgrounding import graphs, ops

CPU = torch.device("cpu")
WINDOWS = partial(graphs.window_proposals, widths=(2, 4, 8), stride=1)
TINY = {
    "attention": Case("attention", "tiny", videos(3, (12, 16), WINDOWS), in_dim=12, dim=4, heads=2),
    "gated": Case("gated", "tiny", images(3, 6), in_dim=8, dim=6),
    "edge_gated": Case("edge_gated", "tiny", images(3, 6), in_dim=8, dim=6),
    "comparison": Case("comparison", "tiny", images(3, 6), in_dim=8, dim=6),
}
# Compiling a layer takes half a minute: one of them is enough.
COMPILED = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
EVERY = [
    pytest.param(p, id=f"{layer}-{name}", marks=COMPILED if name.endswith("compiled") else [])
    for (layer, name), p in providers.registry().items()
    if p.function and not name.startswith("pyg.RGCNConv c")
]


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    return {layer: Problem(case, case.graph.structure(), torch.float32) for layer, case in TINY.items()}


@pytest.mark.parametrize("provider", EVERY)
def test_every_provider_passes_the_gate(provider, problems):
    reason = provider.reason(CPU, torch.float32)
    if reason is not None:
        pytest.skip(reason)
    verdict = check(provider, problems[provider.layer], CPU)
    assert verdict.passed, str(verdict)
    assert verdict.items == 3


class _Wrong(torch.nn.Module):
    def __init__(self, right, spoil):
        super().__init__()
        self.right, self.spoil = right, spoil

    def forward(self, graph, x):
        return self.spoil(self.right(graph, x))

    def __getattr__(self, name):
        return super().__getattr__(name) if name in ("right", "spoil") else getattr(self.right, name)


class _HalvedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


def _one_value_off(out):
    return out + torch.zeros_like(out).index_fill(0, torch.tensor([2]), 1e-2)


SPOILS = {
    "value": (_one_value_off, "output"),
    "gradient": (_HalvedGradient.apply, "gradient of"),
    "not a number": (lambda out: out * torch.nan, ""),
    "shape": (lambda out: out[..., :1], "output"),
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("layer", TINY)
def test_the_gate_rejects_what_is_wrong(layer, spoil, problems):
    function, where = SPOILS[spoil]
    provider = providers.registry()[layer, "torch.edgewise"]
    problem = problems[layer]
    right = provider.build(TINY[layer], problem.answer(layer).weights, CPU, torch.float32)
    assert check(provider, problem, CPU, right).passed
    verdict = check(provider, problem, CPU, _Wrong(right, function))
    assert not verdict.passed
    assert where in verdict.where


def test_one_wrong_weight_gradient_is_found(problems):
    provider = providers.registry()["gated", "torch.edgewise"]
    module = provider.build(TINY["gated"], problems["gated"].answer("gated").weights, CPU, torch.float32)
    module.type_bias.register_hook(lambda gradient: gradient * 1.01)
    verdict = check(provider, problems["gated"], CPU, module)
    assert not verdict.passed
    assert verdict.where == "gradient of type_bias"


def test_the_gate_does_not_blame_a_provider_for_the_side_of_a_bend_that_rounding_chose(problems):
    # Logits of float32 that differ from 0 by their rounding only: half of them lie on the other side in float64.
    case = TINY["attention"]
    problem = Problem(case, case.graph.structure(), torch.float32)
    weights = dict(problem.answer("attention").weights)
    weights["att_src"] = torch.full_like(weights["att_src"], 1e-9)
    weights["att_dst"] = -weights["att_src"]
    assert all(not gradient.any() for gradient in problem.solve("attention", weights).above)
    assert all(gradient.bool().float().mean() > 0.9 for gradient in problem.answer("attention").above)


def test_what_peers_compute_is_not_called_ours():
    layers = [p for p in providers.registry().values() if not p.name.startswith("limit.")]
    different = {p.name for p in layers if not p.same_function}
    assert different == {
        "EdgeGatedGCN",
        "dgl.RelGraphConv",
        "dgl.RelGraphConv presorted",
        "pyg.RGCNConv",
        "pyg.RGCNConv compiled",
        "pyg.RGATConv",
    }


def test_a_wrong_provider_gets_no_figure_and_the_others_theirs(monkeypatch):
    every = providers.select("gated", ["torch.padded", "limit.linear"])
    monkeypatch.setattr(type(every[0].layer_of(TINY["gated"])), "forward", lambda self, graph, x: self.linear(x))
    settings = Settings(CPU, repeats=1, seconds=0.0)
    rows = measure(TINY["gated"], every, settings)
    weigh(TINY["gated"], every, rows, settings)
    by_name = {row.provider: row for row in rows}
    wrong, right = by_name["torch.padded"], by_name["limit.linear"]
    assert wrong.status.startswith("wrong: ")
    assert (wrong.forward, wrong.both, wrong.fresh, wrong.peak) == (None, None, None, None)
    assert right.ok
    assert min(right.forward.p50, right.both.p50, right.fresh.p50, right.peak) > 0
    assert "torch.padded: no figure, wrong" in case_table(rows)


def test_what_would_take_too_much_memory_is_not_started():
    settings = Settings(CPU, repeats=1, max_memory=1000)
    rows = measure(TINY["gated"], providers.select("gated", ["pyg.RGATConv"]), settings)
    assert [row.status.split(":")[0] for row in rows] in (["not started"], ["cannot run"])


def test_quantiles_interpolate():
    assert Quantiles.of([5.0, 1.0, 2.0, 3.0, 4.0, 0.0]) == Quantiles(0.0, 1.0, 2.5, 4.0, 6)
    assert Quantiles.of([7.0]) == Quantiles(7.0, 7.0, 7.0, 7.0, 1)


def test_contestants_take_turns():
    calls = []
    contestants = {name: {"both": lambda name=name: calls.append(name)} for name in "abc"}
    times = interleaved(contestants, CPU, repeats=3, seconds=60, calls=1)
    # One call that is not counted, one that is; each turn begins with the next.
    assert "".join(calls) == "aabbccbbccaaccaabb"
    assert all(len(times[name]["both"]) == 3 for name in "abc")


def test_slow_contestants_leave_and_the_others_get_their_turns(monkeypatch):
    clock, calls = [0.0], {name: 0 for name in ("slow", "a", "b", "c", "d", "e")}
    now = SimpleNamespace(perf_counter=lambda: clock[0], perf_counter_ns=lambda: round(clock[0] * 1e9))
    monkeypatch.setattr(timing, "time", now)

    def call(name):
        calls[name] += 1
        clock[0] += 4.0 if name == "slow" else 0.01

    contestants = {name: {"both": lambda name=name: call(name)} for name in calls}
    times = interleaved(contestants, CPU, repeats=5, seconds=30.0)
    # A call that is not counted and, where it was slow, one that is; two in each turn of the others.
    assert calls == {"slow": 2} | dict.fromkeys("abcde", 15)
    assert [len(times[name]["both"]) for name in calls] == [1, 10, 10, 10, 10, 10]


def test_memory_of_a_known_allocation():
    def function():
        first = torch.ones(3_000_000)
        second = first + 1
        del first
        return second, torch.ones(1_000_000)

    memory = peak_memory(function, CPU)
    assert memory.allocator == pytest.approx(24e6, rel=0.01)
    assert allocated(function)[1] == pytest.approx(16e6, rel=0.01)
    if memory.process is not None:
        # Pages that malloc kept from other tests may serve, so the system may see less; not more than noise above.
        assert memory.process < 30e6


def test_memory_seen_by_the_allocator_includes_the_backward():
    x = torch.ones(1000, 1000, requires_grad=True)
    # x * x saves x only; its gradient and the product exist together.
    assert allocated(lambda: torch.autograd.grad((x * x).sum(), x))[0] >= 8e6


@pytest.mark.parametrize(
    ("batch_of", "density"), [(denser_videos, 0.1), (denser_videos, 1.0), (partial(denser_images, regions=20), 0.3)]
)
def test_graphs_of_the_density_series_are_as_dense_as_they_say(batch_of, density):
    assert cases.density(batch_of(2, density=density).structure()) == pytest.approx(density, rel=0.06)


def test_headline_cases_are_those_of_the_goals():
    every = cases.registry()
    attention = replace(every[cases.HEADLINE["attention"]].graph, batch_size=1).structure()
    assert attention.num_nodes == 136
    assert cases.density(attention) == pytest.approx(0.13, abs=0.005)
    for layer in ("gated", "edge_gated", "comparison"):
        structure = every[cases.HEADLINE[layer]].graph.structure()
        assert structure.num_nodes == 1600
        assert cases.density(structure) == pytest.approx(0.9, abs=0.03)
    assert every.keys() >= cases.CORE


def test_a_batch_larger_than_the_distinct_items_repeats_them():
    structure = images(70, 4).structure()
    assert structure.batch_size == 70
    assert torch.equal(structure.select(torch.arange(64, 70)).indices, structure.select(torch.arange(6)).indices)


def test_the_gate_works_on_fewer_items_where_all_would_take_too_long():
    case = cases.registry()["gated/regions50/b256"]
    structure = images(256, 50).structure()
    assert 1 <= reduced(structure, case).batch_size < 256
    assert reduced(structure.select(torch.arange(8)), case).batch_size == 8


@pytest.mark.parametrize(
    ("name", "batch"),
    [("64 images x 50 regions", images(3, 5)), ("64 videos x 136 windows", videos(2, (12,), WINDOWS))],
    ids=["images", "videos"],
)
def test_all_ways_to_build_give_the_same_edges(name, batch):
    everything = ways(replace(KINDS[name], batch=batch))
    assert right_ways(batch.structure(), everything).keys() == everything.keys()


def test_a_way_with_other_edges_is_found():
    structure = images(3, 5).structure()
    ways = {"right": lambda: structure, "wrong": structure.reverse}
    assert right_ways(structure, ways).keys() == {"right"}


def _row(case: str, provider: str, both: float) -> Row:
    sizes = {"items": 32, "nodes": 10, "edges": 100, "density": 1.0, "in_dim": 8, "out_dim": 8, "heads": 1}
    names = {"case": case, "series": "batch", "layer": "gated", "provider": provider, "status": "ok"}
    row = Row(**names, same_function=True, note="", **sizes, device="cpu", dtype="float32")
    row.both = Quantiles(both, both, both, both, 1)
    row.peak = 10
    return row


def test_goals_pass_and_fail_by_the_figures():
    case = cases.HEADLINE["gated"]
    rows = [_row(case, "ours.auto", 2.0), _row(case, "pyg.RGCNConv", 30.0), _row(case, "limit.linear", 1.0)]
    lines = criteria.lines(rows)
    assert any(line.startswith("pass") and "pyg.RGCNConv" in line and "15.00 times faster" in line for line in lines)
    assert any(line.startswith("FAIL") and "limit.linear" in line and "2.00 times its time" in line for line in lines)
    assert any(line.startswith("not measured") and "dgl.RelGraphConv" in line for line in lines)


def test_memory_over_the_limit_fails_whatever_the_times():
    row = _row("gated/x/b1", "ours.auto", 1.0)
    row.peak = criteria.memory_limit(row)
    assert any(line.startswith("FAIL: peak extra memory below the limit in 0 of 1") for line in criteria.lines([row]))


def test_a_slow_choice_of_backend_fails():
    rows = [_row("gated/x/b1", name, both) for name, both in (("ours.auto", 1.3), ("ours.dense", 1.0))]
    assert any(line.startswith("FAIL: ours.auto within 1.25") for line in criteria.lines(rows))


@pytest.mark.parametrize(("small", "verdict"), [(0.012, "pass"), (0.014, "FAIL")])
def test_cost_per_edge_is_compared_over_the_sizes_that_took_turns(small, verdict):
    rows = [_row(f"gated/scaling/b{items}", "ours.auto", 100.0) for items in (10, 1000, 10_000, 20_000)]
    for row, milliseconds in zip(rows, (small, 0.01, 0.0105, 9.0), strict=True):
        row.series, row.items = "scaling", int(row.case.split("/b")[1])
        row.sizes = replace(row.both, p50=milliseconds)
    line = next(line for line in criteria.lines(rows) if "nanoseconds per edge" in line)
    assert line.startswith(f"{verdict}: gated, ")
    assert f"the worst is {small / 0.01:.2f} of the best" in line
    rows[2].sizes = None
    assert "not measured: cost per edge of gated from 10 to 10,000 items" in criteria.lines(rows)


def test_sizes_take_turns(monkeypatch):
    names = ["gated/scaling/b10", "gated/scaling/b30"]
    settings, chosen = Settings(CPU, repeats=2), [cases.registry()[name] for name in names]
    (provider,) = providers.select("gated", ["ours.auto"])
    pairs = [(case, measure(case, [provider], settings)[0]) for case in chosen]
    order, times = [], iter(range(1, 13))

    def timed(function, device):
        order.append(function.__self__.row.case)
        return float(next(times))

    monkeypatch.setattr(measure_module, "milliseconds", timed)
    monkeypatch.setattr(measure_module, "SIZE_SECONDS", 0.0)
    time_sizes(pairs, provider, settings)
    assert order == ([names[0]] * 3 + [names[1]] * 3) * 2
    # Calls 1 to 3 and 7 to 9 of the first, 4 to 6 and 10 to 12 of the second.
    assert [row.sizes.p50 for _, row in pairs] == [5.0, 8.0]
    assert [row.sizes.least for _, row in pairs] == [1.0, 4.0]


def test_every_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.plots import draw

    rows = [_row(case, p.name, 2.0) for layer, case in cases.HEADLINE.items() for p in providers.select(layer)]
    for series in ("density", "scaling", "batch"):
        # As many of one library as there are backends: each has a style of its own.
        for scale, backend in product((1, 2), ("auto", *ops.available_backends())):
            row = _row("gated/x/b1", f"ours.{backend}", 2.0 * scale)
            row.series, row.nodes, row.density = series, 10 * scale, 0.1 * scale
            rows.append(row)
    names = {path.name for path in draw(rows, tmp_path)}
    figures = ("density", "size", "batch")
    assert names == {"memory.png", *(f"speed_against_{figure}.png" for figure in figures)}
    assert all((tmp_path / name).stat().st_size > 5000 for name in names)


def test_unknown_names_are_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="no case matches 'nothing'; the cases are attention/"):
        cases.select(["nothing"], core=True)
    with pytest.raises(ValueError, match=r"no provider matches 'nothing'; the providers are ours\.auto"):
        providers.select("gated", ["nothing"])


def test_weights_are_exact_in_the_type_that_is_timed():
    for name, function in FUNCTIONS.items():
        case = TINY["attention" if name == "attention" else "gated"]
        for value in draw_weights(function, case, torch.bfloat16).values():
            assert torch.equal(value.bfloat16().double(), value)
