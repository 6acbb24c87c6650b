"""The goals of these kernels against a run's rows: one line each, with the figures."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.cases import HEADLINE
from benchmarks.measure import Row

OURS = "ours.auto"


@dataclass(frozen=True)
class Ratio:
    """A time against another one in the same case; `least`: how many times faster, otherwise the most it may take."""

    case: str
    other: str
    bound: float
    least: bool


RATIOS = (
    Ratio(HEADLINE["attention"], "dgl.GATConv", 2.0, True),
    Ratio(HEADLINE["attention"], "pyg.GATConv", 6.0, True),
    Ratio(HEADLINE["attention"], "limit.linear", 1.6, False),
    Ratio(HEADLINE["gated"], "pyg.RGCNConv", 10.0, True),
    Ratio(HEADLINE["gated"], "dgl.RelGraphConv", 60.0, True),
    Ratio(HEADLINE["gated"], "limit.linear", 1.7, False),
    Ratio(HEADLINE["edge_gated"], "limit.linear", 1.6, False),
)
# Strictest reading of the last one: the three maps as one product.
FOR_COMPARISON = (Ratio(HEADLINE["edge_gated"], "limit.linear at once", 1.6, False),)
SCALING_BOUND = 1.3
CHOICE_BOUND = 1.25
MILLION = 1_000_000


def lines(rows: list[Row]) -> list[str]:
    """Pass, FAIL or not measured, for each goal."""
    found = {(row.case, row.provider): row for row in rows if row.ok}
    compared = [_ratio(ratio, found) for ratio in RATIOS]
    compared += [f"(for comparison) {_ratio(ratio, found)}" for ratio in FOR_COMPARISON]
    return [*compared, *_memory(rows), *_scaling(rows), _million(rows), *_choice(rows)]


def memory_limit(row: Row) -> int:
    """4 times the bytes of the node features and 16 bytes an edge and head, and the weights' gradients.

    Those have the size of the weights, whatever the graph: a layer on ten nodes cannot do without them.
    """
    itemsize = 4 if row.dtype == "float32" else 8 if row.dtype == "float64" else 2
    return 4 * row.nodes * row.in_dim * itemsize + 16 * row.edges * row.heads + row.weight_bytes


def _verdict(passed: bool) -> str:
    return "pass" if passed else "FAIL"


def _ratio(ratio: Ratio, found: dict[tuple[str, str], Row]) -> str:
    ours, other = found.get((ratio.case, OURS)), found.get((ratio.case, ratio.other))
    if ours is None or other is None or not ours.both_p50 or not other.both_p50:
        return f"not measured: {ratio.case}, {OURS} against {ratio.other}"
    figures = f"{ratio.case}: {OURS} {ours.both_p50:.2f} ms, {ratio.other} {other.both_p50:.2f} ms"
    value = ours.both_p50 / other.both_p50
    # Where other programs disturb the run, the fastest calls are the ones that say most.
    fastest = (ours.both_least or 0) / (other.both_least or 1)
    if ratio.least:
        return (
            f"{_verdict(1 / value >= ratio.bound)}: {figures}: {1 / value:.2f} times faster, goal {ratio.bound:g} "
            f"(by the fastest calls {1 / max(fastest, 1e-9):.2f})"
        )
    return (
        f"{_verdict(value <= ratio.bound)}: {figures}: {value:.2f} times its time, goal at most {ratio.bound:g} "
        f"(by the fastest calls {fastest:.2f})"
    )


def _memory(rows: list[Row]) -> Iterable[str]:
    measured = [row for row in rows if row.ok and row.provider == OURS and row.peak is not None]
    if not measured:
        yield "not measured: peak memory"
        return
    share = {row.case: (row.peak or 0) / memory_limit(row) for row in measured}
    over = [row for row in measured if share[row.case] >= 1]
    worst = max(measured, key=lambda row: share[row.case])
    yield (
        f"{_verdict(not over)}: peak extra memory below the limit in {len(measured) - len(over)} of {len(measured)} "
        f"cases; closest: {_sizes(worst)}"
    )
    for row in over:
        if row is not worst:
            yield f"  over the limit: {_sizes(row)}"


def _sizes(row: Row) -> str:
    return f"{row.case} {(row.peak or 0) / 1e6:.2f} MB of {memory_limit(row) / 1e6:.2f} MB"


def in_scaling(row: Row) -> bool:
    """Whether the cost per edge of this row is compared with that of other sizes."""
    return row.provider == OURS and row.series == "scaling" and 10 <= row.items <= 10_000


def _scaling(rows: list[Row]) -> Iterable[str]:
    for layer in ("attention", "gated"):
        cost = {
            row.items: 1e6 * row.sizes_p50 / row.edges
            for row in rows
            if row.layer == layer and in_scaling(row) and row.sizes_p50 is not None
        }
        if min(cost, default=0) != 10 or max(cost) != 10_000:
            yield f"not measured: cost per edge of {layer} from 10 to 10,000 items"
            continue
        worst = max(cost, key=lambda items: cost[items])
        value = cost[worst] / min(cost.values())
        figures = ", ".join(f"{items:,}: {ns:.1f}" for items, ns in cost.items())
        yield (
            f"{_verdict(value <= SCALING_BOUND)}: {layer}, nanoseconds an edge by items, all in turns: {figures}; "
            f"the worst is {value:.2f} of the best, goal at most {SCALING_BOUND}"
        )


def _million(rows: list[Row]) -> str:
    large = [row for row in rows if row.provider == "ours.csr" and row.nodes >= MILLION]
    if not large:
        return "not measured: a million nodes in ours.csr"
    done = [row for row in large if row.ok]
    best = max(done or large, key=lambda row: row.nodes)
    peak = f", peak extra memory {best.peak / 1e9:.2f} GB" if best.peak else ""
    return f"{_verdict(bool(done))}: {best.case}, {best.nodes:,} nodes in ours.csr: {best.status}{peak}"


def _choice(rows: list[Row]) -> Iterable[str]:
    """Where the library's own choice takes longer than its best backend, counting noise as a wrong choice."""
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.ok and row.provider.startswith("ours.") and row.both_p50:
            times[row.case][row.provider] = row.both_p50
    compared = {case: of for case, of in times.items() if OURS in of and len(of) > 1}
    if not compared:
        yield f"not measured: {OURS} against each backend"
        return
    wrong = {case: of for case, of in compared.items() if of[OURS] > CHOICE_BOUND * min(of.values())}
    yield (
        f"{_verdict(not wrong)}: {OURS} within {CHOICE_BOUND} of the best backend in {len(compared) - len(wrong)} of "
        f"{len(compared)} cases"
    )
    for case, of in wrong.items():
        best = min(of, key=lambda provider: of[provider])
        yield f"  {case}: {OURS} {of[OURS]:.2f} ms, {best} {of[best]:.2f} ms"
