"""Results as CSV and as Markdown."""

import csv
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.criteria import memory_limit
from benchmarks.measure import Row
from benchmarks.timing import Quantiles

LEGEND = """\
Milliseconds are p50 (p20 to p80) of calls that took turns with all other providers of the table. *Forward*: as in
training. *Both*: forward and the gradients of the features and of all weights. *Fresh*: both on a batch of which
nothing is cached: the conversion to what the library calls a graph, and whatever it derives from it on first use.
*Maps*: both, as a multiple of the layer's linear maps alone. *Memory*: peak beyond what was in use before forward +
backward, results included, as PyTorch's allocator / as the system sees it; the limit is 4 x node features + 16 bytes
per edge and head + the weights' gradients. *Error*: largest difference from float64 over the largest value, of outputs
and gradients."""
MAPS = "limit.linear"


def write_csv(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """One line per row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """A Markdown table of cells as they are."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def markdown(
    title: str, facts: dict[str, str], rows: Sequence[Row], building: Sequence[dict[str, Any]], criteria: Sequence[str]
) -> str:
    """The whole page."""
    parts = [f"# {title}", "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    parts += ["## Goals", "\n".join(f"- {line.strip()}" for line in criteria), "## Layers", LEGEND]
    parts += [case_table(list(of_case)) for _, of_case in groupby(rows, key=lambda row: row.case)]
    if building:
        parts += ["## Building and joining graphs", "Milliseconds, p50 (p20 to p80)."]
        parts += [build_table(list(of_batch)) for _, of_batch in groupby(building, key=lambda row: row["batch"])]
    return "\n\n".join(parts) + "\n"


def case_table(rows: list[Row]) -> str:
    """One case; providers without a figure are listed below with the reason."""
    first = rows[0]
    heads = f"{first.heads} x " if first.layer == "attention" else ""
    heading = (
        f"### {first.case}\n\n{first.items:,} items, {first.nodes:,} nodes, {first.edges:,} edges, "
        f"{100 * first.density:.0f} % dense; {first.in_dim} -> {heads}{first.out_dim // first.heads}; "
        f"{first.dtype} on {first.device}; memory limit {memory_limit(first) / 1e6:.1f} MB"
    )
    good = sorted((row for row in rows if row.ok), key=lambda row: row.both.p50 if row.both else 0)
    maps = next((row.both.p50 for row in good if row.provider == MAPS and row.both), None)
    headers = ("provider", "forward", "both", "fresh", "maps", "memory, MB", "error", "calls", "")
    without = [f"- {row.provider}: no figure, {row.status}" for row in rows if not row.ok]
    return "\n\n".join([heading, table([_line(row, maps) for row in good], headers), "\n".join(without)]).rstrip()


def build_table(rows: list[dict[str, Any]]) -> str:
    """One batch."""
    lines = [(row["way"], _range(row) if row["calls"] else row["status"], str(row["calls"] or "")) for row in rows]
    return f"### {rows[0]['batch']}\n\n" + table(lines, ("way", "time", "calls"))


def _line(row: Row, maps: float | None) -> tuple[str, ...]:
    different = not row.same_function and not row.provider.startswith("limit.")
    process = "" if row.peak_process is None else f" / {row.peak_process / 1e6:.1f}"
    return (
        row.provider,
        *(_times(times) for times in (row.forward, row.both, row.fresh)),
        f"{row.both.p50 / maps:.2f}" if maps and row.both else "",
        "" if row.peak_allocator is None else f"{row.peak_allocator / 1e6:.1f}{process}",
        "" if row.error is None else f"{row.error:.0e}",
        str(row.calls or ""),
        f"different function: {row.note}" if different else row.note,
    )


def _times(times: Quantiles | None) -> str:
    return "" if times is None else _range(vars(times))


def _range(times: Mapping[str, Any]) -> str:
    return f"{_short(times['p50'])} ({_short(times['p20'])} to {_short(times['p80'])})"


def _short(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
