"""The goals of these kernels against a run's rows: one line each, with the figures."""

from collections import defaultdict
from collections.abc import Iterable

import torch

from benchmarks.cases import HEADLINE
from benchmarks.measure import Row

OURS = "ours.auto"
# Headline case, the other provider, how many times faster ours is to be.
FASTER = (
    ("attention", "dgl.GATConv", 2.3),
    ("attention", "pyg.GATConv", 7.0),
    ("attention", "pyg.GATConv compiled", 2.2),
    ("gated", "pyg.RGCNConv", 12.0),
    ("gated", "dgl.RelGraphConv", 60.0),
)
# The most that ours may take, as a multiple of the other. The last one is for comparison: the strictest reading of the
# one before, with the three maps as one product.
AT_MOST = (
    ("attention", "limit.linear", 1.6),
    ("gated", "limit.linear", 1.4),
    ("edge_gated", "limit.linear", 1.25),
    ("comparison", "EdgeGatedGCN", 1.3),
    ("edge_gated", "limit.linear at once", 1.25),
)
SCALING_BOUND = 1.3
CHOICE_BOUND = 1.25
MILLION = 1_000_000


def lines(rows: list[Row]) -> list[str]:
    """Pass, FAIL or not measured, for each goal."""
    found = {(row.case, row.provider): row for row in rows if row.ok and row.both}
    compared = [_ratio(found, HEADLINE[layer], other, least=bound) for layer, other, bound in FASTER]
    compared += [_ratio(found, HEADLINE[layer], other, most=bound) for layer, other, bound in AT_MOST]
    compared[-1] = f"(for comparison) {compared[-1]}"
    return [*compared, *_memory(rows), *_scaling(rows), _million(rows), *_choice(rows)]


def memory_limit(row: Row) -> int:
    """4 times the bytes of the node features and 16 bytes per edge and head, and the weights' gradients.

    The comparison, which has a layer of maps behind its messages, has 8 times those bytes.

    Those have the size of the weights, whatever the graph: a layer on ten nodes cannot do without them.
    """
    itemsize = getattr(torch, row.dtype).itemsize
    tables = 8 if row.layer == "comparison" else 4
    return tables * row.nodes * row.in_dim * itemsize + 16 * row.edges * row.heads + row.weight_bytes


def _verdict(passed: bool) -> str:
    return "pass" if passed else "FAIL"


def _ratio(
    found: dict[tuple[str, str], Row], case: str, name: str, least: float | None = None, most: float = torch.inf
) -> str:
    ours, other = (found[case, key].both if (case, key) in found else None for key in (OURS, name))
    if ours is None or other is None:
        return f"not measured: {case}, {OURS} against {name}"
    figures = f"{case}: {OURS} {ours.p50:.2f} ms, {name} {other.p50:.2f} ms"
    # Where other programs disturb the run, the fastest calls are the ones that say most.
    value, fastest = ours.p50 / other.p50, max(ours.least, 1e-9) / max(other.least, 1e-9)
    if least is None:
        goal, passed = f"{value:.2f} times its time, goal at most {most:g}", value <= most
    else:
        goal, passed, fastest = f"{1 / value:.2f} times faster, goal {least:g}", 1 / value >= least, 1 / fastest
    return f"{_verdict(passed)}: {figures}: {goal} (by the fastest calls {fastest:.2f})"


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
    yield from (f"  over the limit: {_sizes(row)}" for row in over if row is not worst)


def _sizes(row: Row) -> str:
    return f"{row.case} {(row.peak or 0) / 1e6:.2f} MB of {memory_limit(row) / 1e6:.2f} MB"


def in_scaling(row: Row) -> bool:
    """Whether the cost per edge of this row is compared with that of other sizes."""
    return row.ok and row.provider == OURS and row.series == "scaling" and 10 <= row.items <= 10_000


def _scaling(rows: list[Row]) -> Iterable[str]:
    for layer in ("attention", "gated"):
        compared = [row for row in rows if row.layer == layer and in_scaling(row)]
        cost = {row.items: 1e6 * row.sizes.p50 / row.edges for row in compared if row.sizes}
        if min(cost, default=0) != 10 or max(cost) != 10_000:
            yield f"not measured: cost per edge of {layer} from 10 to 10,000 items"
            continue
        value = max(cost.values()) / min(cost.values())
        figures = ", ".join(f"{items:,}: {ns:.1f}" for items, ns in cost.items())
        yield (
            f"{_verdict(value <= SCALING_BOUND)}: {layer}, nanoseconds per edge by items, all in turns: {figures}; "
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
        if row.ok and row.provider.startswith("ours.") and row.both:
            times[row.case][row.provider] = row.both.p50
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
