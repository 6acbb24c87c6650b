"""Results as CSV and as Markdown."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path

from benchmarks.building import BuildRow
from benchmarks.criteria import memory_limit
from benchmarks.measure import Row

LEGEND = """\
Milliseconds are p50 (p20 to p80) of calls that took turns with all other providers of the table. *Forward*: as in
training. *Both*: forward and the gradients of the features and of all weights. *Fresh*: both on a batch of which
nothing is cached: the conversion to what the library calls a graph, and whatever it derives from it on first use.
*Maps*: both, as a multiple of the layer's linear maps alone. *Memory*: peak beyond what was in use before forward +
backward, results included, as PyTorch's allocator / as the system sees it; the limit is 4 x node features + 16 bytes an
edge and head + the weights' gradients. *Error*: largest difference from float64 over the largest value, of outputs and
gradients.
"""
MAPS = "limit.linear"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line a row."""
    _write(path, [asdict(row) for row in rows], Row.columns())


def write_build_csv(path: Path, rows: Sequence[BuildRow]) -> None:
    """One line a row."""
    _write(path, [asdict(row) for row in rows], [f.name for f in fields(BuildRow)])


def _write(path: Path, lines: list[dict], columns: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)


def markdown(
    title: str, facts: dict[str, str], rows: Sequence[Row], building: Sequence[BuildRow], criteria: Sequence[str]
) -> str:
    """The whole page."""
    parts = [f"# {title}", "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    if criteria:
        parts += ["## Goals", "\n".join(f"- {line.strip()}" for line in criteria)]
    if rows:
        parts += ["## Layers", LEGEND.strip()]
        parts += [case_table(list(of_case)) for _, of_case in groupby(rows, key=lambda row: row.case)]
    if building:
        parts += ["## Building and joining graphs", "Milliseconds, p50 (p20 to p80)."]
        parts += [build_table(list(of_batch)) for _, of_batch in groupby(building, key=lambda row: row.batch)]
    return "\n\n".join(parts) + "\n"


def case_table(rows: list[Row]) -> str:
    """One case; providers without a figure are listed below with the reason."""
    first = rows[0]
    heading = (
        f"### {first.case}\n\n{first.items:,} items, {first.nodes:,} nodes, {first.edges:,} edges, "
        f"{100 * first.density:.0f} % dense; {first.in_dim} -> "
        f"{f'{first.heads} x ' if first.layer == 'attention' else ''}{first.out_dim // first.heads}; "
        f"{first.dtype} on {first.device}; memory limit {memory_limit(first) / 1e6:.1f} MB"
    )
    maps = next((row.both_p50 for row in rows if row.provider == MAPS and row.ok), None)
    lines = [_line(row, maps) for row in sorted(rows, key=lambda row: row.both_p50 or 0) if row.ok]
    head = ("provider", "forward", "both", "fresh", "maps", "memory, MB", "error", "calls", "")
    table = _table(head, lines)
    without = [f"- {row.provider}: no figure, {row.status}" for row in rows if not row.ok]
    return "\n\n".join([heading, table, *(["\n".join(without)] if without else [])])


def build_table(rows: list[BuildRow]) -> str:
    """One batch."""
    lines = [
        (row.way, _times(row.p20, row.p50, row.p80) if row.p50 is not None else row.status, str(row.calls or ""))
        for row in rows
    ]
    return f"### {rows[0].batch}\n\n" + _table(("way", "time", "calls"), lines)


def _line(row: Row, maps: float | None) -> tuple[str, ...]:
    note = row.note
    if not row.same_function and not row.provider.startswith("limit."):
        note = f"different function: {note}"
    return (
        row.provider,
        _times(row.forward_p20, row.forward_p50, row.forward_p80),
        _times(row.both_p20, row.both_p50, row.both_p80),
        _times(row.fresh_p20, row.fresh_p50, row.fresh_p80),
        f"{row.both_p50 / maps:.2f}" if maps and row.both_p50 else "",
        _memory(row),
        "" if row.error is None else f"{row.error:.0e}",
        str(row.calls or ""),
        note,
    )


def _times(p20: float | None, p50: float | None, p80: float | None) -> str:
    return "" if p20 is None else f"{_short(p50)} ({_short(p20)} to {_short(p80)})"


def _short(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return ""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _memory(row: Row) -> str:
    if row.peak_allocator is None:
        return ""
    process = "" if row.peak_process is None else f" / {row.peak_process / 1e6:.1f}"
    return f"{row.peak_allocator / 1e6:.1f}{process}"


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = list(head)
    every = [head, ["---"] * len(head), *(list(line) for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)
