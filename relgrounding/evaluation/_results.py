"""Entries of results.json and the table made from them."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from relgrounding._files import replacing

_HEADING = ("dataset", "split", "protocol", "queries")
# One column per kind is readable for the two kinds of the generated scenes, not for the 80 categories of RefCOCO.
_MAX_KINDS = 4


def make_entry(
    *,
    dataset: str,
    protocol: str,
    split: str,
    model: str,
    queries: int,
    metrics: Mapping[str, float],
    floors: Mapping[str, Mapping[str, float]],
    oracle: Mapping[str, float],
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """Return an entry of results.json: a result with the floors and the oracle to read it against.

    Args:
        dataset: its name.
        protocol: queries and reading of the targets or selection method, `"official, select=vote"`.
        split: its name.
        model: its name.
        queries: number of scored queries, >= 1.
        metrics: percentages of the model by metric name.
        floors: the same metrics of each query-agnostic floor, by its name.
        oracle: the same metrics of the best proposals.
        seed: of the run.
        seconds: duration of the evaluation.

    Raises:
        ValueError: no queries, no floors, or a metric that a floor or the oracle lacks.
    """
    if queries < 1:
        raise ValueError(f"{dataset} {split}: {queries} queries; a result needs at least one")
    if not floors:
        raise ValueError(f"{dataset} {split}: no floors; a result without them cannot be judged")
    for name, values in {**floors, "oracle": oracle}.items():
        missing = [metric for metric in metrics if metric not in values]
        if missing:
            raise ValueError(f"{dataset} {split}: {name} lacks {', '.join(missing)}; score it with the same evaluator")
    return {
        "dataset": dataset,
        "protocol": protocol,
        "split": split,
        "model": model,
        "queries": queries,
        "metrics": dict(metrics),
        "floors": {name: dict(values) for name, values in floors.items()},
        "oracle": dict(oracle),
        "seed": seed,
        "seconds": seconds,
    }


def format_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown tables with the floors above and the oracle below the results.

    A line above each table names data set, split, protocol and number of queries: as columns they would make the table
    of moments too wide for a terminal. Entries with the same data, floors and oracle share a table. Accuracies by kind
    are shown if there are at most four kinds. A floor above the oracle is explained below the tables.

    Args:
        entries: as returned by `make_entry`.

    Raises:
        ValueError: no entries.
    """
    if not entries:
        raise ValueError("no entries: there is nothing to put into a table; evaluate at least one split")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        shared = [[entry[name] for name in _HEADING], _columns(entry["metrics"]), entry["floors"], entry["oracle"]]
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(entry)
    notes = dict.fromkeys(filter(None, (above_oracle(group[0]) for group in groups.values())))
    return "\n\n".join([*(_table(group) for group in groups.values()), *notes])


def above_oracle(entry: Mapping[str, Any]) -> str:
    """Return a sentence about floors that score above the oracle, or an empty text where none does.

    The oracle selects among the candidates of the model, but a floor such as a constant segment may answer anything.

    Args:
        entry: as returned by `make_entry`.
    """
    oracle, columns = entry["oracle"], _columns(entry["metrics"])
    found = {
        name: [m for m in columns if round(values[m], 1) > round(oracle[m], 1)]
        for name, values in entry["floors"].items()
    }
    parts = [f"{name} in {', '.join(metrics)}" for name, metrics in found.items() if metrics]
    if not parts:
        return ""
    return (
        f"Above the oracle: {'; '.join(parts)}. The oracle takes the best candidate of the model, and such a floor is "
        "not limited to the candidates. Candidates that fit the right answers better would raise the oracle."
    )


def write_results(path: str | os.PathLike[str], entries: Sequence[Mapping[str, Any]]) -> None:
    """Write results.json atomically."""
    with replacing(Path(path)) as beside:
        beside.write_text(json.dumps(list(entries), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_results(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the entries that `write_results` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        if not isinstance(entries, list):
            raise TypeError("not a list of entries")
        for entry in entries:
            sides = entry["metrics"], entry["oracle"], *entry["floors"].values()
            if not all(isinstance(entry[name], str) for name in ("split", "protocol")):
                raise TypeError("split and protocol are text")
            if not all(map(_is_finite, (values[metric] for values in sides for metric in entry["metrics"]))):
                raise TypeError("metrics are finite numbers, and floors and oracle have them all")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path} is damaged ({reason}); repeat it with relgrounding evaluate --write") from None
    return entries


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _columns(metrics: Iterable[str]) -> tuple[str, ...]:
    metrics = tuple(metrics)
    kinds = [name for name in metrics if ",kind=" in name]
    return tuple(name for name in metrics if name not in kinds or len(kinds) <= _MAX_KINDS)


def _table(entries: Sequence[Mapping[str, Any]]) -> str:
    first, metrics = entries[0], _columns(entries[0]["metrics"])
    rows = [(f"floor: {name}", values) for name, values in first["floors"].items()]
    rows += [(f"**{entry['model']}** (seed {entry['seed']})", entry["metrics"]) for entry in entries]
    rows += [("oracle", first["oracle"])]
    caption = f'{first["dataset"]}, split {first["split"]}, protocol "{first["protocol"]}", {first["queries"]} queries:'
    table = tabulate(
        [[name, *(f"{values[metric]:.1f}" for metric in metrics)] for name, values in rows],
        headers=["answer", *metrics],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * len(metrics)],
    )
    return f"{caption}\n\n{table}"
